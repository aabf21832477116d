"""`helios export` as a process: what it prints, and what is left when it is ended."""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import msgspec
import pytest
from click.testing import CliRunner

from helios_core.cli.commands import app
from helios_core.cli.export import ExportChoices, _credentials
from helios_core.cli.export_events import EVENTS
from helios_core.client.backend_services import BackendServices
from tests.client import scripted
from tests.client.scripted import Reply
from tests.pace import scaled
from tests.processes import HELIOS, POLL_SECONDS, READY, Site
from tests.small_disks import mounted

LINE = b'{"resourceType":"Patient","id":"%07d","text":"%s"}\n'
CONTENT = b"".join(LINE % (number, b"x" * 1000) for number in range(3000))
HALF = 2_000_000
TAG = {"ETag": '"v1"'}
PATIENTS = 400


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.end()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The address of a server whose exports consist of many files."""
    folder = tmp_path_factory.mktemp("served")
    site = Site(folder, HFS_BULK_EXPORT_PART_BYTES="8000")
    file = folder / "patients.ndjson"
    file.write_bytes(b"".join(LINE % (number, b"x" * 400) for number in range(PATIENTS)))
    site.run("load", str(file))
    _, client = site.serve()
    yield client.base_url
    site.end()


@pytest.fixture
async def server():
    async with scripted.running() as server:
        yield server


class Ended(msgspec.Struct):
    code: int
    out: str
    err: str

    @property
    def events(self):
        return [json.loads(line) for line in self.out.splitlines()]


def run(*arguments):
    """Run the command in this process, where it makes no difference."""
    done = CliRunner().invoke(app, ["export", *map(str, arguments)])
    assert done.exc_info[0] is SystemExit, done.exception
    return Ended(done.exit_code, done.stdout, done.stderr)


async def start(*arguments, command=(HELIOS,)):
    return await asyncio.create_subprocess_exec(
        *command,
        "export",
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process):
    out, err = await process.communicate()
    return Ended(process.returncode, out.decode(), err.decode())


async def until_received(folder, size):
    """Wait until that much of the file is on disk."""
    part = folder / ".helios-export/parts/a"
    while not part.is_file() or part.stat().st_size < size:
        await asyncio.sleep(POLL_SECONDS)


def lines_in(folder):
    return sorted(
        line for file in folder.glob("*.ndjson") for line in file.read_bytes().splitlines()
    )


def stalling(server):
    """Script an export whose one file stops half-way."""
    server.exports({"type": "Patient", "url": f"{server.url}/a", "count": 3000})
    server.say("GET", "/a", Reply(200, TAG, CONTENT, stall=HALF))


def going_on(server, start):
    span = {"Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"}
    server.scripts["GET", "/a"] = [Reply(206, TAG | span, CONTENT[start:])]
    server.requests.clear()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_export_says_how_to_go_on_and_does(server, tmp_path, number):
    stalling(server)
    folder = tmp_path / "a folder"
    process = await start(server.url, "--to", folder)
    await until_received(folder, 1_000_000)

    process.send_signal(number)
    first = await ended(process)
    received = (folder / ".helios-export/parts/a").stat().st_size
    going_on(server, received)
    second = await ended(await start("--resume", folder))

    assert first.code == 130
    assert f"helios export --resume '{folder}'" in first.err
    assert "--discard" in first.err
    assert "Traceback" not in first.err
    assert second.code == 0, second.err
    assert (folder / "a").read_bytes() == CONTENT
    assert [(r.method, r.path) for r in server.requests] == [("GET", "/a"), ("DELETE", "/jobs/1")]
    assert server.requests[0].headers["range"] == f"bytes={received}-"


async def test_an_export_that_was_killed_goes_on_at_the_byte_it_was_at(server, tmp_path):
    stalling(server)
    process = await start(server.url, "--to", tmp_path / "out")
    await until_received(tmp_path / "out", 1_000_000)

    process.kill()
    await process.communicate()
    received = (tmp_path / "out/.helios-export/parts/a").stat().st_size
    going_on(server, received)
    done = await ended(await start("--resume", tmp_path / "out"))

    assert done.code == 0, done.err
    assert (tmp_path / "out/a").read_bytes() == CONTENT
    assert server.requests[0].headers["range"] == f"bytes={received}-"
    assert server.requests[0].headers["if-range"] == '"v1"'


ENDS_WHILE_IT_WRITES = """
import resource, signal, sys
from helios_core.cli.commands import app

signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
size = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
app()
"""
"""`helios`, killed by the kernel when a file grows beyond a size."""


@pytest.mark.parametrize("received", [500_000, 1_500_000])
async def test_an_export_that_was_killed_while_it_wrote_goes_on_at_that_byte(
    server, tmp_path, received
):
    """Within a write, so that nothing else was done between its bytes and the end."""
    server.exports({"type": "Patient", "url": f"{server.url}/a", "count": 3000})
    server.say("GET", "/a", Reply(200, TAG, CONTENT))
    folder = tmp_path / "out"
    command = (sys.executable, "-c", ENDS_WHILE_IT_WRITES, str(received))
    killed = await ended(await start(server.url, "--to", folder, command=command))
    going_on(server, received)
    done = await ended(await start("--resume", folder))

    assert killed.code == -signal.SIGXFSZ
    assert done.code == 0, done.err
    assert (folder / "a").read_bytes() == CONTENT
    assert server.requests[0].headers["range"] == f"bytes={received}-"


@pytest.mark.parametrize("stage", ["kick-off", "polling", "downloading"])
async def test_it_stops_at_once_while_the_server_is_silent(server, tmp_path, stage):
    """Compared with the time that the process needs to start and to fail by itself."""
    began = time.monotonic()
    await ended(await start("http://127.0.0.1:9", "--to", tmp_path / "probe", "--type", ","))
    probe = time.monotonic() - began
    server.exports({"type": "Patient", "url": f"{server.url}/a", "count": 3000})
    path = {"kick-off": "/$export", "polling": "/jobs/1", "downloading": "/a"}[stage]
    server.scripts["GET", path] = [Reply(200, {}, CONTENT, stall=9)]
    process = await start(server.url, "--to", tmp_path / "out")
    await server.stalled.wait()

    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    done = await ended(process)

    assert done.code == 130
    assert time.monotonic() - began < scaled(1) + probe
    # Before the server has answered nobody knows of an export.
    assert ("The export stays on the server" in done.err) is (stage != "kick-off")
    assert ("Interrupted before the server responded" in done.err) is (stage == "kick-off")
    assert f"helios export --resume {tmp_path / 'out'}" in done.err


async def test_what_is_discarded_is_deleted_on_the_server(server, tmp_path):
    stalling(server)
    process = await start(server.url, "--to", tmp_path / "out")
    await until_received(tmp_path / "out", 1_000_000)
    process.kill()
    await process.communicate()

    done = await ended(await start("--resume", tmp_path / "out", "--discard"))

    assert done.code == 0, done.err
    assert len(server.asked("DELETE", "/jobs/1")) == 1
    again = await ended(await start("--resume", tmp_path / "out"))
    assert (again.code, "no unfinished export" in again.err) == (2, True)


async def test_an_export_that_is_gone_is_cleared_and_not_gone_on_with(server, tmp_path):
    stalling(server)
    folder = tmp_path / "out"
    process = await start(server.url, "--to", folder)
    await until_received(folder, 1_000_000)
    process.kill()
    await process.communicate()
    for path in ("/a", "/jobs/1"):
        server.scripts["GET", path] = [Reply(404)]
    server.scripts["DELETE", "/jobs/1"] = [Reply(404)]

    told = await ended(await start("--resume", folder, "--json"))
    cleared = await ended(await start("--resume", folder, "--discard"))

    assert told.code == 1
    assert msgspec.json.decode(told.out.splitlines()[-1])["resume"] is None
    assert "Go on with" not in told.err
    assert f"--resume {folder} --discard" in told.err
    assert (cleared.code, "There is no such export on the server" in cleared.out) == (0, True)
    assert not (folder / ".helios-export").exists()


async def test_a_full_disk_is_survived(server, tmp_path, small_disk):
    server.exports({"type": "Patient", "url": f"{server.url}/a", "count": 3000})
    server.say("GET", "/a", Reply(200, TAG, CONTENT))
    folder = small_disk / "out"

    first = await ended(await start(server.url, "--to", folder))
    received = (folder / ".helios-export/parts/a").stat().st_size
    await asyncio.to_thread(
        subprocess.run, ["mount", "-o", "remount,size=20m", str(small_disk)], check=True
    )
    going_on(server, received)
    second = await ended(await start("--resume", folder))

    assert first.code == 1
    assert "No space left" in first.err
    assert str(folder) in first.err
    assert f"--resume {folder}" in first.err
    assert 0 < received < len(CONTENT)
    assert second.code == 0, second.err
    assert (folder / "a").read_bytes() == CONTENT


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes."""
    with mounted(tmp_path / "small", "2m") as folder:
        yield folder


