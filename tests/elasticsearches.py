"""
Real Elasticsearch servers for the tests: installed, and each started once for a test run.

    python -m tests.elasticsearches

installs them from Maven Central into the user's cache folder and reports what it does.
"""

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx

from tests.maven import Jars
from tests.services import data_folder, free_port
from tests.shared_servers import START_SECONDS, shared_server, wait_for

_SERVER = "org.elasticsearch:elasticsearch"
RELEASES = {
    "7": Jars(
        "Elasticsearch",
        "7.17.29",
        artifacts=(_SERVER, "org.elasticsearch.plugin:transport-netty4-client"),
        megabytes=35,
    ),
    "8": Jars(
        "Elasticsearch",
        "8.19.0",
        artifacts=(_SERVER, "org.elasticsearch.plugin:transport-netty4"),
        megabytes=45,
    ),
}
"""What the tests can start, by the number of its major version."""

_SETTINGS = (
    "cluster.name=helios-test",
    "node.name=helios-test",
    "network.host=127.0.0.1",
    "http.type=netty4",
    "transport.type=netty4",
    "discovery.type=single-node",
    "cluster.routing.allocation.disk.threshold_enabled=false",
)
_ADVICE = ", or set HFS_TEST_ELASTICSEARCH_URL to the address of a server of your own"
_READY = "/_cluster/health"


def usual() -> str:
    """Return the major version that tests use where they do not say which: 7, unless told so."""
    return os.environ.get("HFS_TEST_ELASTICSEARCH_VERSION", "7")


@contextmanager
def elasticsearch(folder: Path) -> Iterator[str]:
    """Yield the URL of `HFS_TEST_ELASTICSEARCH_URL`, or of one server for all with this folder."""
    if url := os.environ.get("HFS_TEST_ELASTICSEARCH_URL"):
        yield url.rstrip("/")
        return
    with elasticsearch_of(usual(), folder) as url:
        yield url


@contextmanager
def elasticsearch_of(major: str, folder: Path) -> Iterator[str]:
    """Yield the URL of a server of a major version, one for all with this folder."""
    RELEASES[major].require(_ADVICE)
    with shared_server(folder, partial(_command, major), ready=_READY) as url:
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
                _command(usual(), *self._ports), cwd=self._data, stdout=log, stderr=log
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
    RELEASES[usual()].require()
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
    query = {"format": "json", "h": "index"}
    response = httpx.get(f"{url}/_cat/indices/{prefix}*", params=query, timeout=START_SECONDS)
    if names := ",".join(found["index"] for found in response.raise_for_status().json()):
        httpx.delete(f"{url}/{names}", timeout=START_SECONDS).raise_for_status()


def documents(indices: str) -> int:
    """Return how many documents the indices of a URL hold, 0 while a shard cannot say so."""
    answer = httpx.get(f"{indices}/_count", timeout=START_SECONDS)
    if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.SERVICE_UNAVAILABLE):
        return 0
    found = answer.raise_for_status().json()
    return 0 if found["_shards"]["failed"] else found["count"]


def _command(major: str, port: int, transport: int) -> list[str]:
    """Return what starts a server whose data are in the folder it runs in."""
    jars = set(RELEASES[major].folder.glob("*.jar"))
    # Elasticsearch 8 loads its HTTP server as a module, whose jar must not be in the class path.
    modules = {jar for jar in jars if jar.match("transport-netty4-[0-9]*")}
    class_path = os.pathsep.join(sorted(map(str, jars - modules)))
    # It ends before code that is compiled twice pays.
    java = ["java", "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    launcher = Path(__file__).with_name(f"Elasticsearch{major}.java")
    settings = [*_SETTINGS, f"http.port={port}", f"transport.port={transport}"]
    return [*java, "-cp", class_path, str(launcher), *map(str, modules), *settings]


if __name__ == "__main__":
    for release in RELEASES.values():
        release.install()
