"""The client against a server that is not ours."""

import gzip
import stat
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import msgspec
import pytest

from helios_core.client.errors import ExportFailed, RequestRefused
from helios_core.client.export import ExportOptions, ExportPhase, export
from helios_core.client.kickoff import ClientRequest
from helios_core.errors import ConfigurationError
from helios_core.model.exports import Level
from tests.client import scripted
from tests.client.scripted import Reply

LINES = b'{"resourceType":"Patient","id":"a"}\n{"resourceType":"Patient","id":"b"}\n'
AT_ONCE = {"Retry-After": "0"}


def outcome(code: str, words: str) -> bytes:
    issue = {"severity": "error", "code": code, "diagnostics": words}
    return msgspec.json.encode({"resourceType": "OperationOutcome", "issue": [issue]})


def file(server, name="Patient.ndjson", count: int | None = 2, **more) -> dict:
    entry = {"type": "Patient", "url": f"{server.url}/files/{name}"} | more
    return entry if count is None else entry | {"count": count}


async def test_an_export_gives_files_manifest_and_counts(server, tmp_path):
    server.exports(file(server))
    server.say("GET", "/files/Patient.ndjson", Reply(body=LINES))

    summary = await export(ClientRequest(base_url=server.url), tmp_path / "new" / "folder")

    (got,) = summary.files
    assert (got.kind, got.type, got.lines, got.size) == ("output", "Patient", 2, len(LINES))
    assert got.path == tmp_path / "new" / "folder" / "Patient.ndjson"
    assert got.path.read_bytes() == LINES
    assert (got.path.parent / "manifest.json").read_bytes() == summary.manifest
    assert (summary.lines, summary.deleted) == (2, True)
    assert summary.transaction_time == "2026-01-01T00:00:00Z"


async def test_a_server_that_takes_no_get_is_asked_by_post(server, tmp_path):
    """B4-01, B4-02: repeated entries instead of a list."""
    server.exports(file(server))
    server.say("GET", "/files/Patient.ndjson", Reply(body=LINES))
    server.say("POST", "/$export", *server.scripts.pop(("GET", "/$export")))
    server.say("GET", "/$export", Reply(405))
    order = ClientRequest(
        base_url=server.url, types=["Patient", "Device"], since="2026-01-01T00:00:00Z"
    )

    summary = await export(order, tmp_path)

    assert summary.lines == 2
    [posted] = server.asked("POST", "/$export")
    assert msgspec.json.decode(posted.body)["parameter"] == [
        {"name": "_type", "valueString": "Patient"},
        {"name": "_type", "valueString": "Device"},
        {"name": "_since", "valueInstant": "2026-01-01T00:00:00Z"},
    ]


async def test_nothing_but_the_files_stays(server, tmp_path):
    server.exports(file(server))
    server.say(
        "GET",
        "/files/Patient.ndjson",
        Reply(body=gzip.compress(LINES), headers={"Content-Encoding": "gzip"}),
    )

    await export(ClientRequest(base_url=server.url), tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"Patient.ndjson", "manifest.json"}


async def test_a_folder_that_an_export_creates_is_for_its_user_alone(server, tmp_path):
    server.exports()
    own, shared = tmp_path / "own", tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)

    for folder in (own, shared):
        await export(ClientRequest(base_url=server.url), folder)

    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (own, shared)] == [0o700, 0o755]


@pytest.mark.parametrize(
    ("order", "path"),
    [
        ({}, "/$export"),
        ({"level": Level.PATIENT}, "/Patient/$export"),
        ({"level": Level.GROUP, "group_id": "g1"}, "/Group/g1/$export"),
    ],
)
async def test_each_level_has_its_address(server, tmp_path, order, path):
    server.exports()
    server.scripts["GET", path] = server.scripts["GET", "/$export"]

    await export(ClientRequest(base_url=f"{server.url}/", **order), tmp_path)

    (kick_off,) = server.asked("GET", path)
    assert kick_off.headers["prefer"] == "respond-async"
    assert kick_off.headers["accept"] == "application/fhir+json"
    assert "?" not in kick_off.target


