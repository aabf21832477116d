"""The format of log lines, for Helios and its libraries alike."""

import logging
import os
import sys
from typing import Any, TextIO

import structlog

from helios_core.config.settings import LogFormat, LogLevel

_QUIET_LOGGERS = ("asyncio", "httpx", "httpcore", "uvicorn.access", "uvicorn.error", "aiosqlite")


def configure_logging(level: LogLevel, log_format: LogFormat, *, to: TextIO | None = None) -> None:
    """Log events of a level and above, one line each, by default to standard output."""
    stream = to or sys.stdout
    severity = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderers = _renderers(log_format, stream)
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(severity),
        logger_factory=structlog.WriteLoggerFactory(stream),
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        )
    )
    logging.basicConfig(handlers=[handler], level=severity, force=True)
    # These log URLs, statements and values, which may contain what must not be logged.
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(severity, logging.WARNING))


def _renderers(log_format: LogFormat, stream: TextIO) -> list[Any]:
    terminal = stream.isatty()
    if log_format is LogFormat.CONSOLE or (log_format is LogFormat.AUTO and terminal):
        # Tracebacks do not show the values of local variables, which may be resources.
        plain = structlog.dev.plain_traceback
        colors = terminal and not os.environ.get("NO_COLOR")
        # Without padding, so that the lines at the start of a process fit a terminal.
        return [
            structlog.dev.ConsoleRenderer(
                colors=colors, exception_formatter=plain, pad_event_to=0, pad_level=False
            )
        ]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
