"""Commands print what the documentation shows; the README and the quickstart are all walked."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.pace import scaled
from tests.processes import HELIOS, Site

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
QUICKSTART = ROOT / "docs/quickstart.md"
SPEED = ROOT / "docs/explanation/speed.md"

CLI = ROOT / "docs/reference/cli.md"
CLUSTER = ROOT / "docs/how-to/cluster.md"
NETWORK = ROOT / "docs/how-to/network.md"
LOAD = ROOT / "docs/how-to/load-data.md"

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n", re.MULTILINE)
VOLATILE = {
    "instant": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z",
    "date": r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT",
    "id": r"[0-9a-f]{32}",
    "digest": r"[0-9a-f]{16}",
    "seconds": r"\d+\.\d s",
    "rate": r"\d+/s",
}
TOKEN = re.compile("|".join(f"(?P<{kind}>{form})" for kind, form in VOLATILE.items()))
ADDRESS = "http://127.0.0.1:8080"
INSTALLS = re.compile(r"pip install ")


def commands(page):
    """Every command of a page with what it shows, in order."""
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "console":
            _, *parts = COMMAND.split(text)
            yield from zip(parts[::2], parts[1::2], strict=True)


def written_files(page):
    """The documents of a page that its text names a file for."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"`([\w-]+\.json)`[^`]*```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def significant(text):
    """
    Lines without what depends on their order, on the widths of columns, and on a terminal.

    Pages show tables as a terminal does; in a pipe they are tab-separated and have no rules.
    """
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line.removesuffix(",") for line in lines if line.strip("─ ")]


def pattern(line):
    """A line as shown: an ellipsis stands for anything, and what changes has its form only."""
    parts, end = [], 0
    for token in re.finditer(rf"…|{TOKEN.pattern}", line):
        parts.append(re.escape(line[end : token.start()]))
        parts.append(".*" if token[0] == "…" else f"({VOLATILE[token.lastgroup]})")
        end = token.end()
    return re.compile("".join(parts) + re.escape(line[end:]))