async def test_parameters_reach_the_server(server, tmp_path):
    server.exports()
    order = ClientRequest(
        base_url=server.url,
        types=("Patient", "Group"),
        since="2026-01-01T00:00:00+01:00",
        until="2026-02-01T00:00:00Z",
    )

    await export(order, tmp_path)

    (kick_off,) = server.asked("GET", "/$export")
    assert kick_off.target == (
        "/$export?_type=Patient%2CGroup&_since=2026-01-01T00%3A00%3A00%2B01%3A00"
        "&_until=2026-02-01T00%3A00%3A00Z"
    )


async def test_a_kick_off_waits_as_long_as_the_server_wants(server, tmp_path):
    server.say("GET", "/$export", Reply(429, AT_ONCE), Reply(503, AT_ONCE))
    server.exports()

    await export(ClientRequest(base_url=server.url), tmp_path)

    assert len(server.asked("GET", "/$export")) == 3


async def test_a_refused_kick_off_is_told_with_the_servers_words(server, tmp_path):
    server.say("GET", "/$export", Reply(400, {}, outcome("value", "no such type")))

    with pytest.raises(RequestRefused, match="returned 400: no such type"):
        await export(ClientRequest(base_url=server.url), tmp_path)

    assert len(server.requests) == 1


async def test_a_refusal_that_nobody_can_read_is_told_by_its_status(server, tmp_path):
    nested = b"[" * 100_000 + b"]" * 100_000
    body = b'{"resourceType":"OperationOutcome","text":' + nested + b"}"
    server.say("GET", "/$export", Reply(400, {}, body))

    with pytest.raises(RequestRefused, match="returned 400: "):
        await export(ClientRequest(base_url=server.url), tmp_path)


@pytest.mark.parametrize("location", ["http://xn--/", "http://[::1/", "ftp://127.0.0.1/"])
async def test_a_server_that_leads_to_no_address_is_refused(server, tmp_path, location):
    server.say("GET", "/$export", Reply(302, {"Location": location}))
    server.say("GET", "/Patient/$export", Reply(202, {"Content-Location": location}))

    for level in (Level.SYSTEM, Level.PATIENT):
        with pytest.raises(ExportFailed):
            await export(ClientRequest(base_url=server.url, level=level), tmp_path / level)


async def test_a_refused_kick_off_leaves_no_folder_behind(server, tmp_path):
    folders = [tmp_path / "new", tmp_path / "existing"]
    folders[1].mkdir()
    server.say("GET", "/$export", *2 * [Reply(400, {}, outcome("value", "no such type"))])

    for folder in folders:
        with pytest.raises(RequestRefused):
            await export(ClientRequest(base_url=server.url), folder)

    assert list(tmp_path.iterdir()) == [folders[1]]
    assert not list(folders[1].iterdir())


async def test_an_address_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="not an http or https address"):
        await export(ClientRequest(base_url="example.org"), tmp_path)


async def test_a_kick_off_without_location_is_refused(server, tmp_path):
    server.say("GET", "/$export", Reply(202))

    with pytest.raises(ExportFailed, match="no Content-Location"):
        await export(ClientRequest(base_url=server.url), tmp_path)


async def test_progress_is_passed_on(server, tmp_path):
    polls = (Reply(202, AT_ONCE | {"X-Progress": "41 %"}), Reply(202, AT_ONCE))
    server.exports(file(server), polls=polls)
    server.say("GET", "/files/Patient.ndjson", Reply(body=LINES))
    seen = []

    await export(
        ClientRequest(base_url=server.url), tmp_path, ExportOptions(on_progress=seen.append)
    )

    assert "41 %" in [now.message for now in seen]
    assert [now.phase for now in (seen[0], seen[-1])] == [ExportPhase.STARTING, ExportPhase.DONE]
    last = seen[-1]
    assert (last.files_done, last.files_total, last.lines_done) == (1, 1, 2)
    assert (last.lines_total, last.bytes_received) == (2, len(LINES))


