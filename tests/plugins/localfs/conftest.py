import os
import subprocess
import sys
from contextlib import ExitStack

import pytest

from helios_localfs import LocalOutputStore


@pytest.fixture
def root(tmp_path):
    return tmp_path / "exports"


@pytest.fixture
def store(root):
    return LocalOutputStore(root)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB that is really full when it is full."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let the tests mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


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
