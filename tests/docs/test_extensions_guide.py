"""The extensions of the guide pass their suites, and work in a server of real processes."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.docs.elsewhere import PUBLIC, Elsewhere, imported_from_helios
from tests.pace import wait_for_end
from tests.processes import Site, names

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples/extensions"
GUIDE = DOCS / "how-to/extend-the-server.md"
SOURCES = [
    *(path for path in sorted(EXAMPLE.rglob("*.py")) if path.name != "__init__.py"),
    EXAMPLE / "pyproject.toml",
]
RESTRICTED = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality",
    "code": "R",
}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    return Elsewhere(tmp_path_factory.mktemp("third-party"), EXAMPLE)


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append((self.headers["authorization"], json.loads(body)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.received = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def site(elsewhere, receiver, tmp_path):
    site = Site(
        tmp_path,
        HFS_PLUGINS="confidential,disk,recent,statistics,webhook",
        HFS_DISK_MIN_FREE="1",
        HFS_WEBHOOK_URL=f"http://127.0.0.1:{receiver.server_port}/exports",
        HFS_WEBHOOK_TOKEN="hush",
    )
    site.helios = elsewhere.helios
    yield site
    site.end()


def load(site, *resources):
    file = site.folder / "resources.ndjson"
    file.write_text("".join(json.dumps(each) + "\n" for each in resources))
    site.run("load", str(file))


def test_every_extension_passes_its_suite(elsewhere):
    output = elsewhere.run_tests()

    assert re.search(r"^\d{2,} passed, 1 skipped", output, re.MULTILINE), output


def test_all_extensions_work_in_one_server(site, receiver):
    load(
        site,
        {"resourceType": "Patient", "id": "p1"},
        {"resourceType": "Patient", "id": "p2", "meta": {"security": [RESTRICTED]}},
    )
    process, client = site.serve()

    health = client.http.get("/health").json()
    exported = client.export()
    read = [client.http.get(f"/Patient/{name}").status_code for name in ("p1", "p2")]
    statistics = client.http.get("/_plugins/statistics/exports").json()
    stopped = process.stop()
    recent = site.run("recent")
    site.run("recent", "--to", str(site.folder / "list.txt"))

    assert "plugin confidential of helios-fhir-examples 0.1.0: transform" in process.output()
    assert health == {"status": "ok", "checks": ["disk/space"]}
    assert names(exported) == ["Patient/p1"]
    assert read == [200, 404]
    [statistic] = statistics
    assert statistic["level"] == "system"
    assert stopped == 0
    [(token, body)] = receiver.received
    assert (token, body["status"]) == ("Bearer hush", "complete")
    assert recent.splitlines()[0].startswith(body["export"])
    assert (site.folder / "list.txt").read_text() == recent
    assert "hush" not in process.output()


def test_a_full_disk_makes_the_server_unready(site):
    _, client = site.serve(HFS_DISK_MIN_FREE=str(1 << 62))

    response = client.http.get("/_readiness")

    assert response.status_code == 503
    [issue] = response.json()["issue"]
    assert "disk/space" in issue["diagnostics"]
    assert client.http.get("/_liveness").status_code == 200


def test_the_help_lists_the_command(elsewhere):
    output = elsewhere.run(elsewhere.helios, "--help", HFS_PLUGINS="recent")

    assert re.search(r"^  recent +List the exports", output, re.MULTILINE), output


def test_the_command_reports_in_a_sentence_that_it_cannot_write(site):
    file = site.folder / "nowhere/list.txt"

    command = site.start("recent", "--to", str(file))

    assert wait_for_end(command.process) == 1
    assert command.output() == f"helios: {file} cannot be written: No such file or directory\n"


def test_the_guide_shows_every_file_of_the_example():
    (tree,) = re.findall(r"```text\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    files = [path for path in EXAMPLE.rglob("*") if path.is_file() and path.suffix != ".pyc"]

    shown = [name for name in re.findall(r"─ (.+)", tree) if not name.endswith("/")]
    assert sorted(shown) == sorted(path.name for path in files)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_the_guide_shows_the_example_word_for_word(source):
    kind = "toml" if source.suffix == ".toml" else "python"

    assert f"```{kind}\n{source.read_text()}```\n" in GUIDE.read_text()


def test_the_example_imports_public_names_only():
    assert imported_from_helios(EXAMPLE) <= PUBLIC


def test_the_example_is_not_installed_here():
    with pytest.raises(ModuleNotFoundError):
        __import__("helios_examples")
