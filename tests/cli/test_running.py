"""Commands that do something, as real processes."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from contextlib import closing
from itertools import dropwhile
from pathlib import Path

import httpx
import pytest

from tests.pace import Deadline, wait_for_end
from tests.processes import HELIOS, READY, Client, Process, Site, names

PATIENT = '{"resourceType":"Patient","id":"p1","active":true}'
OBSERVATION = (
    '{"resourceType":"Observation","id":"o1","status":"final","code":{"text":"x"},'
    '"subject":{"reference":"Patient/p1"}}'
)


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.end()


@pytest.fixture
def resources(tmp_path) -> Path:
    file = tmp_path / "resources.ndjson"
    file.write_text(f"{PATIENT}\n{OBSERVATION}\n")
    return file


def ended(process: Process) -> int:
    return wait_for_end(process.process)


@pytest.mark.parametrize("unwritable", ["a full disk", "a reader that has gone"])
def test_a_log_that_cannot_be_written_stops_no_export(site, resources, unwritable, tmp_path):
    site.run("load", str(resources))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if unwritable == "a full disk":
        output = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, output = os.pipe()
        os.close(reader)
    errors = tmp_path / "errors"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HFS_")}
    settings = site.settings | {
        "HFS_SERVER_PORT": str(port),
        "HFS_BULK_EXPORT_WORKER_CONCURRENCY": "2",
    }
    with errors.open("wb") as stderr:
        server = subprocess.Popen(
            [HELIOS, "serve"], env=inherited | settings, stdout=output, stderr=stderr
        )
    os.close(output)
    client = Client(f"http://127.0.0.1:{port}")
    site.clients.append(client)
    try:
        deadline = Deadline(60)
        while not is_ready(client):
            assert server.poll() is None, errors.read_text()
            assert not deadline.has_passed()
            time.sleep(0.05)

        exported = client.export()

        assert sorted(names(exported)) == ["Observation/o1", "Patient/p1"]
        assert "Traceback" not in errors.read_text()
    finally:
        server.terminate()
        wait_for_end(server)


def is_ready(client: Client) -> bool:
    try:
        return client.http.get("/health").is_success
    except httpx.TransportError:
        return False


def test_what_is_loaded_is_exported(site, resources, tmp_path):
    site.run("load", str(resources))
    server, client = site.serve()

    report = site.run("export", client.base_url, "--to", str(tmp_path / "files"))

    assert "2 resources" in report
    assert (tmp_path / "files" / "Patient-1-1.ndjson").read_bytes().count(b"\n") == 1
    assert server.stop() == 0


@pytest.mark.parametrize("guide", ["3", "4-draft"])
def test_what_was_exported_can_be_verified_later(site, resources, tmp_path, guide):
    site.run("load", str(resources))
    server, client = site.serve(HFS_BULK_DATA_IG=guide)
    folder = tmp_path / "files"

    exported = site.run("export", client.base_url, "--to", str(folder), "--type", "Patient")
    server.stop()
    verified = site.run("verify", str(folder))

    for report in (exported, verified):
        assert re.search(r"output\tPatient\t1\t\d+\tok", report)
        assert re.search(r"proof of completeness as of .*: complete", report)


@pytest.mark.parametrize(
    ("content", "verdict"), [(None, "missing: no file Patient-1-1.ndjson"), (b"{}\n", "mismatch")]
)
def test_what_is_not_whole_fails_the_verification(site, resources, tmp_path, content, verdict):
    site.run("load", str(resources))
    _, client = site.serve()
    folder = tmp_path / "files"
    site.run("export", client.base_url, "--to", str(folder))
    manifest = (folder / "manifest.json").rename(tmp_path / "manifest.json")
    file = folder / "Patient-1-1.ndjson"
    file.unlink()
    if content is not None:
        file.write_bytes(content)

    process = site.start("verify", str(manifest), "--dir", str(folder))

    assert ended(process) == 1
    assert verdict in process.output()
    assert "NOT complete" in process.output()


def test_a_manifest_without_a_proof_is_told_in_words(site, tmp_path):
    manifest = tmp_path / "manifest.json"
    manifest.write_text('{"transactionTime":"2026-01-01T00:00:00Z","output":[]}')

    process = site.start("verify", str(manifest))

    assert ended(process) == 1
    assert "helios: the manifest has no proof" in process.output()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_says_where_it_listens_and_stops_cleanly(site, number):
    server, client = site.serve()
    assert client.http.get("/health").status_code == 200

    server.signal(number)

    assert ended(server) == 0
    assert "sqlite/local-fs: jobs in sqlite, reach is one machine" in server.output()
    assert [event["event"] for event in server.events()][-1] == "server.stopped"
    assert "Traceback" not in server.output()


def test_what_a_server_prints_at_its_start_fits_a_terminal(site):
    server, client = site.serve(HFS_LOG_FORMAT="console", HFS_PLUGINS="smart_auth")
    assert client.http.get("/health").status_code == 200

    lines = server.output().splitlines()

    start = [line for line in lines if "request.answered" not in line]
    assert max(map(len, start)) <= 80
    assert any("auth.disabled host=127.0.0.1" in line for line in start)
    assert any("smart_auth" in line for line in start)


def test_workers_of_a_server_have_the_options_of_its_command(site):
    """The setting alone would be refused by server and worker."""
    server = site.start("serve", "--port", "0", HFS_SERVER_PORT="none")
    with closing(Client(server.wait_for(READY))) as client:
        client.put({"resourceType": "Patient", "id": "ada"})

        manifest = client.manifest(client.kick_off())

    assert [entry["count"] for entry in manifest["output"]] == [1]
    assert "Traceback" not in server.output()


def test_only_log_lines_follow_the_greeting(site):
    server, client = site.serve()
    client.http.get("/metadata")
    server.stop()

    lines = server.output().splitlines()
    greeting = next(number for number, line in enumerate(lines) if line.startswith("Listening"))
    logged = [*dropwhile(lambda line: not line.startswith("{"), lines[greeting:])]

    assert logged
    for line in logged:
        assert {"event", "level", "timestamp"} <= json.loads(line).keys()


def test_a_taken_port_is_told_in_words(site):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        server = site.start("serve", HFS_SERVER_PORT=str(port))

        assert ended(server) == 2
    reason = f"cannot listen on 127.0.0.1 port {port} (Address already in use); HFS_SERVER_HOST"
    assert reason in " ".join(server.output().split())
    assert "HFS_SERVER_PORT" in server.output()
    assert "Traceback" not in server.output()


def test_an_output_folder_that_cannot_be_written_stops_the_start(site, tmp_path):
    (tmp_path / "file").write_text("not a folder")

    server = site.start("serve", HFS_BULK_EXPORT_OUTPUT_DIR=str(tmp_path / "file"))

    assert ended(server) == 2
    assert "Traceback" not in server.output()


def test_workers_alone_do_the_work(site, resources):
    site.run("load", str(resources))
    _, client = site.serve(HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER="true")
    status = client.kick_off()
    time.sleep(0.5)
    assert client.http.get(status).status_code == 202

    worker = site.start("worker")

    manifest = client.manifest(status)
    assert sum(file["count"] for file in manifest["output"]) == 2
    assert worker.stop() == 0
    assert worker.events()[-1]["event"] == "worker.stopped"


def test_workers_have_names_of_their_own(site, resources):
    site.run("load", str(resources))
    server, client = site.serve()
    client.manifest(client.kick_off())
    server.stop()

    names = {event["worker"] for event in server.events() if event["event"] == "shard.claimed"}

    assert names
    prefix = f"{socket.gethostname()}-{server.process.pid}-"
    assert all(name.startswith(prefix) for name in names)


def test_a_switched_off_export_is_not_offered(site):
    _, client = site.serve(HFS_BULK_EXPORT_ENABLED="false")

    response = client.http.get("/$export", headers={"Prefer": "respond-async"})

    assert response.status_code == 501


def test_migrating_says_what_was_done(site):
    assert site.run("migrate").startswith("sqlite: ")


def test_bad_lines_are_reported_and_the_exit_code_tells(site, resources):
    with resources.open("a") as file:
        file.write('{"resourceType":"Patient","id":"a/b"}\n')

    process = site.start("load", str(resources))

    assert ended(process) == 1
    assert f"{resources}, line 3" in process.output()


def test_loading_again_changes_nothing(site, resources):
    site.run("load", str(resources))

    report = site.run("load", str(resources))

    counts = report.strip().splitlines()[-1].split()
    assert counts[:5] == ["1", "2", "0", "0", "2"]


def test_a_load_reports_as_json(site, resources):
    with resources.open("a") as file:
        file.write('{"resourceType":"Patient"}\n')

    process = site.start("load", str(resources), "--json")

    assert ended(process) == 1
    report = json.loads(process.output()[process.output().index("{") :])
    assert (report["created"], report["bad"], report["interrupted"]) == (2, 1, False)
    assert report["problems"][0]["line"] == 3


def test_ids_are_assigned_by_the_option(site, resources):
    with resources.open("a") as file:
        file.write('{"resourceType":"Patient"}\n')

    assert site.run("load", str(resources), "--assign-ids")


def test_an_interrupted_load_says_what_it_has_done(site, tmp_path):
    path = tmp_path / "endless.ndjson"
    os.mkfifo(path)  # reading it never ends
    process = site.start("load", str(path))
    with path.open("wb") as writer:
        process.process.send_signal(signal.SIGINT)

        assert ended(process) == 130
        assert not writer.closed
    assert "load again to continue" in process.output()


def test_a_missing_file_is_told(site, tmp_path):
    process = site.start("load", str(tmp_path / "nowhere"))

    assert ended(process) == 2


def test_a_tenants_resources_are_its_own(site, resources, tmp_path):
    site.run("load", str(resources), "--tenant", "acme")
    _, client = site.serve()

    ours = site.run("export", client.base_url, "--to", str(tmp_path / "a"), "--tenant", "acme")
    others = site.run("export", client.base_url, "--to", str(tmp_path / "b"))

    assert "2 resources" in ours
    assert "0 resources" in others


def test_types_levels_and_instants_reach_the_server(site, resources, tmp_path):
    site.run("load", str(resources))
    _, client = site.serve()

    typed = site.run("export", client.base_url, "--to", str(tmp_path / "a"), "--type", "Patient")
    late = site.run(
        "export",
        client.base_url,
        "--to",
        str(tmp_path / "b"),
        "--level",
        "patient",
        "--since",
        "2999-01-01T00:00:00Z",
    )

    assert "1 resources" in typed
    assert "0 resources" in late


def test_a_refusal_of_the_server_is_told_in_words(site, tmp_path):
    _, client = site.serve()

    process = site.start("export", client.base_url, "--to", str(tmp_path / "x"), "--group", "g")

    assert ended(process) == 1
    assert "404" in process.output()
    assert "Traceback" not in process.output()


def test_a_server_that_is_not_there_is_told_in_words(tmp_path, refusing_port):
    process = Process(
        "export",
        f"http://127.0.0.1:{refusing_port}",
        "--to",
        str(tmp_path / "files"),
        settings={},
        log=tmp_path / "log",
    )

    assert ended(process) == 1
    assert "cannot be reached" in process.output()
    assert "Traceback" not in process.output()


def test_the_command_is_installed():
    assert os.access(HELIOS, os.X_OK)