def test_a_client_that_is_killed_again_and_again_loses_and_repeats_nothing(url, tmp_path):
    """At any moment, against a real server; each start goes on from where the last one was."""
    folder, chance = tmp_path / "out", random.Random(5)
    began = time.monotonic()
    whole = run(url, "--to", tmp_path / "whole")
    whole_seconds = time.monotonic() - began
    arguments = ["--to", folder, url]
    for _ in range(8):
        process = subprocess.Popen(
            [HELIOS, "export", *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(timeout=whole_seconds * chance.uniform(0.3, 1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if (folder / ".helios-export/state.json").is_file():
            arguments = ["--resume", folder]
        elif (folder / "manifest.json").is_file():
            break
    else:
        assert run(*arguments).code == 0

    assert whole.code == 0
    assert lines_in(folder) == lines_in(tmp_path / "whole")
    assert len(lines_in(folder)) == PATIENTS
    assert not (folder / ".helios-export").exists()
    verified = subprocess.run([HELIOS, "verify", folder / "manifest.json"], check=False)
    assert verified.returncode == 0


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("/$export?_type=Patient", ("--until", "2999-01-01T00:00:00Z")),
        ("/Patient/$export", ("--type", "Patient", "--associated", "LatestProvenanceResources")),
        ("", ("--type", "Patient", "--type-filter", "Patient?_id=0000000,0000001")),
        ("/Patient/$export?_type=Patient", ("--patient", "0000000", "--organize-by", "Patient")),
        (
            "",
            ("--level", "patient", "--elements", "id,text", "--header", "Prefer: handling=strict"),
        ),
    ],
)
def test_what_the_server_offers_can_be_requested(url, tmp_path, path, options):
    done = run(f"{url}{path}", "--to", tmp_path / "out", *options)

    expected = {"--type-filter": 2, "--patient": 1}
    count = next((expected[name] for name in options if name in expected), PATIENTS)
    assert done.code == 0, done.err
    assert f"{count} resources as of" in done.out
    kick_off = json.loads((tmp_path / "out/manifest.json").read_bytes())["request"]
    assert path.partition("?")[0] in kick_off


@pytest.mark.parametrize("address", ["?_type=Patient", "/Patient?_type=Patient"])
async def test_a_base_with_a_query_is_refused_with_the_command_that_was_meant(
    server, tmp_path, address
):
    done = await ended(await start(f"{server.url}{address}", "--to", tmp_path / "out"))

    assert done.code == 2
    meant = address.replace("?", "/$export?")
    assert f"helios export '{server.url}{meant}'" in done.err
    assert not (tmp_path / "out").exists()
    assert server.requests == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["http://x"], "--to FOLDER"),
        (["--to", "x"], "helios export URL"),
        (["http://x", "--resume", "x"], "changed by URL"),
        (["--resume", "x", "--type", "Patient", "--to", "y"], "changed by --to, --type"),
        (["http://x", "--to", "x", "--discard"], "--resume x --discard"),
        (["http://x/$export?_since=y", "--to", "x", "--since", "z"], "_since: both"),
        (["http://x/Patient/$export", "--to", "x", "--level", "system"], "level already"),
        (["http://x", "--to", "x", "--level", "group"], "needs --group"),
        (["http://x", "--to", "x", "--header", "no colon"], "Name: value"),
        (["http://x", "--to", "x", "--header", "Ünn: x"], "Name: value"),
        (["http://x", "--to", "x", "--header", "X-A: ä"], "printable ASCII"),
        (["http://x", "--to", "x", "--header", "X-A: a\nb"], "printable ASCII"),
        (["http://x", "--to", "x", "--tenant", "ä"], "printable ASCII"),
        (["http://x", "--to", "x", "--tenant", "a", "--header", "x-tenant-id: b"], "twice"),
        (["http://x", "--to", "x", "--json", "--quiet"], "exclude"),
        (["--resume", "/nowhere"], "no unfinished export"),
        (["http://x", "--to", "x", "--client-id", "a"], "--key"),
        (["http://x", "--to", "x", "--key", "a"], "--key"),
        (["http://x", "--to", "x", "--scope", "a"], "need --client-id"),
        (
            ["http://x", "--to", "x", "--client-id", "a", "--key", "b", "--token-file", "c"],
            "exclude each other",
        ),
        (
            ["http://x", "--to", "x", "--token-file", "c", "--header", "Authorization: Bearer d"],
            "exclude each other",
        ),
        (["http://x", "--to", "x", "--client-id", "a", "--key", "/nowhere"], "cannot be read"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, arguments, words):
    done = run(*arguments)

    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err


LENIENT = ("--header", "Prefer: handling=lenient", "--type", "Patient,Nonsense")


def test_what_the_server_left_out_is_the_last_that_is_said(url, tmp_path):
    refused = run(url, "--to", tmp_path / "a", *LENIENT)
    accepted = run(url, "--to", tmp_path / "b", *LENIENT, "--allow-errors")
    quiet = run(url, "--to", tmp_path / "c", *LENIENT, "--quiet")

    assert (refused.code, accepted.code, quiet.code) == (3, 0, 3)
    assert ": complete; the list `error` has 1 lines about losses" in accepted.out
    *_, heading, problem, hint = refused.out.splitlines()
    assert heading == "The export is NOT complete:"
    assert "error-" in problem
    assert "Nonsense" in problem
    assert "--allow-errors" in hint
    assert "NOT complete" in accepted.out
    assert quiet.out == ""
    assert "Nonsense" in quiet.err


@pytest.mark.parametrize(
    "option", [("--tenant", "mistyped"), ("--header", "x-tenant-id: mistyped")]
)
def test_an_export_of_nothing_says_so(url, tmp_path, option):
    shown = run(url, "--to", tmp_path / "a", *option)

    assert "NOTHING was exported" in shown.out
    assert "tenant 'mistyped'" in shown.out


def test_a_quiet_export_of_nothing_says_so(url, tmp_path):
    quiet = run(url, "--to", tmp_path / "a", "--type", "Basic", "--quiet")

    assert "NOTHING was exported" in quiet.err
    # The URL or a token may have named the tenant, of which the command knows nothing.
    assert "tenant of the request" in quiet.err


HOSTILE = "\x1b]0;mine\x07\x1b[2J\x9b2J\u202etxt"


@pytest.mark.parametrize("quiet", [(), ("--quiet",)])
async def test_a_server_cannot_control_the_terminal(server, tmp_path, quiet):
    entry = {"type": HOSTILE, "url": f"{server.url}/a", "count": 1}
    issue = {"severity": "error", "code": "x", "diagnostics": HOSTILE}
    outcome = json.dumps({"resourceType": "OperationOutcome", "issue": [issue]}).encode()
    server.exports(
        entry, error=[entry | {"url": f"{server.url}/b"}], transactionTime=f"2026{HOSTILE}"
    )
    server.say("GET", "/a", Reply(body=b'{"resourceType":"Patient","id":"a"}\n'))
    server.say("GET", "/b", Reply(body=outcome + b"\n"))
    server.say("GET", "/Patient/$export", Reply(400, {}, outcome))

    done = await ended(await start(server.url, "--to", tmp_path / "a", *quiet))
    refused = await ended(
        await start(f"{server.url}/Patient/$export", "--to", tmp_path / "b", *quiet)
    )

    assert (done.code, refused.code) == (3, 1)
    assert "error: ]0;mine[2J2Jtxt" in done.out + done.err
    assert "returned 400: ]0;mine[2J2Jtxt" in refused.err
    for text in (done.out, refused.out, refused.err, done.err):
        assert not re.search(r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u202e]", text)


async def test_files_that_are_not_what_the_proof_says_are_fetched_again(server, tmp_path):
    extension = {
        "urn:helios:completeness": {
            "algorithm": "xxh3-64-sum",
            "output": {"Patient": {"count": 1, "bytes": 3, "digest": "0000000000000000"}},
        }
    }
    entry = {"type": "Patient", "url": f"{server.url}/a", "count": 1}
    server.exports(entry, extension=extension)
    server.say("GET", "/a", Reply(200, TAG, b"{}\n"))
    folder = tmp_path / "out"

    first = await ended(await start(server.url, "--to", folder, "--allow-errors"))
    second = await ended(await start("--resume", folder, "--json"))

    for done in (first, second):
        assert done.code == 3
    assert "output Patient: 1 resources in a, but the content differs" in first.out
    assert f"--resume {folder}" in first.out.splitlines()[-1]
    assert second.events[-1]["resume"] == str(folder)
    assert len(server.asked("GET", "/a")) == 2
    assert server.asked("DELETE", "/jobs/1") == []


def test_events_are_json_objects_of_the_documented_kinds(url, tmp_path):
    done = run(url, "--to", tmp_path / "a", *LENIENT, "--json")
    failed = run(url, "--to", tmp_path / "b", "--group", "nobody", "--json")

    kinds = {event.__name__.lower(): event for event in EVENTS}
    for event in (*done.events, *failed.events):
        msgspec.convert(event, type=kinds[event["event"]], strict=True)
    assert {event["event"] for event in done.events} == kinds.keys()
    end = done.events[-1]
    assert (end["result"], end["exit_code"], end["resources"]) == ("incomplete", 3, PATIENTS)
    assert failed.events[-1]["result"] == "failed"
    assert "Group/nobody does not exist" in failed.events[-1]["problems"][0]


def test_findings_are_json_too(url, tmp_path):
    run(url, "--to", tmp_path / "a", "--compress", "zstd")

    done = subprocess.run(
        [HELIOS, "verify", tmp_path / "a/manifest.json", "--json"],
        capture_output=True,
        check=True,
    )

    report = json.loads(done.stdout)
    assert report["complete"] is True
    assert report["findings"][0]["resources"] == PATIENTS
    assert {path.suffix for path in (tmp_path / "a").iterdir()} == {".zst", ".json"}


def test_tables_are_tab_separated_in_a_pipe(url, tmp_path):
    done = run(url, "--to", tmp_path / "a", "--type", "Patient")

    header, first, *_ = done.out.splitlines()
    assert header == "file\tlist\tholds\tlines\tbytes"
    assert first.split("\t")[1:3] == ["output", "Patient"]


def test_the_port_of_an_option_comes_before_that_of_the_settings(site):
    process = site.start("serve", "--port", "0", "--host", "127.0.0.1", HFS_SERVER_PORT="1")

    assert process.wait_for(READY)
    assert process.stop() == 0


def test_a_shell_can_complete_commands_and_options():
    environ = {"_HELIOS_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    done = subprocess.run(
        [HELIOS],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environ, "COMP_WORDS": "helios export --res"},
    )

    assert "plain,--resume" in done.stdout


@pytest.mark.parametrize("key_id", [None, "mine"])
def test_an_interrupted_export_goes_on_as_the_same_client(tmp_path, key_id):
    begun = BackendServices("http://x", "lab", tmp_path / "key", key_id=key_id, scope="a")

    again = _credentials(ExportChoices(), {**begun.origin, "base_url": "http://x"})

    assert isinstance(again, BackendServices)
    assert again.origin == begun.origin
