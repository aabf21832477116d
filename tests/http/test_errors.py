import pytest
import structlog

from helios_core import errors
from helios_core.errors import (
    BackendError,
    HeliosError,
    InvalidToken,
    PartMissing,
    RequestError,
)
from helios_core.http.errors import RETRY_AFTER, status_for

SECRET = "Jane Canary"


def leaves(cls=HeliosError):
    """The errors of the server; those of the client command have no responses."""
    below = [each for each in cls.__subclasses__() if each.__module__ == errors.__name__]
    return [leaf for each in below for leaf in leaves(each)] if below else [cls]


def all_errors():
    return [each for each in vars(errors).values() if isinstance(each, type)]


@pytest.mark.parametrize("cls", leaves(), ids=lambda cls: cls.__name__)
def test_every_error_has_a_status_that_says_who_must_act(cls):
    status = status_for(cls("x"))

    of_the_server = {410} if cls is PartMissing else {500, 503}
    assert status in (range(400, 500) if issubclass(cls, RequestError) else of_the_server)


def failing(provider, error):
    async def get(*_args, **_options):
        raise error

    provider.get = get


@pytest.mark.parametrize("cls", all_errors(), ids=lambda cls: cls.__name__)
async def test_every_error_becomes_an_outcome_of_its_code(site, outcome, cls):
    failing(site.backends.data_provider, cls(f"about {SECRET}"))

    response = await site.client.get("/Patient/p1")

    issue = outcome(response, status_for(cls("x")), cls.code)
    # Why a token is not valid is for the log alone.
    ours = not issubclass(cls, RequestError) or cls is InvalidToken
    assert (SECRET in issue["diagnostics"]) is not ours
    assert ("retry-after" in response.headers) is (response.status_code in RETRY_AFTER)
    assert int(response.headers.get("retry-after", 1)) > 0


async def test_a_defect_is_a_500_that_gives_nothing_away(site, outcome):
    failing(site.backends.data_provider, ZeroDivisionError(SECRET))

    with structlog.testing.capture_logs() as logs:
        response = await site.client.get("/Patient/p1")

    outcome(response, 500, "exception")
    assert SECRET not in response.text
    assert SECRET not in repr(logs)
    [broken] = [event for event in logs if event["event"] == "request.crashed"]
    assert broken["error"] == "ZeroDivisionError"
    assert any("test_errors.py" in place for place in broken["where"])


async def test_a_failure_of_a_backend_is_logged_with_its_reason(site):
    failing(site.backends.data_provider, BackendError("the disk is on fire"))

    with structlog.testing.capture_logs() as logs:
        await site.client.get("/Patient/p1")

    [failed] = [event for event in logs if event["event"] == "request.failed"]
    assert failed["reason"] == "the disk is on fire"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/a/b/c/d/e", 404),
        ("GET", "/", 405),
        ("PATCH", "/metadata", 405),
        ("DELETE", "/metadata", 405),
        ("POST", "/export-status/x", 405),
        ("PUT", "/export-file/x/y", 405),
        ("GET", "/Patient/$everything", 404),
        ("GET", "/docs", 404),
        ("GET", "/favicon.ico", 404),
        ("GET", "/Patiente/1", 404),
        ("GET", "/schema/openapi.json", 404),
        ("BREW", "/Patient", 405),
    ],
)
async def test_addresses_and_methods_that_do_not_exist_are_outcomes(
    client, outcome, method, path, status
):
    """B2-KO-21"""
    response = await client.request(method, path)

    issue = outcome(response, status)
    assert "/metadata lists what the server offers" in issue["diagnostics"]
    assert ("allow" in response.headers) is (status == 405)
