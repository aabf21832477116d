"""A real server process, its memory, and the fastest client that is still honest."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

HELIOS = Path(sys.executable).with_name("helios")
WORKING = re.compile(r"^Working with", re.MULTILINE)
LISTENING = re.compile(r"^Listening on (\S+)", re.MULTILINE)
PATIENCE_SECONDS = 60
POLL_SECONDS = 0.01
RECEIVE_BYTES = 1024 * 1024


def environment(folder: Path, **settings: str) -> dict[str, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HFS_")}
    own = {
        "HFS_DATA_DIR": str(folder),
        "HFS_SERVER_PORT": "0",
        "HFS_LOG_LEVEL": "warning",
        "HFS_BULK_EXPORT_COMPRESSION": "none",
        "HFS_BULK_EXPORT_KICKOFFS_PER_MINUTE": "0",
        "HFS_BULK_EXPORT_POLLS_PER_MINUTE": "0",
    }
    return environ | own | settings


@dataclass(frozen=True)
class Load:
    """What one `helios load` took, the start of the process included."""

    seconds: float
    peak_bytes: int


def migrate(folder: Path, **settings: str) -> None:
    environ = environment(folder, **settings)
    subprocess.run([HELIOS, "migrate"], env=environ, stdout=subprocess.DEVNULL, check=True)


def register(folder: Path, client: str, keys: Path, **settings: str) -> None:
    """Register a client of the embedded issuer."""
    command = [HELIOS, "clients", "add", client, "--jwks", keys, "--scope", "system/*.rs"]
    environ = environment(folder, **settings)
    subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)


def load(folder: Path, source: Path, **settings: str) -> Load:
    started = time.perf_counter()
    command = [HELIOS, "load", source]
    environ = environment(folder, **settings)
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"helios load ended with {process.returncode}"
    return Load(time.perf_counter() - started, usage.ru_maxrss * 1024)


@dataclass(frozen=True)
class Export:
    """One finished export."""

    seconds: float
    """From sending the kick-off to receiving the manifest."""
    status: str
    manifest: dict[str, list[dict[str, object]]]

    @property
    def resources(self) -> int:
        return sum(int(str(entry["count"])) for entry in self.manifest["output"])

    @property
    def rate(self) -> float:
        return self.resources / self.seconds


class Server:
    """`helios serve` on a data folder."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, folder: Path) -> None:
        self.url = url
        self.authorization: dict[str, str] = {}
        """The header that every request has, if the server wants one."""
        self._process = process
        self._address = urlsplit(url).netloc
        self._outputs = folder / "exports"
        self._connection = http.client.HTTPConnection(self._address, timeout=PATIENCE_SECONDS)

    def kick_off(self, path: str) -> tuple[float, str]:
        """Return the seconds to the 202, and the status address."""
        started = time.perf_counter()
        status, headers, body = self._ask("GET", path, Prefer="respond-async")
        seconds = time.perf_counter() - started
        assert status == http.client.ACCEPTED, body
        return seconds, urlsplit(headers["Content-Location"]).path

    def export(self, path: str) -> Export:
        """Export, polling without regard to Retry-After."""
        self._connection.close()  # the server has, if the last answer was long ago
        started = time.perf_counter()
        _, status_path = self.kick_off(path)
        while True:
            status, _, body = self._ask("GET", status_path)
            if status == http.client.OK:
                seconds = time.perf_counter() - started
                return Export(seconds, status_path, json.loads(body))
            assert status == http.client.ACCEPTED, body
            time.sleep(POLL_SECONDS)

    def delete(self, status_path: str) -> None:
        """Delete an export and wait until its files are gone."""
        status, _, body = self._ask("DELETE", status_path)
        assert status == http.client.ACCEPTED, body
        job = status_path.rsplit("/", 1)[-1]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._files_of(job):
            assert time.monotonic() < deadline, "the files of a deleted export stay"
            time.sleep(POLL_SECONDS)

    def stored_bytes(self, export: Export) -> int:
        return sum(path.stat().st_size for path in self.files_of(export))

    def files_of(self, export: Export) -> list[Path]:
        return self._files_of(export.status.rsplit("/", 1)[-1])

    def _files_of(self, job: str) -> list[Path]:
        """Return the files of an export; its folder may go while it is looked at."""
        try:
            return list(self._outputs.glob(f"*/{job}/*"))
        except FileNotFoundError:
            return []

    def download(self, export: Export) -> int:
        """Receive all files over one socket and give their bytes; nothing is kept."""
        host, port = self._address.split(":")
        buffer = memoryview(bytearray(RECEIVE_BYTES))
        with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as connection:
            paths = [urlsplit(str(entry["url"])).path for entry in export.manifest["output"]]
            headers = self.authorization
            return sum(_receive(connection, path, headers, buffer) for path in paths)

    def polls_per_second(self, status_path: str, count: int) -> float:
        """Return how often one client can poll a finished export in a second."""
        started = time.perf_counter()
        for _ in range(count):
            status, _, body = self._ask("GET", status_path)
            assert status == http.client.OK, body
        return count / (time.perf_counter() - started)

    @property
    def pid(self) -> int:
        return self._process.pid

    def peak_bytes(self) -> int:
        """Return the highest resident memory of the server or of a worker's process."""
        workers = [each.pid for each in psutil.Process(self.pid).children()]
        return max(map(peak_bytes, [self.pid, *workers]))

    def _ask(
        self, method: str, path: str, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        headers |= self.authorization
        try:
            self._connection.request(method, path, headers=headers)
            response = self._connection.getresponse()
        except http.client.RemoteDisconnected:  # it was silent while the yardstick ran
            self._connection.close()
            self._connection.request(method, path, headers=headers)
            response = self._connection.getresponse()
        return response.status, response.headers, response.read()


def _receive(
    connection: socket.socket, path: str, headers: dict[str, str], buffer: memoryview
) -> int:
    lines = {"Host": "localhost", "Accept-Encoding": "identity"} | headers
    head_lines = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    request = f"GET {path} HTTP/1.1\r\n{head_lines}\r\n"
    connection.sendall(request.encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(RECEIVE_BYTES)
    head, _, body = head.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head[:200]
    match = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
    assert match, "a file was sent without Content-Length"
    length = left = int(match[1])
    left -= len(body)
    while left:
        received = connection.recv_into(buffer)
        assert received, "the server broke the connection"
        left -= received
    return length


def peak_bytes(pid: int) -> int:
    """Return the highest resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@contextmanager
def working(folder: Path, workers: int, **settings: str) -> Iterator[int]:
    """Run `helios worker` on a data folder, and give its process id once it works."""
    log = folder.parent / "worker.log"
    settings = settings | {"HFS_BULK_EXPORT_WORKER_CONCURRENCY": str(workers)}
    with _running("worker", folder, log, **settings) as process:
        _found(WORKING, process, log)
        yield process.pid


@contextmanager
def serve(folder: Path, **settings: str) -> Iterator[Server]:
    log = folder.parent / "server.log"
    with _running("serve", folder, log, **settings) as process:
        yield Server(process, _found(LISTENING, process, log)[1], folder)


@contextmanager
def _running(
    command: str, folder: Path, log: Path, **settings: str
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [HELIOS, command], env=environment(folder, **settings), stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE_SECONDS)
    assert code == 0, log.read_text()


def _found(
    announcement: re.Pattern[str], process: subprocess.Popen[bytes], log: Path
) -> re.Match[str]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if found := announcement.search(log.read_text()):
            return found
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"the process did not start:\n{log.read_text()}")
