"""Reading the keys of clients from a real server on this machine."""

import asyncio
import json
import socket
import ssl
from contextlib import asynccontextmanager
from ipaddress import ip_address

import httpcore
import pytest

from helios_smart_auth import addresses, key_sets
from helios_smart_auth.addresses import AllowedAddresses, Refused, check_url
from helios_smart_auth.key_sets import Unreadable, open_key_sets
from helios_smart_auth.settings import SmartAuthSettings
from tests.plugins.smart_auth.issuing import EC, RSA, public

LOCAL = {"jwks_allow_loopback_http": True}
SET = json.dumps({"keys": [public(EC)]}).encode()


class Publisher:
    """A server whose next answers a test decides on."""

    def __init__(self):
        self.requests = []
        self.status = "200 OK"
        self.headers = {"Content-Type": "application/json"}
        self.body = SET
        self.gate = None
        self.tasks = []

    async def serve(self, reader, writer):
        self.tasks.append(asyncio.current_task())
        try:
            await self.answer(reader, writer)
        finally:
            writer.close()

    async def close(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def answer(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head.decode())
        if self.gate is not None:
            await self.gate.wait()
        headers = {"Content-Length": len(self.body), "Connection": "close"} | self.headers
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {self.status}\r\n{lines}\r\n".encode() + self.body)


@pytest.fixture
async def publisher():
    publisher = Publisher()
    server = await asyncio.start_server(publisher.serve, "127.0.0.1", 0)
    async with server:
        publisher.port = server.sockets[0].getsockname()[1]
        publisher.url = f"http://127.0.0.1:{publisher.port}/jwks.json"
        yield publisher
        await publisher.close()


@asynccontextmanager
async def opened(**settings):
    async with open_key_sets(SmartAuthSettings(**(LOCAL | settings))) as sets:
        sets.now = 0
        sets._clock = lambda: sets.now
        yield sets


async def unreadable(sets, url):
    with pytest.raises(Unreadable) as caught:
        await sets.read(url)
    return str(caught.value)


async def test_a_set_is_read_as_json(publisher):
    async with opened() as sets:
        assert await sets.read(publisher.url) == [public(EC)]

    [request] = publisher.requests
    assert request.startswith("GET /jwks.json HTTP/1.1\r\n")
    assert "Accept: application/json" in request


@pytest.mark.parametrize(
    ("control", "age", "good_for"),
    [
        ("max-age=1", None, 1),
        ("public, max-age=300", None, 300),
        ('MAX-AGE="60"', None, 60),
        ("max-age=300", "100", 200),
        ("max-age=99999999999", None, key_sets.LONGEST_SECONDS),
        (None, None, key_sets.DEFAULT_SECONDS),
    ],
)
async def test_a_set_is_kept_as_its_server_says(publisher, control, age, good_for):
    """SM-17: and no longer."""
    publisher.headers |= {"Cache-Control": control} if control else {}
    publisher.headers |= {"Age": age} if age else {}
    async with opened() as sets:
        await sets.read(publisher.url)
        sets.now = good_for - 0.1
        await sets.read(publisher.url)
        assert len(publisher.requests) == 1
        publisher.body = json.dumps({"keys": [public(RSA)]}).encode()

        sets.now = good_for

        assert await sets.read(publisher.url) == [public(RSA)]


@pytest.mark.parametrize("control", ["no-store", "no-cache", "max-age=0", "private, no-cache=x"])
async def test_a_set_that_may_not_be_kept_is_read_each_time(publisher, control):
    publisher.headers["Cache-Control"] = control
    async with opened() as sets:
        await sets.read(publisher.url)
        await sets.read(publisher.url)

    assert len(publisher.requests) == 2


async def test_many_who_wait_for_a_set_read_it_once(publisher):
    publisher.gate = asyncio.Event()
    async with opened() as sets:
        readers = [asyncio.create_task(sets.read(publisher.url)) for _ in range(20)]
        while not publisher.requests:
            await asyncio.sleep(0.01)
        readers[0].cancel()
        publisher.gate.set()
        results = await asyncio.gather(*readers, return_exceptions=True)

    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [[public(EC)]] * 19
    assert len(publisher.requests) == 1


async def test_a_kid_that_is_not_there_is_looked_for_again_once_in_a_while(publisher):
    """TR-77: a flood of unknown kids causes no flood of requests."""
    async with opened() as sets:
        await sets.read(publisher.url)
        for _ in range(50):
            await sets.read(publisher.url, again=True)
        assert len(publisher.requests) == 1

        sets.now = key_sets.FORCED_AFTER_SECONDS
        for _ in range(50):
            await sets.read(publisher.url, again=True)

    assert len(publisher.requests) == 2


async def test_a_set_that_may_not_be_kept_is_read_once_for_one_assertion(publisher):
    publisher.headers["Cache-Control"] = "no-store"
    async with opened() as sets:
        await sets.read(publisher.url)
        await sets.read(publisher.url, again=True)

    assert len(publisher.requests) == 1


async def test_an_address_that_failed_is_left_alone_for_a_moment(publisher):
    publisher.status = "500 No"
    async with opened() as sets:
        for _ in range(10):
            assert "500" in await unreadable(sets, publisher.url)
        assert len(publisher.requests) == 1
        publisher.status = "200 OK"

        sets.now = key_sets.FAILED_SECONDS

        assert await sets.read(publisher.url) == [public(EC)]


async def test_an_address_that_keeps_failing_is_left_alone_for_longer(publisher):
    publisher.status = "500 No"
    async with opened() as sets:
        for seconds in range(120):
            sets.now = seconds
            await unreadable(sets, publisher.url)
        assert len(publisher.requests) == 7  # after 0, 2, 6, 14, 30, 62 and 94 seconds
        publisher.status = "200 OK"
        sets.now += key_sets.LONGEST_FAILED_SECONDS
        await sets.read(publisher.url)
        publisher.status = "500 No"
        sets.now += key_sets.DEFAULT_SECONDS
        await unreadable(sets, publisher.url)
        sets.now += key_sets.FAILED_SECONDS
        publisher.status = "200 OK"

        assert await sets.read(publisher.url) == [public(EC)]


async def test_an_address_that_is_silent_is_left_alone_after_it_was_given_up(publisher):
    publisher.gate = asyncio.Event()
    async with opened(jwks_timeout=0.1) as sets:
        reading = asyncio.ensure_future(unreadable(sets, publisher.url))
        while not publisher.requests:
            await asyncio.sleep(0)
        sets.now = 4  # which the read has taken
        await reading
        for _ in range(3):
            await unreadable(sets, publisher.url)

    assert len(publisher.requests) == 1


async def test_silent_servers_keep_nobody_else_waiting(publisher):
    publisher.gate = gate = asyncio.Event()
    async with opened(jwks_timeout=30) as sets:
        silent = [
            asyncio.ensure_future(sets.read(f"{publisher.url}?{number}")) for number in range(40)
        ]
        while len(publisher.requests) < len(silent):
            await asyncio.sleep(0.01)
        publisher.gate = None

        assert await sets.read(publisher.url) == [public(EC)]
        assert not any(reading.done() for reading in silent)
        gate.set()
        await asyncio.gather(*silent)


@pytest.mark.parametrize(
    ("status", "headers", "body", "reason"),
    [
        ("404 Not Found", {}, SET, "404"),
        ("302 Found", {"Location": "https://keys.example/"}, SET, "302"),
        ("301 Moved", {"Location": "http://169.254.169.254/latest"}, SET, "301"),
        ("200 OK", {"Content-Encoding": "gzip"}, SET, "compressed"),
        ("200 OK", {}, b" " * (key_sets.MAX_BYTES + 1), "more than"),
        ("200 OK", {}, b"", "not a JSON"),
        ("200 OK", {}, b"[" * 100_000, "not a JSON"),
        ("200 OK", {}, b"[]", "not a JSON"),
        ("200 OK", {}, b'{"keys": {}}', "Key Set"),
        ("200 OK", {}, b'{"keys": [1]}', "Key Set"),
        ("200 OK", {}, b'{"keys": [], "keys": []}', "unique"),
        ("200 OK", {}, json.dumps({"keys": [{}] * 101}).encode(), "100 keys"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else "",
)
async def test_what_is_no_key_set_is_not_used(publisher, status, headers, body, reason):
    publisher.status, publisher.body = status, body
    publisher.headers |= headers
    async with opened() as sets:
        said = await unreadable(sets, publisher.url)

    assert reason in said
    assert "169.254" not in said


async def test_a_server_that_is_silent_is_given_up(publisher):
    publisher.gate = asyncio.Event()
    async with opened(jwks_timeout=0.2) as sets:
        assert "in time" in await unreadable(sets, publisher.url)


async def test_a_server_that_is_down_is_reported(publisher, refusing_port):
    async with opened() as sets:
        said = await unreadable(sets, f"http://127.0.0.1:{refusing_port}/")

    assert "cannot be reached" in said


async def test_http_and_loopback_need_their_setting(publisher):
    async with opened(jwks_allow_loopback_http=False) as sets:
        assert "https" in await unreadable(sets, publisher.url)
        assert "private" in await unreadable(sets, f"https://127.0.0.1:{publisher.port}/")
        assert "private" in await unreadable(sets, f"https://localhost:{publisher.port}/")
    assert publisher.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "http://client.example/jwks",
        "http://127.0.0.2/jwks",
        "http://localhost.example/jwks",
        "ftp://client.example/",
        "file:///etc/passwd",
        "https://",
        "https://user:password@client.example/",
        "https://client.example/#fragment",
        "https://client.example:99999/",
        "https://client .example/",
        "client.example",
        "https://[::1/",
    ],
)
def test_an_address_that_is_no_https_address_is_refused(url):
    with pytest.raises(ValueError, match="it "):
        check_url(url, allow_loopback_http=True)


REFUSED = [
    *("10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "127.0.0.1", "0.0.0.0"),  # noqa: S104
    *("169.254.169.254", "224.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1"),
    *("fc00::1", "ff02::1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a00:1"),
    *("2002:a00:1::", "64:ff9b::7f00:1", "2001:db8::1", "::10.0.0.1", "::169.254.169.254"),
    *("64:ff9b:1::a00:1", "240.0.0.1", "4000::1"),
]


class Names:
    """What names mean, and which addresses were connected to."""

    def __init__(self, monkeypatch, *found):
        self.connected = []
        self.found = [ip_address(each) for each in found]
        monkeypatch.setattr(addresses, "_resolved", self.resolved)

    async def resolved(self, host, port):
        return self.found

    async def connect_tcp(self, host, port, *_):
        self.connected.append(host)
        raise httpcore.ConnectError("nobody is there")


async def connected(names, **allowed):
    network = AllowedAddresses(**{"allow_private": False, "allow_loopback_http": False} | allowed)
    network._network = names
    with pytest.raises((Refused, httpcore.ConnectError)) as caught:
        await network.connect_tcp("client.example", 443)
    return caught.type


@pytest.mark.parametrize("address", REFUSED)
async def test_a_name_that_means_a_private_address_is_refused(monkeypatch, address):
    names = Names(monkeypatch, address)

    assert await connected(names, allow_loopback_http=True) is Refused
    assert names.connected == []


async def test_of_several_addresses_the_public_ones_are_tried(monkeypatch):
    names = Names(monkeypatch, "10.0.0.1", "8.8.8.8", "169.254.169.254", "2606:4700::1111")

    assert await connected(names) is httpcore.ConnectError
    assert names.connected == ["8.8.8.8", "2606:4700::1111"]


async def test_an_address_that_stands_for_another_one_is_connected_to_as_it_is(monkeypatch):
    """Where there is no IPv4, the other one cannot be reached."""
    names = Names(monkeypatch, "64:ff9b::808:808")

    assert await connected(names) is httpcore.ConnectError
    assert names.connected == ["64:ff9b::808:808"]


async def test_private_addresses_can_be_allowed_and_link_local_ones_cannot(monkeypatch):
    others = ("169.254.169.254", "fe80::1", "::169.254.169.254", "240.0.0.1")
    names = Names(monkeypatch, "10.0.0.1", "127.0.0.1", "fd00::1", *others)

    assert await connected(names, allow_private=True) is httpcore.ConnectError
    assert names.connected == ["10.0.0.1", "127.0.0.1", "fd00::1"]


async def test_a_name_that_is_unknown_is_an_error_of_the_connection(monkeypatch):
    async def unknown(*_, **__):
        raise socket.gaierror

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)

    with pytest.raises(httpcore.ConnectError):
        await addresses._resolved("client.example", 443)


async def test_what_is_kept_is_bounded(publisher, monkeypatch):
    monkeypatch.setattr(key_sets, "MOST_KEPT", 3)
    async with opened() as sets:
        for number in range(6):
            await sets.read(f"{publisher.url}?{number}")

        assert len(sets._kept) == 3


def test_tls_is_verified():
    context = httpcore.default_ssl_context()

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
