"""Real `helios` processes, and a client that trusts nothing it is told."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec

from tests.pace import Deadline, scaled, wait_for_end

HELIOS = Path(sys.executable).with_name("helios")
READY = re.compile(r"Listening on (https?://\S+)")
START_SECONDS = 60
POLL_SECONDS = 0.02


class Process:
    """One `helios` command, its log kept in a file."""

    def __init__(
        self, *arguments: str, settings: Mapping[str, str], log: Path, helios: Path = HELIOS
    ) -> None:
        self.log = log
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("HFS_")}
        with log.open("ab") as output:
            self._start = output.tell()
            self.process = subprocess.Popen(
                [helios, *arguments],
                env=inherited | dict(settings),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def output(self) -> str:
        """Everything this process has printed so far."""
        return self.log.read_bytes()[self._start :].decode()

    def events(self) -> list[dict[str, Any]]:
        """The log lines of this process."""
        lines = (line for line in self.output().splitlines() if line.startswith("{"))
        return [msgspec.json.decode(line) for line in lines if line.endswith("}")]

    def wait_for(self, pattern: re.Pattern[str]) -> str:
        """Wait until a line matches, and give its first group."""
        deadline = Deadline(START_SECONDS)
        while not deadline.has_passed():
            if found := pattern.search(self.output()):
                return found[1]
            if self.process.poll() is not None:
                break
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"{pattern.pattern} never came; it printed:\n{self.output()}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would: no clean-up of any kind."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask it to end, and give its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return wait_for_end(self.process)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()


class Site:
    """One data folder, and the processes that run on it."""

    helios = HELIOS
    """The command; a test may have one of another environment."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.settings = {
            "HFS_DATA_DIR": str(folder / "data"),
            "HFS_SERVER_PORT": "0",
            "HFS_LOG_FORMAT": "json",
            "HFS_BULK_EXPORT_POLLS_PER_MINUTE": "0",
            "HFS_BULK_EXPORT_KICKOFFS_PER_MINUTE": "0",
            # A second worker would be a second process, which takes as long to start as the first.
            "HFS_BULK_EXPORT_WORKER_CONCURRENCY": "1",
            **settings,
        }
        self.processes: list[Process] = []
        self.clients: list[Client] = []

    def run(self, *arguments: str) -> str:
        """Run a command to its end, which must be good."""
        process = self.start(*arguments)
        code = wait_for_end(process.process, 120)
        assert code == 0, process.output()
        return process.output()

    def start(self, *arguments: str, **settings: str) -> Process:
        log = self.folder / f"{arguments[0]}-{len(self.processes)}.log"
        process = Process(
            *arguments, settings=self.settings | settings, log=log, helios=self.helios
        )
        self.processes.append(process)
        return process

    def serve(self, **settings: str) -> tuple[Process, "Client"]:
        """Start a server, wait until it listens, and give a client of it."""
        process = self.start("serve", **settings)
        client = Client(process.wait_for(READY))
        self.clients.append(client)
        return process, client

    def end(self) -> None:
        for client in self.clients:
            client.close()
        for process in self.processes:
            process.end()


class Client:
    """Speaks HTTP and Bulk Data, and checks what it gets."""

    def __init__(
        self,
        base_url: str,
        *,
        transport: httpx.BaseTransport | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.base_url = base_url
        self.http = httpx.Client(
            base_url=base_url, timeout=scaled(30), transport=transport, headers=headers
        )
        self.elsewhere = httpx.Client(timeout=scaled(30))
        """For files that the server does not serve itself."""

    def put(self, resource: dict[str, Any]) -> httpx.Response:
        path = f"/{resource['resourceType']}/{resource['id']}"
        response = self.http.put(path, json=resource)
        assert response.status_code in (200, 201), response.text
        return response

    def kick_off(self, path: str = "/$export", **parameters: str) -> str:
        """Start an export and give the path of its status."""
        response = self.http.get(path, params=parameters, headers={"Prefer": "respond-async"})
        assert response.status_code == 202, response.text
        return httpx.URL(response.headers["Content-Location"]).path

    def manifest(self, status_path: str, seconds: float = 60) -> dict[str, Any]:
        """Poll until the export is complete, however small the Retry-After."""
        deadline = Deadline(seconds)
        while not deadline.has_passed():
            response = self.http.get(status_path)
            if response.status_code == 200:
                return response.json()
            assert response.status_code == 202, response.text
            time.sleep(POLL_SECONDS)
        raise AssertionError("the export did not complete")

    def resources(self, manifest: dict[str, Any], kind: str = "output") -> list[dict[str, Any]]:
        """Download every file of a kind and check it against its entry."""
        found = []
        for entry in manifest[kind]:
            response = self._download(entry["url"])
            assert response.status_code == 200, response.text
            assert response.headers["Content-Type"] == "application/fhir+ndjson"
            lines = response.content.splitlines()
            assert len(lines) == entry["count"] > 0
            decoded = [msgspec.json.decode(line) for line in lines]
            assert {resource["resourceType"] for resource in decoded} == {entry["type"]}
            found += decoded
        return found

    def _download(self, url: str) -> httpx.Response:
        """Get a file from the server, whatever it calls itself, or by a link that is signed."""
        signed = "X-Amz-Signature" in httpx.URL(url).params
        return self.elsewhere.get(url) if signed else self.http.get(httpx.URL(url).path)

    def close(self) -> None:
        self.http.close()
        self.elsewhere.close()

    def export(self, path: str = "/$export", **parameters: str) -> list[dict[str, Any]]:
        return self.resources(self.manifest(self.kick_off(path, **parameters)))


def names(resources: Sequence[dict[str, Any]]) -> list[str]:
    """`Type/id` of each, sorted, repeats kept."""
    return sorted(f"{resource['resourceType']}/{resource['id']}" for resource in resources)


def holds_a_shard(process: Process) -> bool:
    """Whether a process has claimed one."""
    return any(event["event"] == "shard.claimed" for event in process.events())


def export_until(
    client: Client, processes: Sequence[Process], is_ready: Callable[[Process], bool]
) -> None:
    """Export, again where one process did it alone, until all processes are ready."""
    status = client.kick_off()
    while not all(is_ready(process) for process in processes):
        assert all(process.process.poll() is None for process in processes)
        if client.http.get(status).status_code == 200:
            status = client.kick_off()
        time.sleep(POLL_SECONDS)


def same_port(client: Client) -> dict[str, str]:
    """Have a server take the place of another, for clients that know its address."""
    return {"HFS_SERVER_PORT": client.base_url.rsplit(":", 1)[1]}
