import asyncio
from contextlib import suppress

import pytest

from helios_core.memory import MemoryOutputStore
from tests.pace import scaled

RESOURCES = 48
RESOURCE_BYTES = 1024 * 1024
TOTAL = RESOURCES * RESOURCE_BYTES


class Watched(MemoryOutputStore):
    """Remembers how far the last reader came and whether it is done."""

    def __init__(self):
        super().__init__()
        self.given = 0
        self.closed = asyncio.Event()

    async def read(self, key, *, start=0, end=None):
        self.given = 0
        self.closed.clear()
        try:
            async for chunk in super().read(key, start=start, end=end):
                self.given += len(chunk)
                yield chunk
        finally:
            self.closed.set()


@pytest.fixture
async def download(live):
    """Begin a large download whose client has read nothing but the head."""
    site = await live(output_store=Watched())
    text = "x" * RESOURCE_BYTES
    for number in range(RESOURCES):
        await site.put({"resourceType": "Patient", "id": f"p{number}", "name": [{"text": text}]})
    location = await site.kick_off()
    await site.finish(location)
    [file] = (await site.client.get(location)).json()["output"]

    path, port = file["url"].partition("/export-file")[2], site.client.base_url.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = (f"GET /export-file{path} HTTP/1.1", "Host: h", "Connection: close", "", "")
    writer.write("\r\n".join(lines).encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    yield site, location, reader, writer
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def standstill(store):
    """Wait until the server reads no further, and give how far it came."""
    before = -1
    while before != store.given:
        before = store.given
        await asyncio.sleep(0.2)
    return before


async def test_a_slow_client_is_not_read_ahead_for(download):
    site, *_ = download

    assert await standstill(site.backends.output_store) < TOTAL / 2


async def test_a_client_that_leaves_is_not_read_for(download):
    site, _, _, writer = download
    store = site.backends.output_store
    await standstill(store)

    writer.transport.abort()
    await asyncio.wait_for(store.closed.wait(), scaled(5))

    assert store.given < TOTAL


async def test_a_download_survives_the_end_of_its_export(download):
    """B2-SEC-08"""
    site, location, reader, _ = download

    deleted = await site.client.delete(location)
    rest = await reader.read()

    assert deleted.status_code == 202
    assert len(rest) > TOTAL
    assert rest.endswith(b"}\n")
