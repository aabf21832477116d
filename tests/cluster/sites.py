"""A cluster: two servers and four workers as processes, and clients that see one address."""

import itertools
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.stores import Store
from tests.pace import Deadline
from tests.processes import READY, Client, Process, Site
from tests.services import Bucket

ADDRESS = "http://helios.test"
"""Under which clients reach the servers, whichever of them are running."""
PATIENCE_SECONDS = 30
"""How long a client asks one server after the other."""

WORKING = re.compile("^(Listening|Working)", re.MULTILINE)
TEMPORARY = frozenset({502, 503, 504})


class Member:
    """One process of the cluster, which may be replaced by another at any time."""

    def __init__(self, site: "Cluster", command: str) -> None:
        self._site = site
        self.command = command
        self._port = "0"
        self.process = site.start(command)
        self.earlier: list[Process] = []

    @property
    def address(self) -> httpx.URL:
        """Where a server listens, the same after every restart."""
        if self._port == "0":
            self._port = self.process.wait_for(READY).rpartition(":")[2]
        return httpx.URL(f"http://127.0.0.1:{self._port}")

    @property
    def ready(self) -> bool:
        """Whether it has come so far as to serve or to work."""
        return WORKING.search(self.process.output()) is not None

    def start(self) -> None:
        """Start a successor of a process that has ended."""
        self.earlier.append(self.process)
        self.process = self._site.start(self.command, HFS_SERVER_PORT=self._port)

    def kill(self) -> None:
        """End it as a power cut would, and start its successor."""
        self.process.kill()
        self.start()

    def tend(self) -> None:
        """Start a successor of a process that gave up by itself, as any supervisor does."""
        if self.process.process.poll() is not None:
            self.start()


class AnyServer(httpx.BaseTransport):
    """
    Sends each request to a server that answers, as a reverse proxy does.

    A request whose answer is lost is sent again, so it must bear that.
    """

    def __init__(self, servers: Sequence[Member]) -> None:
        self._turn = itertools.cycle(servers)
        self._transport = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        deadline = Deadline(PATIENCE_SECONDS)
        while True:
            address = next(self._turn).address
            request.url = request.url.copy_with(host=address.host, port=address.port)
            response: httpx.Response | None = None
            with suppress(httpx.TransportError):
                response = self._transport.handle_request(request)
                response.read()
                if response.status_code not in TEMPORARY:
                    return response
            if deadline.has_passed():
                assert response is not None, "no server answers"
                return response
            time.sleep(0.1)

    def close(self) -> None:
        self._transport.close()


class Cluster(Site):
    """Processes over one database and one bucket, none of which keeps anything itself."""

    def __init__(
        self, folder: Path, *, database: Store, bucket: Bucket, endpoint: str, **settings: str
    ) -> None:
        super().__init__(
            folder,
            HFS_CLUSTER="true",
            HFS_BASE_URL=ADDRESS,
            HFS_S3_PUBLIC_ENDPOINT=bucket.endpoint,
            HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER="true",
            HFS_BULK_EXPORT_LEASE_DURATION="3",
            HFS_BULK_EXPORT_HEARTBEAT_INTERVAL="1",
            HFS_BULK_EXPORT_MAX_ATTEMPTS="100",
            **database.settings,
            **bucket.settings | {"HFS_BULK_EXPORT_S3_ENDPOINT": endpoint} | settings,
        )
        self.servers: list[Member] = []
        self.workers: list[Member] = []

    def grow(self, *, servers: int, workers: int) -> None:
        """Start that many more of each, and wait until they are there."""
        self.servers += [Member(self, "serve") for _ in range(servers)]
        self.workers += [Member(self, "worker") for _ in range(workers)]
        for server in self.servers:
            assert server.address
        for worker in self.workers:
            worker.process.wait_for(WORKING)

    @property
    def members(self) -> list[Member]:
        return [*self.servers, *self.workers]

    def tend(self) -> None:
        """Replace what has ended."""
        for member in self.members:
            member.tend()

    def client(self, tenant: str = "default") -> Client:
        """Return a client that reaches whichever server answers."""
        client = Client(
            ADDRESS, transport=AnyServer(self.servers), headers={"X-Tenant-ID": tenant}
        )
        self.clients.append(client)
        return client

    def client_of(self, server: Member) -> Client:
        """Return a client of one server."""
        client = Client(str(server.address))
        self.clients.append(client)
        return client

    def events(self) -> Iterator[dict[str, Any]]:
        """Everything that any process of the cluster has logged."""
        for process in self.processes:
            yield from process.events()
