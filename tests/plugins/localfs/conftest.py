import subprocess
import sys
from contextlib import ExitStack

import pytest

from helios_localfs import LocalOutputStore
from tests.small_disks import mounted


@pytest.fixture
def root(tmp_path):
    return tmp_path / "exports"


@pytest.fixture
def store(root):
    return LocalOutputStore(root)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB that is really full when it is full."""
    with mounted(tmp_path / "small", "4m") as folder:
        yield folder


@pytest.fixture
def make_read_only():
    """Mount a small disk anew so that nothing can be written to it."""

    def make_read_only(folder):
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)

    return make_read_only


@pytest.fixture
def python():
    """Start Python on a script with arguments; whatever still runs at the end is killed."""
    with ExitStack() as running:

        def start(script, *arguments):
            process = subprocess.Popen(
                [sys.executable, "-c", script, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            running.enter_context(process)
            running.callback(process.kill)
            return process

        yield start
