"""How log lines look."""

import io
import json
import logging
from contextlib import suppress

import pytest
import structlog

from helios_core import BackendError
from helios_core.config import logs
from helios_core.config.settings import LogFormat, LogLevel


@pytest.fixture
def written():
    """Set logging up onto a stream, and put everything back afterwards."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    stream = io.StringIO()

    def setting_up(level=LogLevel.INFO, log_format=LogFormat.JSON):
        logs.configure_logging(level, log_format, to=stream)
        return stream

    yield setting_up
    structlog.reset_defaults()
    root.handlers[:], level = before
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object(written):
    stream = written()

    structlog.get_logger().info("shard.claimed", shard=3)

    (line,) = lines(stream)
    assert (line["event"], line["shard"], line["level"]) == ("shard.claimed", 3, "info")
    assert line["timestamp"].endswith("Z")


def test_a_logger_used_before_follows_what_is_set_up_later(written):
    logger = structlog.get_logger()
    written(LogLevel.ERROR)
    logger.error("before")
    structlog.reset_defaults()

    with structlog.testing.capture_logs() as captured:
        logger.info("after")

    assert [line["event"] for line in captured] == ["after"]


def test_lines_below_the_level_are_left_out(written):
    stream = written(LogLevel.WARNING)

    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    logging.getLogger("library").info("quiet too")

    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_lines_of_libraries_look_the_same(written):
    stream = written()

    logging.getLogger("library").warning("careful with %s", "that")

    (line,) = lines(stream)
    assert (line["event"], line["logger"]) == ("careful with that", "library")


def test_libraries_that_speak_of_requests_and_statements_are_quiet(written):
    stream = written(LogLevel.DEBUG)

    for name in ("httpx", "aiosqlite", "uvicorn.access"):
        logging.getLogger(name).info("GET /Patient?name=canary")

    assert stream.getvalue() == ""


def reading(resource):
    raise ValueError(f"{resource} is no number")


def failing(resource):
    try:
        reading(resource)
    except ValueError as error:
        raise BackendError("the store cannot be read") from error


def in_a_group(resource):
    try:
        failing(resource)
    except BackendError as error:
        raise ExceptionGroup(f"two of {resource}", [error, KeyError(resource)]) from None


@pytest.mark.parametrize("log_format", LogFormat)
@pytest.mark.parametrize("fail", [failing, in_a_group])
def test_a_traceback_shows_where_and_neither_values_nor_what_libraries_say(
    written, log_format, fail
):
    """Both may quote a resource, a search value or a token."""
    stream = written(log_format=log_format)

    for log in (structlog.get_logger(), logging.getLogger("library")):
        try:
            fail(f"canary-{log_format}")
        except Exception:
            log.exception("shard.failed")

    shown = stream.getvalue()
    assert shown.count("BackendError: the store cannot be read") == 2
    assert shown.count("ValueError") >= 2
    assert "in reading" in shown
    assert f"canary-{log_format}" not in shown


def test_a_failure_without_a_traceback_is_logged(written):
    stream = written()

    structlog.get_logger().error("shard.failed", exc_info=BackendError("the store is gone"))

    assert "BackendError: the store is gone" in lines(stream)[0]["exception"]


def test_bound_context_is_on_every_line(written):
    stream = written()

    with structlog.contextvars.bound_contextvars(job_id="j1"):
        structlog.get_logger().info("shard.claimed")

    assert lines(stream)[0]["job_id"] == "j1"


def test_console_lines_can_be_read(written):
    stream = written(log_format=LogFormat.CONSOLE)

    structlog.get_logger().info("shard.claimed", shard=3)

    assert "shard.claimed" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_are_text_on_a_terminal_and_json_elsewhere(written, monkeypatch):
    structlog.reset_defaults()
    logs.configure_logging(LogLevel.INFO, LogFormat.AUTO, to=(terminal := Terminal()))
    structlog.get_logger().info("shard.claimed", shard=3)
    monkeypatch.setenv("NO_COLOR", "1")
    logs.configure_logging(LogLevel.INFO, LogFormat.AUTO, to=(plain := Terminal()))
    structlog.get_logger().info("shard.claimed", shard=3)
    stream = written(log_format=LogFormat.AUTO)
    structlog.get_logger().info("shard.claimed", shard=3)

    assert "\x1b[" in terminal.getvalue()
    assert "shard.claimed" in plain.getvalue()
    assert "\x1b[" not in plain.getvalue()
    assert not plain.getvalue().startswith("{")
    assert lines(stream)[0]["shard"] == 3


def test_a_line_that_cannot_be_written_is_nobodys_fault(written, capsys):
    written()
    with open("/dev/full", "w", buffering=1) as full:  # noqa: PTH123  no path has a buffer
        logs.configure_logging(LogLevel.INFO, LogFormat.JSON, to=full)

        structlog.get_logger().info("shard.claimed", shard=3)
        logging.getLogger("library").warning("lost, too")

        with suppress(OSError):
            full.close()
    assert capsys.readouterr().err == ""


def test_the_format_can_be_forced_on_a_terminal(written):
    logs.configure_logging(LogLevel.INFO, LogFormat.JSON, to=(terminal := Terminal()))

    structlog.get_logger().info("shard.claimed", shard=3)

    assert lines(terminal)[0]["shard"] == 3