@pytest.fixture
def waited(monkeypatch):
    """The seconds for which polling waits, none of which pass."""
    seconds = []

    async def wait(delay):
        seconds.append(delay)

    monkeypatch.setattr("helios_core.client.export.asyncio.sleep", wait)
    return seconds


async def test_polling_waits_until_the_date_the_server_names(server, tmp_path, waited):
    past = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    server.exports(polls=(Reply(202, {"Retry-After": past}), Reply(202, {"Retry-After": "7"})))

    await export(ClientRequest(base_url=server.url), tmp_path)

    assert waited == [0, 7]


async def test_without_retry_after_polling_slows_down_by_itself(server, tmp_path, waited):
    server.exports(polls=(Reply(202),) * 7)

    await export(ClientRequest(base_url=server.url), tmp_path)

    assert waited == [1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize(
    "passing",
    [
        Reply(429, AT_ONCE),
        Reply(503, AT_ONCE),
        Reply(500, AT_ONCE, outcome("transient", "later")),
        Reply(500, AT_ONCE),
        Reply(202, AT_ONCE, b"x" * 10, 5),
    ],
)
async def test_trouble_that_passes_while_polling_is_waited_out(server, tmp_path, passing):
    server.exports(polls=(passing,))

    summary = await export(ClientRequest(base_url=server.url), tmp_path)

    assert summary.files == ()


async def test_a_failed_export_is_told_with_its_reason_and_deleted(server, tmp_path):
    server.exports(polls=(Reply(500, {}, outcome("exception", "the disk is full")),))

    with pytest.raises(RequestRefused, match="the disk is full"):
        await export(ClientRequest(base_url=server.url), tmp_path)

    assert len(server.asked("GET", "/jobs/1")) == 1
    assert len(server.asked("DELETE", "/jobs/1")) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b'{"transactionTime": "caf\xe9"}',
        b'{"transactionTime": "", "extension": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
async def test_a_manifest_that_is_none_is_told(server, tmp_path, body):
    server.exports(polls=(Reply(200, {}, body),))

    with pytest.raises(ExportFailed, match="manifest cannot be read"):
        await export(ClientRequest(base_url=server.url), tmp_path)


async def test_a_server_that_cannot_delete_is_no_failure(server, tmp_path):
    server.exports()
    server.scripts["DELETE", "/jobs/1"] = [Reply(500)]

    summary = await export(ClientRequest(base_url=server.url), tmp_path)

    assert not summary.deleted


async def test_all_three_lists_are_downloaded(server, tmp_path):
    server.exports(
        file(server, "out", 2),
        deleted=[file(server, "gone", 2) | {"type": "Bundle"}],
        error=[file(server, "bad", 2) | {"type": "OperationOutcome"}],
    )
    for name in ("out", "gone", "bad"):
        server.say("GET", f"/files/{name}", Reply(body=LINES))

    summary = await export(ClientRequest(base_url=server.url), tmp_path)

    kinds = [(got.kind, got.path.name) for got in summary.files]
    assert kinds == [("output", "out"), ("deleted", "gone"), ("error", "bad")]
    assert summary.lines == 2


async def test_a_wrong_count_is_told(server, tmp_path):
    server.exports(file(server, count=3))
    server.say("GET", "/files/Patient.ndjson", Reply(body=LINES))

    with pytest.raises(ExportFailed, match="has 2 lines; the manifest says 3"):
        await export(ClientRequest(base_url=server.url), tmp_path)


async def test_a_manifest_without_counts_is_fine(server, tmp_path):
    server.exports(file(server, count=None))
    server.say("GET", "/files/Patient.ndjson", Reply(body=LINES.rstrip()))

    summary = await export(ClientRequest(base_url=server.url), tmp_path)

    assert summary.lines == 2


async def test_an_empty_file_has_no_lines(server, tmp_path):
    server.exports(file(server, count=0))
    server.say("GET", "/files/Patient.ndjson", Reply())

    assert (await export(ClientRequest(base_url=server.url), tmp_path)).lines == 0


async def test_equal_names_do_not_overwrite_each_other(server, tmp_path):
    server.exports(file(server, "1/part.ndjson"), file(server, "2/part.ndjson"))
    server.say("GET", "/files/1/part.ndjson", Reply(body=LINES))
    server.say("GET", "/files/2/part.ndjson", Reply(body=LINES.upper()))

    await export(ClientRequest(base_url=server.url), tmp_path)

    assert (tmp_path / "part.ndjson").read_bytes() == LINES
    assert (tmp_path / "2-part.ndjson").read_bytes() == LINES.upper()


async def test_a_name_made_different_stays_different(server, tmp_path):
    names = ("3-x", "1/x", "2/x", "x.part")
    server.exports(*(file(server, name) for name in names))
    for name in names:
        server.say("GET", f"/files/{name}", Reply(body=LINES))

    summary = await export(ClientRequest(base_url=server.url), tmp_path)

    assert [got.path.name for got in summary.files] == ["3-x", "x", "3-3-x", "x.part"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("..%2F..%2Fevil.ndjson", "_.._evil.ndjson"),
        ("%2e%2e", "output-1.ndjson"),
        ("a%20b.ndjson?token=x", "a_b.ndjson"),
        ("manifest.json", "1-manifest.json"),
        ("x.ndjson.gz", "x.ndjson"),
    ],
)
async def test_a_name_stays_in_the_folder(server, tmp_path, name, expected):
    server.exports(file(server, name))
    server.say("GET", f"/files/{name.partition('?')[0]}", Reply(body=LINES))

    summary = await export(ClientRequest(base_url=server.url), tmp_path / "inner")

    assert summary.files[0].path == tmp_path / "inner" / expected


