"""An export that ended early goes on with what is in its folder."""

import asyncio
import gzip

import msgspec
import pytest
import zstandard

from helios_core.client.errors import ExportFailed, ExportGone, RequestRefused, ServerUnreachable
from helios_core.client.export import ExportOptions, discard, export, resume
from helios_core.client.kickoff import ClientRequest
from helios_core.client.state import ExportFolder, ExportState, FileCompression, has_state
from helios_core.errors import ConfigurationError
from tests.client.scripted import Reply

LINE = b'{"resourceType":"Patient","id":"%07d","text":"%s"}\n'
CONTENT = b"".join(LINE % (number, b"x" * 1000) for number in range(3000))
HALF = 2_000_000
TAG = {"ETag": '"v1"'}


def entry(server, name, **more):
    return {"type": "Patient", "url": f"{server.url}/files/{name}"} | more


def rest(start, content=CONTENT, **headers):
    span = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return Reply(206, TAG | {"Content-Range": span} | headers, content[start:])


async def cancelled(server, request, folder, options=None, *, received=HALF):
    """Export until the server sends no more and that many bytes are there, then cancel."""
    enough = asyncio.Event()
    options = msgspec.structs.replace(
        options or ExportOptions(),
        on_progress=lambda now: now.bytes_received >= received and enough.set(),
    )
    task = asyncio.create_task(export(request, folder, options))
    await server.stalled.wait()
    await enough.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.requests.clear()


async def test_a_cancelled_export_stays_on_the_server_and_goes_on(server, tmp_path):
    server.exports(entry(server, "a", count=3000), entry(server, "b", count=1))
    server.say("GET", "/files/a", Reply(200, TAG, CONTENT, stall=HALF))
    server.say("GET", "/files/b", Reply(body=b"{}\n"))
    folder = tmp_path / "out"

    await cancelled(server, ClientRequest(base_url=server.url), folder)
    deleted = server.asked("DELETE", "/jobs/1")
    received = (folder / ".helios-export/parts/a").stat().st_size
    server.scripts["GET", "/files/a"] = [rest(received)]
    summary = await resume(folder, {})

    assert deleted == []
    assert 0 < received <= HALF
    assert (folder / "a").read_bytes() == CONTENT
    [ranged] = server.asked("GET", "/files/a")
    assert ranged.headers["range"] == f"bytes={received}-"
    assert ranged.headers["if-range"] == '"v1"'
    assert summary.lines == 3001
    assert not server.asked("GET", "/$export")
    assert len(server.asked("DELETE", "/jobs/1")) == 1
    assert {path.name for path in folder.iterdir()} == {"a", "b", "manifest.json"}


async def test_what_was_not_synced_before_a_reboot_is_fetched_again(server, tmp_path, monkeypatch):
    server.exports(entry(server, "a", count=3000))
    server.say("GET", "/files/a", Reply(200, TAG, CONTENT, stall=HALF))
    monkeypatch.setattr("helios_core.client.downloads._SYNC_BYTES", 1_000_000)
    await cancelled(server, ClientRequest(base_url=server.url), tmp_path)
    part = tmp_path / ".helios-export/parts/a"
    mark = msgspec.json.decode((tmp_path / ".helios-export/marks/a").read_bytes())
    size = part.stat().st_size
    with part.open("r+b") as file:
        file.seek(mark["synced"])
        file.write(bytes(size - mark["synced"]))  # as some file systems leave it
    monkeypatch.setattr("helios_core.client.downloads.boot_id", lambda: "the next boot")
    server.scripts["GET", "/files/a"] = [rest(mark["synced"])]

    await resume(tmp_path, {})

    assert 0 < mark["synced"] < size
    assert (tmp_path / "a").read_bytes() == CONTENT


@pytest.mark.parametrize("damage", [b"", b"no gzip", None])
async def test_a_part_that_has_suffered_is_fetched_from_the_start(server, tmp_path, damage):
    packed = gzip.compress(CONTENT, 0)
    coding = {"Content-Encoding": "gzip"}
    server.exports(entry(server, "a", count=3000))
    server.say("GET", "/files/a", Reply(200, TAG | coding, packed, stall=HALF))
    await cancelled(server, ClientRequest(base_url=server.url), tmp_path)
    part = tmp_path / ".helios-export/parts/a"
    size = part.stat().st_size
    if damage is None:
        part.unlink()
    else:
        part.write_bytes(damage.ljust(size, b"\0"))
    server.scripts["GET", "/files/a"] = [rest(size, packed, **coding)] * (damage is not None)
    server.scripts["GET", "/files/a"] += [Reply(200, TAG | coding, packed)]

    await resume(tmp_path, {})

    assert (tmp_path / "a").read_bytes() == CONTENT


