"""The wheels of the core and of every plugin, each extra installed alone, and their names."""

import json
import os
import re
import subprocess
from urllib.parse import unquote, urlsplit
from zipfile import ZipFile

import pytest

from tests.wheels import PROJECTS, ROOT, build_wheels, install_wheels, read_project

CORE = read_project(ROOT)
EXTRAS = CORE["optional-dependencies"]
OURS = {read_project(project)["name"] for project in PROJECTS}

INSTALLED = """
import importlib, json, sys
from importlib.metadata import distributions
for name in sys.argv[1:]:
    importlib.import_module(name)
origins = {found.name: found.read_text("direct_url.json") or "{}" for found in distributions()}
print(json.dumps({name: json.loads(origin).get("url") for name, origin in origins.items()}))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> dict[str, str]:
    return build_wheels(PROJECTS, tmp_path_factory.mktemp("wheels"))


def plugins_of(extra: str) -> set[str]:
    """Return the distributions of the plugins that an extra installs, directly or by others."""
    plugins = set()
    for requirement in EXTRAS.get(extra, ()):
        name, *inner = re.split(r"[\[\],]", requirement.partition("==")[0])
        plugins |= {name} & OURS - {CORE["name"]}
        if name == CORE["name"]:
            plugins |= set().union(*map(plugins_of, inner))
    return plugins


def test_every_distribution_has_a_wheel(wheels):
    assert wheels.keys() == OURS


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: read_project(project)["name"])
def test_a_wheel_has_every_file_of_its_package(wheels, project):
    """Migrations, statements and definitions among them."""
    with ZipFile(unquote(urlsplit(wheels[read_project(project)["name"]]).path)) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    [package] = project.glob("helios_*/__init__.py")

    assert packed == {
        path.relative_to(project).as_posix()
        for path in package.parent.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_an_extra_alone_installs_from_our_wheels_and_works(wheels, tmp_path, extra):
    expected = plugins_of(extra)
    modules = [name.replace("helios-fhir-", "helios_").replace("-", "_") for name in expected]
    modules += {"": ["helios_core.server.serve"], "testing": ["helios_core.testing"]}.get(
        extra, []
    )
    environ = {"PATH": os.environ["PATH"], "HFS_DATA_DIR": str(tmp_path / "data")}

    core = f"{CORE['name']}[{extra}] @ {wheels[CORE['name']]}"
    python = install_wheels(tmp_path, wheels, core)
    installed = json.loads(subprocess.check_output([python, "-I", "-c", INSTALLED, *modules]))
    version = subprocess.check_output([python.with_name("helios"), "--version"], env=environ)
    listed = json.loads(
        subprocess.check_output(
            [python.with_name("helios"), "plugins", "--format", "json"], env=environ
        )
    )

    ours = {name: url for name, url in installed.items() if name.startswith("helios")}
    assert ours == {name: wheels[name] for name in (CORE["name"], *expected)}
    assert version.decode().strip() == CORE["version"]
    assert {row["origin"] for row in listed} == ours.keys()
    assert [row["problem"] for row in listed if row["problem"]] == []
    has_client = {"httpx", "stamina"} <= installed.keys()
    assert has_client == (extra in {"client", "embedded", "all"})


PAGES = [
    path
    for pattern in ("*.md", "*.toml", "*.py", "*.txt", "*.yaml", "*.yml", "*file")
    for path in ROOT.rglob(pattern)
    if not {".venv", ".git", "data", "tests"} & set(path.relative_to(ROOT).parts)
]


def named_on_pages(pattern: str) -> set[str]:
    """Return what a pattern's group matches in pages, messages and project files."""
    return {name for path in PAGES for name in re.findall(pattern, path.read_text())}


def test_nothing_names_a_distribution_that_is_not_ours():
    """`helios-core` on the index is somebody else's, and so may be `helios-sqlite`."""
    others = {f"helios-{word}" for word in ("core", *EXTRAS)}

    named = named_on_pages(r"(?<![\w./-])(helios-[a-z0-9-]*[a-z0-9])")

    assert named >= OURS
    assert named & others == set()


def test_only_distributions_of_ours_are_required_or_installed():
    examples = {read_project(path.parent)["name"] for path in ROOT.glob("docs/**/pyproject.toml")}

    named = named_on_pages(r"(?:install |[\"'])(helios-[a-z0-9-]+)(?=[\"' \[<=>~!\n])")

    assert OURS - {CORE["name"]} <= named <= OURS | examples


def test_only_extras_that_exist_are_named():
    listed = named_on_pages(r"helios-fhir\[([a-z0-9,_-]+)\]")

    named = {extra for extras in listed for extra in extras.split(",")}

    assert {"client", "embedded", "cluster"} <= named <= EXTRAS.keys()