async def test_headers_go_to_the_server_and_not_to_others(server, tmp_path):
    async with scripted.running() as storage:
        server.exports(file(server), file(storage, "signed"))
        server.say("GET", "/files/Patient.ndjson", Reply(body=LINES))
        storage.say("GET", "/files/signed", Reply(body=LINES))

        await export(ClientRequest(base_url=server.url, headers={"X-Tenant-ID": "acme"}), tmp_path)

        assert all(request.headers["x-tenant-id"] == "acme" for request in server.requests)
        assert [request.headers.get("x-tenant-id") for request in storage.requests] == [None]


async def test_at_most_so_many_files_are_fetched_at_a_time(server, tmp_path):
    server.exports(*(file(server, f"{number}") for number in range(9)))
    for number in range(9):
        server.say("GET", f"/files/{number}", Reply(body=LINES))

    summary = await export(ClientRequest(base_url=server.url), tmp_path, ExportOptions(parallel=1))

    fetched = [each.path for each in server.requests if each.path.startswith("/files/")]
    assert fetched == [f"/files/{number}" for number in range(9)]
    assert summary.lines == 18


async def test_a_folder_that_cannot_be_written_is_told(server, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(ExportFailed, match="cannot be written to"):
        await export(ClientRequest(base_url=server.url), tmp_path / "file")


async def test_a_link_that_expires_amid_a_download_is_renewed_by_a_poll(server, tmp_path):
    """What has come is kept, and the next files begin with the new links."""
    names = ("a.ndjson", "b.ndjson")
    manifests = [
        scripted_manifest(server, [f"{server.url}/files/{name}?sig={sig}" for name in names])
        for sig in ("old", "new")
    ]
    server.exports()
    server.scripts["GET", "/jobs/1"] = manifests
    tag = {"ETag": '"v1"'}
    rest = {"Content-Range": f"bytes 40-{len(LINES) - 1}/{len(LINES)}"}
    server.say("GET", "/files/a.ndjson", Reply(200, tag, LINES, cut=40))
    server.say("GET", "/files/a.ndjson", Reply(403), Reply(206, rest, LINES[40:]))
    server.say("GET", "/files/b.ndjson", Reply(body=LINES))

    summary = await export(ClientRequest(base_url=server.url), tmp_path, ExportOptions(parallel=1))

    assert summary.lines == 4
    assert (tmp_path / "a.ndjson").read_bytes() == LINES
    asked = [request.target for request in server.requests if "/files/" in request.target]
    assert asked == [
        "/files/a.ndjson?sig=old",
        "/files/a.ndjson?sig=old",
        "/files/a.ndjson?sig=new",
        "/files/b.ndjson?sig=new",
    ]


async def test_files_that_are_refused_with_new_links_too_are_given_up(server, tmp_path):
    server.exports(file(server, "a.ndjson?sig=same"))
    server.say("GET", "/files/a.ndjson", Reply(403))

    with pytest.raises(RequestRefused, match="returned 403") as refused:
        await export(ClientRequest(base_url=server.url), tmp_path)

    assert "sig" not in str(refused.value)
    assert len(server.asked("GET", "/jobs/1")) == 2


def scripted_manifest(server, urls):
    manifest = {
        "transactionTime": "2026-01-01T00:00:00Z",
        "requiresAccessToken": False,
        "output": [{"type": "Patient", "url": url, "count": 2} for url in urls],
        "error": [],
    }
    return Reply(200, {"Content-Type": "application/json"}, msgspec.json.encode(manifest))


def page(server, names, *, number, last):
    manifest = {
        "transactionTime": "2026-01-01T00:00:00Z",
        "requiresAccessToken": False,
        "output": [file(server, name) for name in names],
        "error": [],
    }
    if not last:
        manifest["link"] = [{"relation": "next", "url": f"{server.url}/pages/{number + 1}"}]
    return Reply(200, {}, msgspec.json.encode(manifest))


async def test_every_page_of_a_manifest_is_followed(server, tmp_path):
    server.exports()
    server.scripts["GET", "/jobs/1"] = [page(server, ["a", "b"], number=1, last=False)]
    server.say("GET", "/pages/2", page(server, ["c"], number=2, last=False))
    server.say("GET", "/pages/3", page(server, ["d"], number=3, last=True))
    for name in "abcd":
        server.say("GET", f"/files/{name}", Reply(body=LINES))

    summary = await export(ClientRequest(base_url=server.url), tmp_path)

    assert summary.lines == 8
    manifest = msgspec.json.decode((tmp_path / "manifest.json").read_bytes())
    assert [entry["url"][-1] for entry in manifest["output"]] == list("abcd")
    assert "link" not in manifest


async def test_pages_that_lead_in_a_circle_are_refused(server, tmp_path):
    server.exports()
    server.scripts["GET", "/jobs/1"] = [page(server, ["a"], number=1, last=False)]
    server.say("GET", "/pages/2", page(server, ["b"], number=1, last=False))

    with pytest.raises(ExportFailed, match="next page"):
        await export(ClientRequest(base_url=server.url), tmp_path)


@pytest.mark.parametrize("status", [405, 414])
async def test_what_a_get_cannot_say_is_said_by_post(server, tmp_path, status):
    server.exports()
    server.say("POST", "/$export", *server.scripts.pop(("GET", "/$export")))
    server.say("GET", "/$export", Reply(status))

    await export(ClientRequest(base_url=server.url, type_filters=("Patient?a=b",)), tmp_path)

    [posted] = server.asked("POST", "/$export")
    assert msgspec.json.decode(posted.body)["parameter"] == [
        {"name": "_typeFilter", "valueString": "Patient?a=b"}
    ]


async def test_a_long_download_survives_any_number_of_interruptions_that_get_further(
    server, tmp_path
):
    tag = {"ETag": '"v1"'}
    server.exports(file(server, "a", count=None))
    content = LINES * 20
    server.say("GET", "/files/a", Reply(200, tag, content, cut=10))
    for start in range(10, 110, 10):
        span = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        server.say("GET", "/files/a", Reply(206, tag | span, content[start:], cut=10))
    span = {"Content-Range": f"bytes 110-{len(content) - 1}/{len(content)}"}
    server.say("GET", "/files/a", Reply(206, tag | span, content[110:]))

    await export(ClientRequest(base_url=server.url), tmp_path)

    assert (tmp_path / "a").read_bytes() == content


async def test_a_range_that_ends_too_early_is_continued(server, tmp_path):
    """A 206 may be shorter than what was requested (RFC 9110 §15.3.7)."""
    tag = {"ETag": '"v1"'}
    server.exports(file(server, "a"))
    end = len(LINES)
    server.say("GET", "/files/a", Reply(200, tag, LINES, cut=10))
    for start, stop in ((10, 30), (30, end)):
        span = {"Content-Range": f"bytes {start}-{stop - 1}/{end}"}
        server.say("GET", "/files/a", Reply(206, tag | span, LINES[start:stop]))

    await export(ClientRequest(base_url=server.url), tmp_path)

    assert (tmp_path / "a").read_bytes() == LINES


def report(severity, words):
    issue = {"severity": severity, "code": "processing", "diagnostics": words}
    return msgspec.json.encode({"resourceType": "OperationOutcome", "issue": [issue]}) + b"\n"


@pytest.mark.parametrize("severity", ["warning", "error", "fatal", ""])
async def test_what_the_server_reports_as_missing_makes_an_export_incomplete(
    server, tmp_path, severity
):
    server.exports(file(server), error=[file(server, "bad", 3) | {"type": "OperationOutcome"}])
    server.say("GET", "/files/Patient.ndjson", Reply(body=LINES))
    lines = report("information", "a note") + report(severity, "Patient/x is damaged") + b"no\n"
    server.say("GET", "/files/bad", Reply(body=lines))

    summary = await export(ClientRequest(base_url=server.url), tmp_path)

    assert summary.is_intact
    assert not summary.is_complete
    assert summary.report.loss_count == 2
    assert [str(loss) for loss in summary.report.losses] == [
        f"bad, line 2: {severity or 'error'}: Patient/x is damaged",
        "bad, line 3: error: this line is not an OperationOutcome",
    ]
    assert [str(note) for note in summary.report.notes] == ["bad, line 1: information: a note"]


async def test_information_alone_leaves_an_export_complete(server, tmp_path):
    server.exports(outcome=[file(server, "notes", 1)])
    server.say("GET", "/files/notes", Reply(body=report("information", "a note")))

    summary = await export(ClientRequest(base_url=server.url), tmp_path)

    assert summary.is_complete
    assert summary.is_empty
    assert summary.report.note_count == 1


async def test_many_reports_are_counted_and_the_first_are_kept(server, tmp_path):
    server.exports(error=[file(server, "bad", 500)])
    server.say("GET", "/files/bad", Reply(body=report("error", "x") * 500))

    summary = await export(ClientRequest(base_url=server.url), tmp_path)

    assert (summary.report.loss_count, len(summary.report.losses)) == (500, 20)


@pytest.mark.parametrize("chunk", [1, 7, 1024])
async def test_headers_of_blocks_are_not_counted(server, tmp_path, monkeypatch, chunk):
    """Wherever the bytes are cut while they are counted."""
    monkeypatch.setattr("helios_core.client.downloads._CHUNK", chunk)
    header = b'{"resourceType":"Parameters","parameter":[]}\n'
    server.exports(file(server), outputOrganizedBy="Patient")
    server.say(
        "GET",
        "/files/Patient.ndjson",
        Reply(body=header + header.join(LINES.splitlines(keepends=True))),
    )

    assert (await export(ClientRequest(base_url=server.url), tmp_path)).lines == 2