async def test_a_file_of_another_version_is_fetched_from_the_start(server, tmp_path):
    server.exports(entry(server, "a", count=3000))
    server.say("GET", "/files/a", Reply(200, TAG, CONTENT, stall=HALF))
    await cancelled(server, ClientRequest(base_url=server.url), tmp_path)
    other = CONTENT.replace(b"x", b"y")
    server.scripts["GET", "/files/a"] = [Reply(200, {"ETag": '"v2"'}, other)]

    await resume(tmp_path, {})

    assert (tmp_path / "a").read_bytes() == other


async def test_a_part_that_is_complete_is_not_fetched_again(server, tmp_path):
    server.exports(entry(server, "a", count=3000))
    server.say("GET", "/files/a", Reply(200, TAG, CONTENT, stall=HALF))
    await cancelled(server, ClientRequest(base_url=server.url), tmp_path)
    (tmp_path / ".helios-export/parts/a").write_bytes(CONTENT)
    server.scripts["GET", "/files/a"] = [Reply(416, {"Content-Range": f"bytes */{len(CONTENT)}"})]

    await resume(tmp_path, {})

    assert (tmp_path / "a").read_bytes() == CONTENT


@pytest.mark.parametrize("damage", [b"{}\n", CONTENT[:-5]])
async def test_a_finished_file_that_has_suffered_is_fetched_again(server, tmp_path, damage):
    server.exports(entry(server, "a", count=3001), entry(server, "b", count=1))
    server.say("GET", "/files/a", Reply(200, TAG, CONTENT + b"{}\n"))
    server.say("GET", "/files/b", Reply(200, TAG, b"{}\n" * 9, stall=3))
    await cancelled(
        server, ClientRequest(base_url=server.url), tmp_path, ExportOptions(parallel=1)
    )
    assert (tmp_path / "a").exists()
    (tmp_path / "a").write_bytes(damage)
    server.scripts["GET", "/files/b"] = [Reply(body=b"{}\n")]

    await resume(tmp_path, {})

    assert (tmp_path / "a").read_bytes() == CONTENT + b"{}\n"


async def test_an_export_that_was_never_accepted_begins_again(server, tmp_path):
    """The process was killed between the folder and the response to the kick-off."""
    request = ClientRequest(base_url=server.url, query="_type=Patient")
    with ExportFolder.create(tmp_path, ExportState(request=request)):
        pass
    server.exports()

    await resume(tmp_path, {})

    [kick_off] = server.asked("GET", "/$export")
    assert kick_off.target == "/$export?_type=Patient"


async def test_tenant_and_names_of_headers_are_kept_and_no_secret_is(server, tmp_path):
    server.exports(entry(server, "a", count=3000))
    server.say("GET", "/files/a", Reply(200, TAG, CONTENT, stall=HALF))
    headers = {"X-Tenant-ID": "acme", "X-Key": "hush"}
    await cancelled(server, ClientRequest(base_url=server.url, headers=headers), tmp_path)
    server.scripts["GET", "/files/a"] = [Reply(200, TAG, CONTENT)]

    for file in (tmp_path / ".helios-export").rglob("*.json"):
        assert b"hush" not in file.read_bytes()
    with pytest.raises(ConfigurationError, match="--header 'X-Key: …'"):
        await resume(tmp_path, {})
    await resume(tmp_path, {"x-key": "hush"})

    assert {request.headers["x-tenant-id"] for request in server.requests} == {"acme"}
    assert {request.headers["x-key"] for request in server.requests} == {"hush"}


async def test_a_file_that_is_not_as_announced_can_be_fetched_again(server, tmp_path):
    server.exports(entry(server, "a", count=2))
    server.say("GET", "/files/a", Reply(body=b"{}\n"))

    with pytest.raises(ExportFailed, match="has 1 lines; the manifest says 2"):
        await export(ClientRequest(base_url=server.url), tmp_path)

    assert not (tmp_path / "a").exists()
    assert server.asked("DELETE", "/jobs/1") == []
    server.scripts["GET", "/files/a"] = [Reply(body=b"{}\n{}\n")]
    assert (await resume(tmp_path, {})).lines == 2


@pytest.mark.parametrize("compression", FileCompression)
async def test_files_are_kept_as_the_export_was_begun(server, tmp_path, compression):
    packed = gzip.compress(CONTENT)
    server.exports(entry(server, "a", count=3000), entry(server, "b", count=1))
    server.say("GET", "/files/a", Reply(200, TAG | {"Content-Encoding": "gzip"}, packed))
    server.say("GET", "/files/b", Reply(200, TAG, b"{}\n" * 9, stall=3))
    options = ExportOptions(parallel=1, compression=compression)
    await cancelled(server, ClientRequest(base_url=server.url), tmp_path, options, received=3)
    server.scripts["GET", "/files/b"] = [Reply(body=b"{}\n")]

    summary = await resume(tmp_path, {})

    kept = {
        "keep": {"a.gz": packed, "b": b"{}\n"},
        "none": {"a": CONTENT, "b": b"{}\n"},
    }
    files = {file.path.name: file.path.read_bytes() for file in summary.files}
    if compression is FileCompression.ZSTD:
        unpacked = zstandard.ZstdDecompressor().stream_reader(files["a.zst"]).read()
        assert (unpacked, set(files)) == (CONTENT, {"a.zst", "b.zst"})
    else:
        assert files == kept[compression]
    assert len(server.asked("GET", "/files/a")) == 0


