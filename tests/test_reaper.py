"""A run of the tests that is ended early leaves no process and no data behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.reaper import VARIABLE, folders_of, started_in
from tests.services import MINIO

ROOT = Path(__file__).parents[1]

INNER = """
import os
import time
from pathlib import Path

import pytest

from tests.processes import Site
from tests.reaper import VARIABLE


@pytest.fixture(autouse=True)
def everything(tmp_path, request):
    for service in {services!r}:
        request.getfixturevalue(service)
    site = Site(tmp_path)
    site.serve()
    ready = Path({ready!r})
    ready.with_suffix(".new").write_text(os.environ[VARIABLE])
    ready.with_suffix(".new").rename(ready)
    yield
    site.end()


def test_it_takes_for_ever():
    time.sleep(3600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("options", [["-n", "0"], ["-n", "1"]], ids=["alone", "parallel"])
def test_an_interrupted_run_leaves_nothing_behind(tmp_path, number, options):
    ready = tmp_path / "ready"
    services = ["postgres_server"]
    if number == signal.SIGKILL:
        services += ["s3_server", *(["minio_server"] if MINIO.exists() else [])]
    # In the tests' folder, so that the run has their conftest.
    test = ROOT / f"tests/test_inner_{os.getpid()}_{tmp_path.name}.py"
    test.write_text(INNER.format(services=services, ready=str(ready)))
    environ = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environ = {name: value for name, value in environ.items() if not name.startswith("PYTEST_")}
    try:
        run = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", str(test)],
            cwd=ROOT,
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not ready.exists():
            assert run.poll() is None, "the run ended before its services were up"
            time.sleep(0.1)
        name = ready.read_text()
        processes, folders = started_in(name), folders_of(name)

        run.send_signal(number)
        run.wait()
        while started_in(name) or folders_of(name):
            time.sleep(0.1)
    finally:
        test.unlink()

    assert len(processes) >= 2 + (number == signal.SIGKILL)
    assert len(folders) >= 1
