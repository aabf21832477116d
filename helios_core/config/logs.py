"""The format of log lines, for Helios and its libraries alike."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from traceback import format_tb
from typing import Any, TextIO, cast

import structlog

from helios_core.config.settings import LogFormat, LogLevel
from helios_core.storage.isolation import reason_for_log

_QUIET_LOGGERS = ("asyncio", "httpx", "httpcore", "uvicorn.access", "uvicorn.error", "aiosqlite")


def configure_logging(level: LogLevel, log_format: LogFormat, *, to: TextIO | None = None) -> None:
    """
    Log events of a level and above, one line each, by default to standard output.

    A line that cannot be written, because its reader has gone or the disk is full, is lost.
    """
    stream = to or sys.stdout
    log = cast("TextIO", _Unfailing(stream))
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
        logger_factory=structlog.WriteLoggerFactory(log),
    )
    handler = logging.StreamHandler(log)
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


class _Unfailing:
    """A stream whose faults are nobody's: what is logged has been done, and must not fail."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def _renderers(log_format: LogFormat, stream: TextIO) -> list[Any]:
    terminal = stream.isatty()
    if log_format is LogFormat.CONSOLE or (log_format is LogFormat.AUTO and terminal):
        colors = terminal and not os.environ.get("NO_COLOR")
        # Without padding, so that the lines at the start of a process fit a terminal.
        return [
            structlog.dev.ConsoleRenderer(
                colors=colors,
                exception_formatter=_write_traceback,
                pad_event_to=0,
                pad_level=False,
            )
        ]
    exceptions = structlog.processors.ExceptionRenderer(_traceback)
    return [exceptions, structlog.processors.JSONRenderer()]


def _write_traceback(to: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    to.write(f"\n{_traceback(exc_info)}\n")


def _traceback(exc_info: structlog.typing.ExcInfo) -> str:
    """
    Return where an exception and those behind it were raised, the first one at the beginning.

    Neither local variables nor the messages of libraries are in it, since both may quote a
    resource or a value.
    """
    return "\n".join(_lines_of(exc_info[1]))


def _lines_of(error: BaseException) -> Iterator[str]:
    behind = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if behind is not None:
        yield from _lines_of(behind)
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _lines_of(each)
    yield "Traceback (most recent call last):"
    yield "".join(format_tb(error.__traceback__)).rstrip("\n")
    reason = reason_for_log(error)
    yield f"{type(error).__name__}: {reason}" if reason else type(error).__name__