async def test_what_is_discarded_is_gone_on_both_sides(server, tmp_path):
    server.exports(entry(server, "a", count=3000), entry(server, "b", count=1))
    server.say("GET", "/files/a", Reply(200, TAG, CONTENT, stall=HALF))
    server.say("GET", "/files/b", Reply(body=b"{}\n"))
    await cancelled(server, ClientRequest(base_url=server.url), tmp_path)

    await discard(tmp_path, {})

    assert len(server.asked("DELETE", "/jobs/1")) == 1
    assert not has_state(tmp_path)
    assert (tmp_path / "manifest.json").exists()
    with pytest.raises(ConfigurationError, match="no unfinished export"):
        await resume(tmp_path, {})


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, None), (410, None), (403, RequestRefused), (None, ServerUnreachable)],
)
async def test_only_what_the_server_has_deleted_is_discarded(server, tmp_path, status, error):
    state = ExportState(
        request=ClientRequest(base_url=server.url),
        status_url=f"{server.url if status else 'http://127.0.0.1:9'}/jobs/1",
    )
    with ExportFolder.create(tmp_path, state):
        pass
    server.say("DELETE", "/jobs/1", Reply(status or 0))

    if error is None:
        await discard(tmp_path, {})
    else:
        with pytest.raises(error):
            await discard(tmp_path, {})

    assert has_state(tmp_path) is (error is not None)


@pytest.mark.parametrize("gone", [404, 410])
@pytest.mark.parametrize("manifest", [True, False])
async def test_an_export_that_was_deleted_cannot_go_on(server, tmp_path, gone, manifest):
    server.exports(entry(server, "a", count=3000))
    server.say("GET", "/files/a", Reply(200, TAG, CONTENT, stall=HALF))
    await cancelled(server, ClientRequest(base_url=server.url), tmp_path)
    server.scripts["GET", "/files/a"] = [Reply(gone)]
    server.scripts["GET", "/jobs/1"] = [Reply(gone)]
    if not manifest:
        (tmp_path / "manifest.json").unlink()

    with pytest.raises(ExportGone, match="start it again, in another folder"):
        await resume(tmp_path, {})

    assert (tmp_path / ".helios-export/parts/a").exists()
    server.scripts["DELETE", "/jobs/1"] = [Reply(gone)]
    assert await discard(tmp_path, {}) is False
    assert not has_state(tmp_path)


async def test_a_file_that_is_gone_is_no_export_that_is_gone(server, tmp_path):
    server.exports(entry(server, "a", count=3000))
    server.say("GET", "/files/a", Reply(404))

    with pytest.raises(RequestRefused, match="404"):
        await export(ClientRequest(base_url=server.url), tmp_path)


async def test_an_export_that_is_gone_is_said_and_its_files_stay(server, tmp_path):
    state = ExportState(
        request=ClientRequest(base_url=server.url), status_url=f"{server.url}/jobs/1"
    )
    with ExportFolder.create(tmp_path, state):
        (tmp_path / "a").touch()

    with pytest.raises(ExportGone, match="not on the server any more"):
        await resume(tmp_path, {})

    assert (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["Patient-1-1.ndjson", "manifest.json", "notes.txt"])
async def test_files_of_two_exports_are_not_mixed(server, tmp_path, name):
    (tmp_path / name).touch()

    with pytest.raises(ConfigurationError, match="is not empty"):
        await export(ClientRequest(base_url=server.url), tmp_path)

    assert server.requests == []


async def test_an_unfinished_export_is_not_begun_anew(server, tmp_path):
    with ExportFolder.create(tmp_path, ExportState(request=ClientRequest(base_url=server.url))):
        pass

    with pytest.raises(ConfigurationError, match=f"helios export --resume {tmp_path}"):
        await export(ClientRequest(base_url=server.url), tmp_path)


async def test_only_one_process_works_on_a_folder(server, tmp_path):
    state = ExportState(request=ClientRequest(base_url=server.url))
    with (
        ExportFolder.create(tmp_path, state),
        pytest.raises(ConfigurationError, match="another helios export is running"),
    ):
        await resume(tmp_path, {})


@pytest.mark.parametrize(
    "damage", [b"\0", b"", b"{}", b"[]", b'{"request":{"base_url":"http://x"},"compression":"x"}']
)
async def test_a_state_that_cannot_be_read_is_said(tmp_path, damage):
    with ExportFolder.create(
        tmp_path, ExportState(request=ClientRequest(base_url="http://x"))
    ) as folder:
        (folder.state_folder / "state.json").write_bytes(damage)

    with pytest.raises(ConfigurationError, match="cannot be read"):
        await resume(tmp_path, {})
