"""One file over a bad line."""

import gzip
import os

import pytest

from helios_core.client.downloads import Download
from helios_core.client.errors import ExportFailed, RequestRefused
from helios_core.client.kickoff import ClientRequest
from helios_core.client.session import Session
from helios_core.client.state import ExportFolder, ExportState
from tests.client.scripted import Reply

BODY = b"".join(b'{"id":"%d"}\n' % number for number in range(1000))
STRONG = {"ETag": '"v1"'}


async def fetch(server, tmp_path, *replies, query="", **options):
    """Download one file as an export does that may have been begun by another process."""
    server.say("GET", "/file", *replies)
    folder = ExportFolder(tmp_path)
    if not folder.state_folder.exists():
        with ExportFolder.create(
            tmp_path, ExportState(request=ClientRequest(base_url=server.url))
        ):
            pass
    download = Download(f"{server.url}/file{query}", tmp_path / "file", folder, **options)
    async with Session.open(server.url, {}, None) as session:
        return await download.run(session)


def left_in(folder):
    """What is kept of downloads that are not finished."""
    return [path.name for path in folder.rglob("*") if path.is_file() and path.name == "file"]


def rest(start: int, body: bytes = BODY, **headers: str) -> Reply:
    span = f"bytes {start}-{len(body) - 1}/{len(body)}"
    return Reply(206, {"Content-Range": span} | headers, body[start:])


async def test_a_broken_download_is_taken_up_where_it_broke(server, tmp_path):
    counted = []

    got = await fetch(
        server, tmp_path, Reply(200, STRONG, BODY, cut=700), rest(700), on_bytes=counted.append
    )

    assert got.path.read_bytes() == BODY
    assert (got.lines, got.size) == (1000, len(BODY))
    assert sum(counted) == len(BODY)
    second = server.requests[1].headers
    assert (second["range"], second["if-range"]) == ("bytes=700-", '"v1"')


async def test_a_packed_file_is_taken_up_in_its_packed_form(server, tmp_path):
    noise = os.urandom(5000).hex().encode() + b"\n"
    packed = gzip.compress(noise)
    coding = {"Content-Encoding": "gzip"}

    got = await fetch(
        server,
        tmp_path,
        Reply(200, STRONG | coding, packed, cut=3000),
        rest(3000, packed, **coding),
    )

    assert got.path.read_bytes() == noise
    assert (got.lines, got.size) == (1, len(noise))


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"v1"'}])
async def test_without_a_strong_tag_it_begins_again(server, tmp_path, headers):
    counted = []

    got = await fetch(
        server,
        tmp_path,
        Reply(200, headers, BODY, cut=700),
        Reply(200, headers, BODY),
        on_bytes=counted.append,
    )

    assert got.path.read_bytes() == BODY
    assert sum(counted) == len(BODY)
    assert "range" not in server.requests[1].headers


async def test_a_file_that_changed_meanwhile_begins_again(server, tmp_path):
    other = BODY.replace(b"id", b"ID")

    got = await fetch(
        server,
        tmp_path,
        Reply(200, STRONG, BODY, cut=700),
        Reply(200, {"ETag": '"v2"'}, other),
    )

    assert got.path.read_bytes() == other


async def test_a_range_nobody_asked_for_is_refused(server, tmp_path):
    with pytest.raises(ExportFailed, match="did not resume at byte 700"):
        await fetch(server, tmp_path, Reply(200, STRONG, BODY, cut=700), rest(500))

    assert left_in(tmp_path) == []


async def test_a_range_that_cannot_be_satisfied_begins_again(server, tmp_path):
    got = await fetch(
        server,
        tmp_path,
        Reply(200, STRONG, BODY, cut=700),
        Reply(416),
        Reply(200, STRONG, BODY),
    )

    assert got.path.read_bytes() == BODY


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_trouble_that_passes_is_waited_out(server, tmp_path, status):
    got = await fetch(server, tmp_path, Reply(status, {"Retry-After": "0"}), Reply(200, {}, BODY))

    assert got.lines == 1000


@pytest.mark.parametrize("status", [403, 404, 410, 501])
async def test_a_refusal_is_final(server, tmp_path, status):
    with pytest.raises(RequestRefused, match=str(status)):
        await fetch(server, tmp_path, Reply(status))

    assert len(server.requests) == 1
    assert left_in(tmp_path) == []


async def test_an_unknown_coding_is_refused(server, tmp_path):
    with pytest.raises(ExportFailed, match="sent in coding br"):
        await fetch(server, tmp_path, Reply(200, {"Content-Encoding": "br"}, BODY))


@pytest.mark.parametrize("packed", [gzip.compress(BODY, mtime=0)[:-9], b"no gzip at all"])
async def test_a_file_that_cannot_be_unpacked_leaves_nothing(server, tmp_path, packed):
    with pytest.raises(ExportFailed, match="cannot be decompressed"):
        await fetch(server, tmp_path, Reply(200, {"Content-Encoding": "gzip"}, packed))

    assert left_in(tmp_path) == []


async def test_a_signed_address_is_not_told(server, tmp_path):
    with pytest.raises(RequestRefused) as caught:
        await fetch(server, tmp_path, Reply(403), query="?signature=hush")

    assert "hush" not in str(caught.value)
