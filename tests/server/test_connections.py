"""What a client may send over a connection, and how long it may take."""

import asyncio
import os
import re
import resource
import signal
from datetime import timedelta

import msgspec
import pytest

from helios_core.config.settings import Settings
from helios_core.server import connections
from helios_core.server import serve as serving
from tests.pace import scaled

SETTINGS = Settings(
    storage_backend="memory",
    bulk_export_output_backend="memory",
    bulk_export_disable_local_worker=True,
    server_port=0,
    allowed_hosts=("a", "localhost", "127.0.0.1"),
    max_body_bytes=100_000,
    worker_shutdown_timeout=timedelta(seconds=10),
)
HEAD = b"GET /health HTTP/1.1\r\nHost: a\r\n"
FHIR = b"Content-Type: application/fhir+json\r\n"


class Connection:
    """Bytes to a server, and what it makes of them."""

    def __init__(self, reader, writer):
        self._reader = reader
        self._writer = writer

    async def send(self, data):
        self._writer.write(data)
        await self._writer.drain()

    async def response(self):
        head = await self._reader.readuntil(b"\r\n\r\n")
        line, *lines = head.decode().rstrip().split("\r\n")
        headers = {name.lower(): value for name, value in (each.split(": ", 1) for each in lines)}
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return int(line.split()[1]), headers, body

    async def closed(self):
        """Wait for the server to close; whether it was without a byte more."""
        try:
            return not await self._reader.read()
        except ConnectionError:
            return True


@pytest.fixture
async def connect():
    """Connect to a server of this process."""
    started = asyncio.get_running_loop().create_future()
    server = asyncio.ensure_future(serving.serve(SETTINGS, on_ready=started.set_result))
    await asyncio.wait([server, started], return_when=asyncio.FIRST_COMPLETED)
    port = int(started.result().rpartition(":")[2])
    opened = []

    async def connect():
        connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection._writer.close()
    os.kill(os.getpid(), signal.SIGTERM)
    await server


async def refusal(connection, status):
    got, headers, body = await connection.response()
    assert got == status, body
    assert headers["content-type"] == "application/fhir+json"
    assert headers["connection"] == "close"
    assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])
    outcome = msgspec.json.decode(body)
    assert outcome["resourceType"] == "OperationOutcome"
    return outcome["issue"][0]["diagnostics"]


async def flood(connection, piece, times):
    """Send without an end; the server may close meanwhile."""
    try:
        for _ in range(times):
            await connection.send(piece)
    except ConnectionError:
        pass


@pytest.mark.parametrize(
    ("beginning", "piece", "status"),
    [
        pytest.param(HEAD, b"X-A: " + b"y" * 50_000 + b"\r\n", 431, id="many headers"),
        pytest.param(HEAD + b"X-A: ", b"y" * 50_000, 431, id="one header"),
        pytest.param(HEAD, b"z" * 50_000, 431, id="the name of a header"),
        pytest.param(b"GET /health?a=", b"y" * 50_000, 414, id="the query"),
        pytest.param(b"GET /", b"y" * 50_000, 414, id="the path"),
        pytest.param(b"", b"\r\n" * 20_000, 431, id="empty lines"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            b"X-A: " + b"y" * 50_000 + b"\r\n",
            431,
            id="trailers",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\n" + FHIR + b"Transfer-Encoding: chunked\r\n\r\n1;a=",
            b"y" * 50_000,
            431,
            id="an extension of a chunk",
        ),
    ],
)
async def test_what_has_no_end_is_refused_and_not_kept(connect, beginning, piece, status):
    connection = await connect()
    await connection.send(beginning)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    flooding = asyncio.ensure_future(flood(connection, piece, 500))

    await refusal(connection, status)
    await flooding
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000


async def test_a_long_url_is_refused_with_the_way_to_send_it(connect):
    connection = await connect()
    query = b"_type=" + b"Patient," * 3000

    await connection.send(b"GET /$export?" + query + b" HTTP/1.1\r\nHost: a\r\n\r\n")

    assert "POST" in await refusal(connection, 414)


