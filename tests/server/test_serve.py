"""Stopping, within one process."""

import asyncio
import os
import signal
from datetime import timedelta

import httpx
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from helios_core.config.settings import Settings
from helios_core.errors import ConfigurationError
from helios_core.server import serve as serving

SETTINGS = Settings(
    storage_backend="memory",
    bulk_export_output_backend="memory",
    server_port=0,
    worker_shutdown_timeout=timedelta(seconds=0.2),
)


async def test_a_server_answers_when_it_says_so_and_ends_at_a_signal():
    answers: list[int] = []

    async def ask(url: str) -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            answers.append((await client.get(f"{url}/health")).status_code)
        os.kill(os.getpid(), signal.SIGTERM)

    async with asyncio.TaskGroup() as group:
        await serving.serve(SETTINGS, on_ready=lambda url: group.create_task(ask(url)))

    assert answers == [200]


async def test_a_taken_port_is_a_matter_of_configuration():
    async def second(url: str) -> None:
        port = int(url.rpartition(":")[2])
        with pytest.raises(ConfigurationError, match="HFS_SERVER_PORT"):
            serving._listen(Settings(server_port=port))
        os.kill(os.getpid(), signal.SIGTERM)

    async with asyncio.TaskGroup() as group:
        await serving.serve(SETTINGS, on_ready=lambda url: group.create_task(second(url)))


async def test_an_open_server_is_not_called_by_names_of_others():
    """A web page could have its name lead here, and would then be of the same origin."""
    found: dict[str, int] = {}

    async def ask(url: str) -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            for host in ("localhost:1234", "127.0.0.1", "[::1]", "evil.example", "localhost.evil"):
                response = await client.get(f"{url}/metadata", headers={"Host": host})
                found[host] = response.status_code
        os.kill(os.getpid(), signal.SIGTERM)

    async with asyncio.TaskGroup() as group:
        await serving.serve(SETTINGS, on_ready=lambda url: group.create_task(ask(url)))

    assert list(found.values()) == [200, 200, 200, 400, 400]


@pytest.mark.parametrize(
    "changes",
    [
        {"auth_enabled": True},
        {"allow_anonymous": True},
        {"base_url": "https://fhir.example.org"},
        {"trusted_proxies": ("127.0.0.1",)},
        {"allowed_hosts": ("fhir.example.org",)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_settings_that_say_who_may_call_the_server_stay_as_they_are(changes):
    settings = replace(SETTINGS, **changes)

    assert serving.with_own_hosts(settings) is settings


@pytest.mark.parametrize(("host", "own"), [("127.1.2.3", "127.1.2.3"), ("::1", "[::1]")])
def test_the_address_that_the_server_listens_on_is_its_own(host, own):
    assert own in serving.with_own_hosts(replace(SETTINGS, server_host=host)).allowed_hosts


def test_addresses_of_ip_6_have_brackets():
    listener = serving._listen(Settings(server_host="::1", server_port=0))

    with listener:
        assert serving._address(listener, None).startswith("http://[::1]:")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "no-such-host.invalid"])  # noqa: S104  refused
def test_an_open_server_does_not_listen_to_a_network_unless_that_is_meant(host):
    network = replace(SETTINGS, server_host=host)

    with pytest.raises(ConfigurationError, match="HFS_ALLOW_ANONYMOUS"):
        serving.check_exposure(network)
    serving.check_exposure(replace(network, allow_anonymous=True))
    serving.check_exposure(replace(network, auth_enabled=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_an_open_server_says_so_in_one_line(host):
    with capture_logs() as lines:
        serving.check_exposure(replace(SETTINGS, server_host=host))

    assert [line["event"] for line in lines] == ["auth.disabled"]


def test_a_server_with_authentication_warns_of_nothing():
    with capture_logs() as lines:
        serving.check_exposure(replace(SETTINGS, auth_enabled=True))

    assert lines == []
