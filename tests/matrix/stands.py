"""A server and a worker on the backends of one row of the matrix."""

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.elasticsearches import documents, own_indices
from tests.matrix import corpora
from tests.matrix.cells import rows
from tests.matrix.turns import Cell
from tests.pace import Deadline, wait_for_end
from tests.processes import POLL_SECONDS, Client, Process, Site
from tests.services import Bucket, a_bucket, has_minio

SETTINGS = {
    # Many shards of little work, so that a kill and a cancel always meet one in hand.
    "HFS_BULK_EXPORT_PART_BYTES": "100000",
    "HFS_BULK_EXPORT_LEASE_DURATION": "2",
    "HFS_BULK_EXPORT_HEARTBEAT_INTERVAL": "0.5",
    "HFS_BULK_EXPORT_MAX_ATTEMPTS": "20",
    "HFS_BULK_EXPORT_MAX_CONCURRENT_PER_TENANT": "50",
    # A worker is a process of its own here.
    "HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER": "true",
    "HFS_BULK_EXPORT_WORKER_CONCURRENCY": "1",
}


class Loaded:
    """A tenant, and what has been loaded for it."""

    def __init__(self, tenant: str, resources: corpora.Resources) -> None:
        self.tenant = tenant
        self.resources = resources


class Stand(Site):
    """The processes of one cell, which its tests share, each with tenants of its own."""

    def __init__(
        self, folder: Path, cell: Cell, settings: Mapping[str, str], output: Bucket | None
    ) -> None:
        row = rows()[cell.row]
        versions = {"HFS_DEFAULT_FHIR_VERSION": cell.version}
        super().__init__(folder, **SETTINGS | versions | dict(row.settings) | dict(settings))
        self.cell = cell
        self.row = row
        self.shared = folder.parent
        self._output = output
        nodes, prefix = (settings.get(f"HFS_ELASTICSEARCH_{name}") for name in ("NODES", "PREFIX"))
        self._indices = f"{nodes}/{prefix}*" if nodes else None

    def begin(self) -> None:
        """Start a server and a worker on stores that are empty."""
        self.run("migrate")
        self.worker = self.work()
        self.server, client = self.serve()
        self.address = client.base_url

    def work(self) -> Process:
        """Start another worker."""
        return self.start("worker")

    def restart(self) -> None:
        """Start the server and the worker again, after they were killed."""
        self.worker = self.work()
        self.server, _ = self.serve(HFS_SERVER_PORT=self.address.rpartition(":")[2])

    def client(self, tenant: str | None = None) -> Client:
        """Return a client of a tenant, by default of one that nobody else uses."""
        headers = {"X-Tenant-ID": tenant or f"t{uuid.uuid4().hex[:12]}"}
        client = Client(self.address, headers=headers)
        self.clients.append(client)
        return client

    def load(self, paths: tuple[Path, ...]) -> Loaded:
        """Load files by a process of its own, and predict what they become."""
        tenant = f"t{uuid.uuid4().hex[:12]}"
        process = self.start("load", "--tenant", tenant, *map(str, paths))
        # 1 if something is referred to that is not there, as in the real data.
        assert wait_for_end(process.process, 120) in (0, 1), process.output()
        return Loaded(tenant, corpora.as_loaded(paths, self.cell.version))

    @cached_property
    def made(self) -> Loaded:
        """What `corpora.made` makes, which no test changes."""
        return self.load((corpora.write(self.shared / "made.ndjson", corpora.made()),))

    @cached_property
    def real(self) -> Loaded:
        """The real data of the version, where there are any."""
        paths = corpora.real_data(self.cell.version, self.shared)
        return self.load(paths) if paths else self.made

    def wait_for_the_index(self, resources: int) -> None:
        """Wait until the search index of the row, if it has one, holds that many resources."""
        if self._indices is None:
            return
        deadline = Deadline(60)
        while documents(self._indices) < resources:
            assert not deadline.has_passed(), self.server.output()
            time.sleep(POLL_SECONDS)

    def files_of(self, status: str) -> list[str]:
        """Return the names of an export's files, seen behind the back of the server."""
        job = status.rpartition("/")[2]
        # Unlike pathlib, os.walk does not mind that folders vanish meanwhile.
        walk = os.walk(self.folder / "data" / "exports")
        files = [f"{folder}/{name}" for folder, _, names in walk for name in names]
        if self._output is not None:
            client = self._output.client()
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self._output.name)
            files += [found["Key"] for page in pages for found in page.get("Contents", ())]
        return [name for name in files if job in name]

    def wait_for_a_shard(self, status: str) -> None:
        """Wait until a worker has completed one of an export."""
        job = status.rpartition("/")[2]
        deadline = Deadline(60)
        while not any(
            event["event"] == "shard.completed" and event["job_id"] == job
            for event in self.worker.events()
        ):
            assert not deadline.has_passed(), self.worker.output()
            time.sleep(POLL_SECONDS)


@contextmanager
def a_stand(request: pytest.FixtureRequest, folder: Path, cell: Cell) -> Iterator[Stand]:
    """Yield the processes of a cell on services that all cells share."""
    row = rows()[cell.row]
    primary, _, index = row.data_provider.partition("-")
    settings: dict[str, str] = {}
    output = None
    with ExitStack() as stack:
        if primary == "postgres":
            server = request.getfixturevalue("postgres_server")
            settings["HFS_DATABASE_URL"] = stack.enter_context(server.database())
        if primary == "mongodb":
            server = request.getfixturevalue("mongodb_server")
            settings["HFS_DATABASE_URL"] = server.url
            settings["HFS_MONGODB_DATABASE"] = stack.enter_context(server.database())
        if primary == "s3":
            bucket = stack.enter_context(a_bucket(request.getfixturevalue("minio_server")))
            settings |= bucket.resource_settings
        if index:
            url = request.getfixturevalue("elasticsearch_server")
            settings["HFS_ELASTICSEARCH_NODES"] = url
            settings["HFS_ELASTICSEARCH_PREFIX"] = stack.enter_context(own_indices(url))
        if row.output_store == "s3":
            endpoint = request.getfixturevalue("minio_server" if has_minio() else "s3_server")
            output = stack.enter_context(a_bucket(endpoint))
            settings |= output.settings
        stand = Stand(folder, cell, settings, output)
        stack.callback(stand.end)
        stand.begin()
        yield stand


def names(found: Mapping[str, Any], *prefixes: str) -> set[str]:
    """Return the names that begin with one of several texts."""
    return {name for name in found if name.startswith(prefixes)}
