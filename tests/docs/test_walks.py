"""The README and the quickstart are walked command by command, and print what they show."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.processes import HELIOS, Site

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
QUICKSTART = ROOT / "docs/quickstart.md"
SPEED = ROOT / "docs/explanation/speed.md"

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n", re.MULTILINE)
VOLATILE = {
    "instant": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z",
    "date": r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT",
    "id": r"[0-9a-f]{32}",
    "digest": r"[0-9a-f]{16}",
    "seconds": r"\d+\.\d s",
}
TOKEN = re.compile("|".join(f"(?P<{kind}>{form})" for kind, form in VOLATILE.items()))
ADDRESS = "http://127.0.0.1:8080"
INSTALLS = re.compile(r'pip install "helios-fhir\[(\w+)\]"')


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
    """Lines without what depends on the terminal or on which of two workers was first."""
    return [line.strip().removesuffix(",") for line in text.splitlines() if line.strip()]


def pattern(line):
    """A line as shown: an ellipsis stands for anything, and what changes has its form only."""
    parts, end = [], 0
    for token in re.finditer(rf"…|{TOKEN.pattern}", line):
        parts.append(re.escape(line[end : token.start()]))
        parts.append(".*" if token[0] == "…" else f"({VOLATILE[token.lastgroup]})")
        end = token.end()
    return re.compile("".join(parts) + re.escape(line[end:]))


def run(command, folder, settings):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HFS_")}
    path = f"{HELIOS.parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=inherited | settings | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, f"{command}\n{run.stdout}{run.stderr}"
    return run.stdout


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
        *_, last = (line for line in significant(shown) if line != "…")
        process.wait_for(re.compile(f"({re.escape(last.replace(ADDRESS, self.client.base_url))})"))
        self.compare("helios serve", f"{shown}…\n", process.output())

    def output(self, command):
        for token, actual in self.actual.items():
            command = command.replace(token, actual)
        if (status := re.search(r"/export-status/\w+", command)) and "-X" not in command:
            self.client.manifest(status[0])
        return run(command, self.folder, self.site.settings)

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
        self.output = run("helios demo", folder, {})


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
