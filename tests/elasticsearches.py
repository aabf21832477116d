"""
A real Elasticsearch for the tests: installed, and started once for a test run.

    python -m tests.elasticsearches

installs it from Maven Central into the user's cache folder and reports what it does.
"""

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import httpx

from tests import maven
from tests.services import absent, data_folder, free_port
from tests.shared_servers import CACHE, START_SECONDS, shared_server, wait_for

VERSION = "7.17.29"
ELASTICSEARCH = CACHE / f"elasticsearch-{VERSION}"
NO_ELASTICSEARCH = (
    f"there is no Elasticsearch {VERSION}: `make services` installs it where there are Java and"
    " Maven, or set HFS_TEST_ELASTICSEARCH_URL to the address of a server of your own"
)

_LAUNCHER = Path(__file__).with_name("Elasticsearch7.java")
_GROUP = "org.elasticsearch"
_ARTIFACTS = (f"{_GROUP}:elasticsearch", f"{_GROUP}.plugin:transport-netty4-client")
_READY = "/_cluster/health"


def install() -> None:
    """Install Elasticsearch into the cache folder, unless it is there, and report what happens."""
    if ELASTICSEARCH.exists():
        click.echo(f"Elasticsearch is in {ELASTICSEARCH} already.")
        return
    if not maven.is_installed():
        click.echo(
            "Java or Maven is not installed, so there is no Elasticsearch: its tests are skipped."
        )
        return
    click.echo(
        f"Installing Elasticsearch {VERSION} into {ELASTICSEARCH}: a download of 35 MB,"
        " a minute or two."
    )
    maven.copy_jars(_ARTIFACTS, VERSION, ELASTICSEARCH)


@contextmanager
def elasticsearch(folder: Path) -> Iterator[str]:
    """Yield the URL of `HFS_TEST_ELASTICSEARCH_URL`, or of one server for all with this folder."""
    if url := os.environ.get("HFS_TEST_ELASTICSEARCH_URL"):
        yield url.rstrip("/")
        return
    _require()
    with shared_server(folder, _command, ready=_READY) as url:
        yield url


class OwnElasticsearch:
    """A server of one test, which may stop it, freeze it and start it again on the same data."""

    def __init__(self, data: Path, log: Path) -> None:
        self._data = data
        self._log = log
        self._ports = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address, which stays the same."""
        return f"http://127.0.0.1:{self._ports[0]}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                _command(*self._ports), cwd=self._data, stdout=log, stderr=log
            )
        process = self._process
        wait_for(self.url + _READY, self._log, lambda: process.poll() is not None)

    def kill(self) -> None:
        """End it with SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop it from doing anything, while its port stays open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def own_elasticsearch(folder: Path) -> Iterator[OwnElasticsearch]:
    """Yield a server that nobody else uses; the folder is for its log."""
    _require()
    with data_folder("elasticsearch") as data:
        server = OwnElasticsearch(data, folder / "log")
        server.start()
        try:
            yield server
        finally:
            server.kill()


@contextmanager
def own_indices(url: str) -> Iterator[str]:
    """Yield the beginning of the names of indices that are gone afterwards."""
    prefix = f"helios-{uuid.uuid4().hex[:12]}"
    try:
        yield prefix
    finally:
        drop_indices(url, prefix)


def drop_indices(url: str, prefix: str) -> None:
    """Delete every index whose name begins with a prefix, and nothing else."""
    response = httpx.get(f"{url}/_cat/indices/{prefix}*", params={"format": "json", "h": "index"})
    if names := ",".join(found["index"] for found in response.raise_for_status().json()):
        httpx.delete(f"{url}/{names}", timeout=START_SECONDS).raise_for_status()


def _require() -> None:
    if not ELASTICSEARCH.exists():
        absent(NO_ELASTICSEARCH, obtainable=maven.is_installed())


def _command(port: int, transport: int) -> list[str]:
    """Return what starts a server whose data are in the folder it runs in."""
    # It ends before code that is compiled twice pays.
    java = ["java", "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    return [*java, "-cp", f"{ELASTICSEARCH}/*", str(_LAUNCHER), str(port), str(transport)]


if __name__ == "__main__":
    install()