async def test_the_largest_head_is_served(connect):
    connection = await connect()
    url = b"/health?a=" + b"y" * (connections.MAX_URL_BYTES - 10)

    await connection.send(b"GET " + url + b" HTTP/1.1\r\nHost: a\r\nX-A: " + b"y" * 30_000)
    await connection.send(b"\r\n\r\n")

    assert (await connection.response())[0] == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(HEAD + b"Host: b\r\n\r\n", 400, id="two hosts"),
        pytest.param(HEAD + b"host: a\r\n\r\n", 400, id="one host twice"),
        pytest.param(b"GET /health HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01", 400, id="TLS"),
        pytest.param(b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="an unknown method"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, id="HTTP/2"),
        pytest.param(b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501, id="a proxy's"),
        pytest.param(HEAD + b"X: a\0b\r\n\r\n", 400, id="NUL"),
        pytest.param("GET /Patient/ä HTTP/1.1\r\nHost: a\r\n\r\n".encode(), 400, id="a path"),
        pytest.param(HEAD + b"Content-Length: -1\r\n\r\n", 400, id="a negative length"),
        pytest.param(
            HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, id="2 lengths"
        ),
        pytest.param(
            HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, id="two ends"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\n" + FHIR + b"Transfer-Encoding: chunked\r\n\r\nz\r\n",
            400,
            id="a chunk without a size",
        ),
    ],
)
async def test_what_is_not_http_gets_an_operation_outcome(connect, request_, status):
    connection = await connect()

    await connection.send(request_)

    await refusal(connection, status)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(HEAD + b"Range: bytes=99999999999999999999-\r\n\r\n", id="a range"),
        pytest.param(b"GET /health HTTP/1.0\r\n\r\n", id="HTTP/1.0"),
        pytest.param(b"GET http://a/health HTTP/1.1\r\nHost: a\r\n\r\n", id="an absolute URL"),
        pytest.param(b"\r\n\r\n" + HEAD + b"\r\n", id="empty lines before"),
    ],
)
async def test_what_is_odd_and_allowed_is_served(connect, request_):
    connection = await connect()

    await connection.send(request_)

    assert (await connection.response())[0] == 200


