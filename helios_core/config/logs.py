"""How log lines look, ours and those of the libraries alike."""

import logging
import sys
from typing import Any, TextIO

import structlog

from helios_core.config.settings import LogFormat, LogLevel

_CHATTY = ("asyncio", "httpx", "httpcore", "uvicorn.access", "uvicorn.error", "aiosqlite")


def configure_logging(level: LogLevel, log_format: LogFormat, *, to: TextIO | None = None) -> None:
    """Write log lines of that level and above, one line each, to standard output by default."""
    stream = to or sys.stdout
    severity = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    rendering = _rendering(log_format)
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(severity),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        )
    )
    logging.basicConfig(handlers=[handler], level=severity, force=True)
    # These speak of URLs, statements and values, which may hold what a log must not.
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(severity, logging.WARNING))


def _rendering(log_format: LogFormat) -> list[Any]:
    # Tracebacks come without the values of local variables: a resource may be among them.
    if log_format is LogFormat.CONSOLE:
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(exception_formatter=plain)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