def run(command, folder, settings):
    """Run a command to its end, and return what it printed and its exit code."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HFS_")}
    path = f"{HELIOS.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=inherited | settings | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=scaled(300),
    )


def printed(command, folder, settings):
    """What a command prints that must succeed."""
    ended = run(command, folder, settings)
    assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


class Walk:
    """A reader who types what a page shows."""

    def __init__(self, folder, demonstration):
        self.folder = folder
        self.demonstration = demonstration
        self.site = Site(folder)
        self.actual = {}
        """What stands for a token of the page here: an id, an instant, the address."""

    def type(self, command, shown):
        if INSTALLS.match(command):
            return
        if command == "helios demo":
            shutil.copytree(self.demonstration.folder, self.folder, dirs_exist_ok=True)
            self.compare(command, shown, self.demonstration.output)
        elif command == "helios serve":
            self.serve(shown)
        else:
            self.compare(command, shown, self.output(command))

    def serve(self, shown):
        process, self.client = self.site.serve()
        self.actual[ADDRESS] = self.client.base_url
        *_, last = (line.strip() for line in shown.splitlines() if line.strip(" …"))
        last = last.replace(ADDRESS, self.client.base_url)
        process.wait_for(re.compile("()" + r"\s+".join(map(re.escape, last.split()))))
        self.compare("helios serve", f"{shown}…\n", process.output())

    def output(self, command):
        for token, actual in self.actual.items():
            command = command.replace(token, actual)
        if (status := re.search(r"/export-status/\w+", command)) and "-X" not in command:
            self.client.manifest(status[0])
        return printed(command, self.folder, self.site.settings)

    def compare(self, command, shown, output):
        """Hold what was printed against what the page shows, in whatever order the lines are."""
        left = significant(output.replace(self.actual.get(ADDRESS, ADDRESS), ADDRESS))
        lines = significant(shown)
        for line in lines:
            if line == "…":
                continue
            found = next(filter(None, map(pattern(line).fullmatch, left)), None)
            assert found, f"$ {command}\nprints no line\n{line}\nbut\n{output}"
            left.remove(found[0])
            self.learn(line, found)
        if shown and "…" not in lines:
            assert left == [], f"$ {command}\nprints more than is shown:\n{left}"

    def learn(self, line, found):
        for token, actual in zip(TOKEN.finditer(line), found.groups(), strict=True):
            if token.lastgroup in ("instant", "id"):
                assert self.actual.setdefault(token[0], actual) == actual, token[0]


class Demonstration:
    """One run of `helios demo` and what it left behind, for all pages."""

    def __init__(self, folder):
        self.folder = folder
        self.output = printed("helios demo", folder, {})


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory):
    return Demonstration(tmp_path_factory.mktemp("demo"))


@pytest.fixture
def walk(tmp_path, demonstration):
    walk = Walk(tmp_path, demonstration)
    yield walk
    walk.site.end()


@pytest.mark.parametrize("page", [README, QUICKSTART], ids=lambda page: page.stem)
def test_every_command_prints_what_the_page_shows(walk, page):
    for name, content in written_files(page):
        (walk.folder / name).write_text(content)

    for command, shown in commands(page):
        walk.type(command, shown)


@pytest.mark.parametrize("page", [CLI, CLUSTER, NETWORK], ids=lambda page: page.stem)
def test_a_wrong_configuration_is_reported_as_shown(walk, page):
    shown = [(command, text) for command, text in commands(page) if text.startswith("helios: ")]

    assert shown
    for command, text in shown:
        ended = run(command, walk.folder, {})
        assert ended.returncode == 2
        walk.compare(command, text, ended.stderr)


def test_capabilities_look_as_shown(walk):
    ((command, shown),) = (pair for pair in commands(CLI) if pair[0] == "helios capabilities")

    # More plugins are installed here than on the page.
    walk.compare(command, f"{shown}…\n", printed(command, walk.folder, {}))


def test_a_load_reports_what_is_bad_as_shown(walk):
    shown = dict(commands(LOAD))
    (walk.folder / "in").mkdir()
    (walk.folder / "in/people.ndjson").write_text(shown["cat in/people.ndjson"])

    ended = run("helios load in", walk.folder, walk.site.settings)

    walk.compare("helios load in", shown["helios load in"], ended.stdout)
    assert f"{ended.returncode}\n" == shown["echo $?"]


def test_a_poll_looks_as_shown_while_an_export_runs(walk):
    (shown,) = (text for kind, text in BLOCK.findall(QUICKSTART.read_text()) if kind == "http")
    _, client = walk.site.serve(HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER="true")
    client.put({"resourceType": "Patient", "id": "ada"})

    response = client.http.get(client.kick_off())

    names = re.findall(r"^([\w-]+): ", shown, re.MULTILINE)
    assert response.status_code == 202
    assert sorted(response.headers) == sorted(names)


@pytest.mark.parametrize("page", [README, QUICKSTART], ids=lambda page: page.stem)
def test_every_extra_that_is_installed_exists(page):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"helios-fhir\[(\w+)\]", page.read_text(encoding="utf-8"))

    assert set(named) <= set(project["optional-dependencies"])
    assert project["name"] == "helios-fhir"


def test_the_plugins_to_install_from_a_clone_are_those_of_the_extra():
    page = QUICKSTART.read_text(encoding="utf-8")
    ((extra, folders),) = re.findall(r"pip install '\.\[(\w+)\]' (.*)", page)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (includes,) = project["optional-dependencies"][extra]
    names = re.findall(r"[\w-]+(?=[,\]])", includes)

    plugins = [f"plugins/{name.replace('-', '_')}" for name in names if name != "client"]

    assert folders.split() == plugins


def test_the_figures_of_the_readme_are_those_that_were_measured():
    measured = SPEED.read_text(encoding="utf-8")
    (speed,) = re.findall(r"\*\*Measured speed\.\*\*\n(.*?)\n\n", README.read_text(), re.DOTALL)

    figures = re.findall(r"\d[\d.,]*\d(?: (?:s|MB|resources/s))?\b", speed)

    assert len(figures) >= 6
    assert [figure for figure in figures if figure not in measured] == []


def test_the_picture_of_the_readme_is_there_and_says_what_it_shows():
    ((text, path),) = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", README.read_text())

    assert (ROOT / path).read_text().startswith("<svg ")
    assert "data provider" in text