@pytest.mark.parametrize("pieces", [1, 40])
async def test_a_request_that_offers_another_protocol_keeps_its_body(connect, pieces):
    """Java's client offers HTTP/2 with its first request."""
    connection = await connect()
    body = b'{"resourceType":"Patient","id":"p1"}'
    request = (
        b"PUT /Patient/p1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
    )
    request += FHIR + b"Content-Length: %d\r\n\r\n" % len(body) + body

    for start in range(0, len(request), len(request) // pieces):
        await connection.send(request[start : start + len(request) // pieces])
        await asyncio.sleep(0)
    assert (await connection.response())[0] == 201

    await connection.send(HEAD + b"\r\n")
    assert (await connection.response())[0] == 200


async def test_a_trailer_replaces_no_header(connect):
    connection = await connect()
    body = b'{"resourceType":"Patient","id":"p1"}'
    request = b"PUT /Patient/p1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + FHIR
    chunk = b"%x\r\n" % len(body) + body + b"\r\n0\r\nX-Tenant-ID: other\r\n\r\n"

    await connection.send(request + b"\r\n" + chunk)
    assert (await connection.response())[0] == 201

    await connection.send(b"GET /Patient/p1 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await connection.response())[0] == 200


@pytest.fixture
def hurried(monkeypatch):
    """Clients have hardly any time, and the server looks ten times in a second."""
    monkeypatch.setattr(serving, "TICKS_BETWEEN_CHECKS", 1)
    for name in ("HEAD_SECONDS", "BODY_SECONDS", "SEND_SECONDS", "CLOSE_SECONDS"):
        monkeypatch.setattr(connections, name, scaled(0.1))


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(b"GET /hea", id="a request line"),
        pytest.param(HEAD, id="headers"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\n" + FHIR + b"Content-Length: 9\r\n\r\n{", id="body"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\n" + FHIR + b"Transfer-Encoding: chunked\r\n\r\n",
            id="chunks",
        ),
        pytest.param(HEAD + b"\r\n" + b"GET /hea", id="a second request"),
    ],
)
@pytest.mark.usefixtures("hurried")
async def test_half_a_request_ends_with_a_timeout(connect, beginning):
    many = []
    for _ in range(20):
        # At once, since a connection on which nothing comes is closed.
        many.append(connection := await connect())
        await connection.send(beginning)

    for connection in many:
        if beginning.startswith(HEAD + b"\r\n"):
            assert (await connection.response())[0] == 200
        await refusal(connection, 408)
        assert await connection.closed()


@pytest.mark.usefixtures("hurried")
async def test_an_empty_line_does_not_keep_a_connection(connect):
    connection = await connect()
    await connection.send(HEAD + b"\r\n")
    await connection.response()

    await connection.send(b"\r\n")

    await refusal(connection, 408)


@pytest.mark.usefixtures("hurried")
async def test_a_connection_on_which_nothing_comes_is_closed(connect):
    assert await (await connect()).closed()


@pytest.mark.usefixtures("hurried")
async def test_a_client_that_trickles_is_as_slow_as_one_that_stops(connect):
    connection = await connect()
    await connection.send(HEAD)

    async def trickle():
        while True:
            await connection.send(b"a")
            await asyncio.sleep(0.05)

    trickling = asyncio.ensure_future(trickle())
    await refusal(connection, 408)
    trickling.cancel()
    assert await connection.closed()


async def test_a_body_that_comes_fast_enough_has_all_the_time_it_needs(connect, monkeypatch):
    monkeypatch.setattr(serving, "TICKS_BETWEEN_CHECKS", 1)
    monkeypatch.setattr(connections, "BODY_SECONDS", seconds := scaled(0.1))
    monkeypatch.setattr(connections, "MIN_BODY_RATE", 1)
    connection = await connect()
    body = b'{"resourceType":"Patient","id":"p1"}' + b" " * 1000
    request = b"PUT /Patient/p1 HTTP/1.1\r\nHost: a\r\n" + FHIR
    await connection.send(request + b"Content-Length: %d\r\n\r\n" % len(body))

    for start in range(0, len(body), 500):
        await connection.send(body[start : start + 500])
        await asyncio.sleep(2 * seconds)

    assert (await connection.response())[0] == 201


@pytest.mark.usefixtures("hurried")
async def test_a_client_that_reads_nothing_is_cut_off(connect):
    connection = await connect()
    transport = connection._writer.transport
    transport.pause_reading()

    await flood(connection, (b"GET /metadata HTTP/1.1\r\nHost: a\r\n\r\n") * 100, 1)
    while not transport.is_closing():
        await flood(connection, HEAD + b"\r\n", 1)
        await asyncio.sleep(0.05)


async def test_more_connections_than_there_may_be_push_out_the_idle_ones(connect, monkeypatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 10)
    idle = [await connect() for _ in range(10)]
    for connection in idle:
        await connection.send(HEAD)

    for _ in range(15):
        connection = await connect()
        await connection.send(HEAD + b"\r\n")
        assert (await connection.response())[0] == 200

    for connection in idle:
        assert await connection.closed()


@pytest.mark.parametrize("connection_header", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("path", "status"), [(b"/Patient", 413), (b"/nothing/at/all/of/it", 404), (b"/metadata", 405)]
)
async def test_a_client_that_sends_too_much_reads_why_it_is_refused(
    connect, connection_header, chunked, path, status
):
    """Unread bytes would have the system reset the connection."""
    connection = await connect()
    piece, pieces = b"x" * 1_000_000, 40
    request = b"POST " + path + b" HTTP/1.1\r\nHost: a\r\n" + connection_header + FHIR
    ending = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 40000000"
    await connection.send(request + ending + b"\r\n\r\n")

    for _ in range(pieces):
        await connection.send(b"%x\r\n" % len(piece) + piece + b"\r\n" if chunked else piece)
    if chunked:
        await connection.send(b"0\r\n\r\n")

    got, _, body = await connection.response()
    assert got == status
    assert b"OperationOutcome" in body


async def test_a_client_that_waits_for_a_continue_sends_nothing_in_vain(connect):
    connection = await connect()
    request = b"POST /Patient HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + FHIR

    await connection.send(request + b"Content-Length: 40000000\r\n\r\n")

    await refusal(connection, 413)
    assert await connection.closed()


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_defect(connect, capsys):
    connection = await connect()
    await connection.send(
        b"POST /Patient HTTP/1.1\r\nHost: a\r\n" + FHIR + b"Content-Length: 50\r\n\r\n{"
    )
    connection._writer.close()
    while "request.answered" not in (printed := capsys.readouterr().out):
        await asyncio.sleep(0.01)
    assert "500" not in printed
