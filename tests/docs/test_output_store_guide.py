import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples/zip-output"
GUIDE = DOCS / "how-to/write-an-output-store.md"
SCRIPTS = Path(sysconfig.get_path("scripts"))
OPEN_WHAT_IS_SELECTED = """
import asyncio, os
from helios_core.config.selection import configure, open_backends

async def show():
    async with open_backends(configure(os.environ).settings) as backends:
        print(type(backends.output_store).__module__)

asyncio.run(show())
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A copy of the example, installed into an environment of its own on top of this one."""
    folder = tmp_path_factory.mktemp("third-party")
    shutil.copytree(EXAMPLE, folder / "zip-output")
    _run(folder, sys.executable, "-m", "venv", "--without-pip", "environment")
    layer = next((folder / "environment").glob("lib/python*/site-packages")) / "layer.pth"
    layer.write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    target = ["--python", "environment/bin/python", "--offline", "--no-deps", "./zip-output"]
    _run(folder, SCRIPTS / "uv", "pip", "install", "--quiet", *target)
    return folder


@pytest.fixture
def python(elsewhere):
    return elsewhere / "environment/bin/python"


def test_the_suite_proves_the_example_from_its_own_folder(elsewhere, python):
    options = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider"]

    output = _run(elsewhere / "zip-output", python, "-m", "pytest", *options)

    assert re.search(r"^\d{2,} passed, 3 skipped", output, re.MULTILINE), output


def test_helios_plugins_lists_the_example(elsewhere, python):
    output = _run(elsewhere, python, SCRIPTS / "helios", "plugins", COLUMNS="200")

    assert re.search(r"zip\W+0\.1\.0\W+helios-fhir-zip\W+output store", output), output


def test_the_example_is_opened_when_it_is_selected(elsewhere, python):
    settings = {
        "HFS_STORAGE_BACKEND": "memory",
        "HFS_BULK_EXPORT_OUTPUT_BACKEND": "zip",
        "HFS_ZIP_OUTPUT_DIR": str(elsewhere / "archives"),
    }

    output = _run(elsewhere, python, "-c", OPEN_WHAT_IS_SELECTED, **settings)

    assert output == "helios_zip\n"
    assert (elsewhere / "archives/.owner").exists()


def test_the_example_is_not_installed_here():
    with pytest.raises(ModuleNotFoundError):
        __import__("helios_zip")


def test_the_guide_shows_the_example_word_for_word():
    shown = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    store = EXAMPLE / "helios_zip/__init__.py"
    suite = EXAMPLE / "tests/test_zip_output.py"

    assert _words("".join(shown[:-1])) == _words(store.read_text())
    assert _words(suite.read_text()).startswith(_words(shown[-1]))


def test_the_guide_shows_how_the_example_is_packaged():
    assert (EXAMPLE / "pyproject.toml").read_text() in GUIDE.read_text()


def _words(code):
    # The guide shows methods without their class, so its lines break elsewhere.
    return "".join(code.split())


def _run(folder, *command, **settings):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HFS_", "COV_"))}
    run = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=inherited | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout
