"""
The rows of the other stores: MongoDB, S3 as the primary, and Elasticsearch beside SQLite.

Exports are compared with those of PostgreSQL, which run by turns with them; all servers run on
this machine and share its processors.
"""

import os
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import httpx
import server
import small_group
from real_services import (
    a_bucket,
    documents,
    elasticsearch,
    has_minio,
    minio,
    mongodb,
    own_indices,
    postgres,
)
from rows import MEGABYTE, Row, Rows

from helios_core.cli.demo.population import GROUP_ID, write_population

SYSTEM = "/$export"
GROUP = f"/Group/{GROUP_ID}/$export"
WRITES = 30
WRITERS = 16
FOUND = 10
"""Resources on the page of a search."""
PATIENCE_SECONDS = 600
OLD_SECONDS = 12
"""MinIO makes its metrics anew every 10 s."""
_COUNTED = re.compile(r"^minio_s3_requests_total\{[^}]*\} (\S+)$", re.MULTILINE)


class _Measured:
    """One run of measurements, with a folder for what they need."""

    def __init__(self, folder: Path, resources: int, runs: int) -> None:
        self._folder = folder
        self._resources = resources
        self._runs = runs
        self._rows = Rows()


class BesidePostgres(_Measured):
    """Measures one store, and PostgreSQL by turns with it."""

    slowdown = 0.0
    """How many times as long as PostgreSQL's an export may take."""

    def run(self) -> list[Row]:
        with ExitStack() as stack:
            self._open(stack)
            self._few()
            source, count = self._population
            settings = self._empty()
            data = self._data(settings)
            load = self._loaded(data, source, count, settings)
            self._rows.add_memory("load, peak memory of a process", load.peak_bytes)
            theirs = self._postgres(stack, source)
            with (
                server.serve(data, **settings) as running,
                server.serve(theirs[0], **theirs[1]) as yardstick,
            ):
                self._exports(running, yardstick)
                self._more(running)
                self._rows.add_memory("peak memory of a process", running.peak_bytes())
        return self._rows

    def _open(self, stack: ExitStack) -> None:
        """Start the server of the store."""
        raise NotImplementedError

    def _empty(self) -> dict[str, str]:
        """Return the settings of an empty store."""
        raise NotImplementedError

    def _more(self, running: server.Server) -> None:
        """Measure what only this store has, with everything loaded."""

    def _requests(self) -> int:
        """Return how many requests of the kind that costs the server has had."""
        return 0

    def _data(self, settings: Mapping[str, str]) -> Path:
        """Return a data folder of its own, with all tables."""
        data = Path(tempfile.mkdtemp(dir=self._folder)) / "data"
        data.mkdir()
        server.migrate(data, **settings)
        return data

    @cached_property
    def _population(self) -> tuple[Path, int]:
        population = self._folder / "population"
        counts = write_population(population, resources=self._resources)
        size = sum(path.stat().st_size for path in population.iterdir())
        self._rows.add("data", f"{counts.total():,} resources, {size / MEGABYTE:,.0f} MB")
        return population, counts.total()

    def _loaded(
        self, data: Path, source: Path, count: int, settings: Mapping[str, str]
    ) -> server.Load:
        load = server.load(data, source, **settings)
        rate = count / load.seconds
        self._rows.add("load", f"{rate:,.0f} resources/s", ">= 5,000", met=rate >= 5000)
        return load

    def _postgres(self, stack: ExitStack, source: Path) -> tuple[Path, dict[str, str]]:
        """Load the yardstick; return its data folder and settings."""
        url = stack.enter_context(stack.enter_context(postgres()).database())
        settings = {"HFS_STORAGE_BACKEND": "postgres", "HFS_DATABASE_URL": url}
        data = self._data(settings)
        server.load(data, source, **settings)
        return data, settings

    def _exports(self, running: server.Server, yardstick: server.Server) -> None:
        for each in (running, yardstick):
            each.delete(each.export(SYSTEM).status)
        ours, theirs = list[server.Export](), list[server.Export]()
        before = self._requests()
        for _ in range(self._runs):
            for exports, each in ((ours, running), (theirs, yardstick)):
                exports.append(each.export(SYSTEM))
                each.delete(exports[-1].status)
        requests = (self._requests() - before) / self._runs
        system = min(ours, key=lambda export: export.seconds)
        ratio = system.seconds / min(export.seconds for export in theirs)
        self._rows.add("system export", f"{system.seconds:.2f} s, {system.rate:,.0f}/s")
        measured = f"{ratio:.2f} of its {system.seconds / ratio:.2f} s"
        self._rows.add(
            "... to PostgreSQL's", measured, f"<= {self.slowdown:g}", met=ratio <= self.slowdown
        )
        if requests:
            allowed = requests <= 2000
            self._rows.add("... requests", f"{requests:,.0f}", "<= 2,000", met=allowed)
        group = running.export(GROUP)
        running.delete(group.status)
        measured = f"{group.rate:,.0f}/s, {group.rate / system.rate:.2f} of system"
        self._rows.add("group of 10 % export", measured)

    def _few(self) -> None:
        """Export a few patients out of many."""
        source = self._folder / "small-group.ndjson"
        small_group.write(source)
        settings = self._empty()
        data = self._data(settings)
        server.load(data, source, **settings)
        path = f"/Group/{small_group.GROUP_ID}/$export"
        with server.serve(data, **settings) as running:
            running.delete(running.export(path).status)
            exports = []
            for _ in range(self._runs):
                exports.append(running.export(path))
                running.delete(exports[-1].status)
        assert exports[0].resources == small_group.EXPORTED, "the group export lacks something"
        milliseconds = statistics.median(export.seconds for export in exports) * 1000
        what = f"group of {small_group.MEMBERS} of {small_group.PATIENTS:,}"
        self._rows.add(what, f"{milliseconds:.0f} ms", "< 200 ms", met=milliseconds < 200)


class Documents(BesidePostgres):
    """MongoDB, or SecantusDB, its stand-in, which is written in Python."""

    slowdown = 2.0

    def _open(self, stack: ExitStack) -> None:
        folder = self._folder / "mongodb"
        folder.mkdir()
        self._server = stack.enter_context(mongodb(folder))
        self._stack = stack

    def _empty(self) -> dict[str, str]:
        return {
            "HFS_STORAGE_BACKEND": "mongodb",
            "HFS_DATABASE_URL": self._server.url,
            "HFS_MONGODB_DATABASE": self._stack.enter_context(self._server.database()),
        }


class InBuckets(BesidePostgres):
    """S3 as the primary, on MinIO, which counts the requests."""

    slowdown = 3.0

    def run(self) -> list[Row]:
        if has_minio():
            return super().run()
        self._rows.add("resources in a bucket", "not measured: make services", "", met=False)
        return self._rows

    def _open(self, stack: ExitStack) -> None:
        folder = self._folder / "minio"
        folder.mkdir()
        os.environ["MINIO_PROMETHEUS_AUTH_TYPE"] = "public"
        self._server = stack.enter_context(minio(folder))
        self._stack = stack

    def _empty(self) -> dict[str, str]:
        bucket = self._stack.enter_context(a_bucket(self._server.url))
        return {"HFS_STORAGE_BACKEND": "s3", **bucket.resource_settings}

    def _requests(self) -> int:
        time.sleep(OLD_SECONDS)
        metrics = httpx.get(f"{self._server.url}/minio/v2/metrics/cluster").text
        counted = _COUNTED.findall(metrics)
        return sum(int(float(count)) for count in counted)

    def _loaded(
        self, data: Path, source: Path, count: int, settings: Mapping[str, str]
    ) -> server.Load:
        before = self._requests()
        load = super()._loaded(data, source, count, settings)
        each = count / (self._requests() - before)
        self._rows.add("... resources for each request", f"{each:,.0f}", ">= 500", met=each >= 500)
        return load

    def _more(self, running: server.Server) -> None:
        path = "/Basic/bench"
        changes = [basic("bench") | {"language": f"x-{number}"} for number in range(WRITES)]
        with httpx.Client(base_url=running.url) as client:
            writes = timed([("PUT", path, change) for change in changes], client)
            reads = timed([("GET", path, None)] * WRITES, client)
        for what, found, allowed in (("write", writes, 300), ("read by id", reads, 100)):
            milliseconds = statistics.median(found)
            measured = f"{milliseconds:.0f} ms, at most {max(found):.0f} ms"
            self._rows.add(what, measured, f"< {allowed} ms", met=milliseconds < allowed)
        self._at_once(running)

    def _at_once(self, running: server.Server) -> None:
        """Write by many clients at once, and look whether all of it is there."""

        def write(writer: int) -> None:
            with httpx.Client(base_url=running.url, timeout=PATIENCE_SECONDS) as client:
                requests = [
                    ("PUT", f"/Basic/w{writer}-{number}", basic(f"w{writer}-{number}"))
                    for number in range(WRITES)
                ]
                timed(requests, client)

        started = time.perf_counter()
        threads = [threading.Thread(target=write, args=(each,)) for each in range(WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - started
        export = running.export("/$export?_type=Basic")
        running.delete(export.status)
        lost = 1 + WRITERS * WRITES - export.resources  # one is from before
        measured = f"{WRITERS * WRITES / seconds:,.0f} writes/s, {lost} lost"
        self._rows.add(f"{WRITERS} writers at once", measured, "none lost", met=lost == 0)


class Searched(_Measured):
    """Searches of a server over SQLite and Elasticsearch."""

    def run(self) -> list[Row]:
        population = self._folder / "population"
        count = write_population(population, resources=self._resources).total()
        folder, data = self._folder / "elasticsearch", self._folder / "store" / "data"
        folder.mkdir()
        data.mkdir(parents=True)
        with elasticsearch(folder) as url, own_indices(url) as prefix:
            settings = {
                "HFS_STORAGE_BACKEND": "sqlite-elasticsearch",
                "HFS_ELASTICSEARCH_NODES": url,
                "HFS_ELASTICSEARCH_PREFIX": prefix,
            }
            server.migrate(data, **settings)
            with server.serve(data, **settings) as running:
                self._follow(data, population, count, settings, f"{url}/{prefix}*")
                self._search(running)
                self._rows.add_memory("peak memory of a process", running.peak_bytes())
        return self._rows

    def _follow(
        self, data: Path, source: Path, count: int, settings: Mapping[str, str], indices: str
    ) -> None:
        """Load, and wait until the index has all of it."""
        started = time.perf_counter()
        loaded = server.load(data, source, **settings)
        deadline = started + PATIENCE_SECONDS
        while documents(indices) < count:
            assert time.perf_counter() < deadline, "the index does not follow"
            time.sleep(0.05)
        seconds = time.perf_counter() - started
        self._rows.add("data", f"{count:,} resources")
        self._rows.add("load", f"{count / loaded.seconds:,.0f} resources/s")
        rate = count / seconds
        measured = f"{rate:,.0f} resources/s, {seconds - loaded.seconds:.1f} s behind"
        self._rows.add("load until all is found", measured, ">= 5,000", met=rate >= 5000)

    def _search(self, running: server.Server) -> None:
        with httpx.Client(base_url=running.url) as client:
            patient = client.get("/Patient?_count=1").json()["entry"][0]["resource"]["id"]
            for what, path in (
                ("by a patient", f"/Observation?patient={patient}&_count={FOUND}"),
                ("by a date", f"/Observation?date=ge2019-03-01&_count={FOUND}"),
                (
                    "by a date, the latest first",
                    f"/Observation?date=ge2019-03-01&_sort=-date&_count={FOUND}",
                ),
                ("of all, the youngest first", f"/Patient?_sort=-birthdate&_count={FOUND}"),
            ):
                page = client.get(path).raise_for_status().json()
                times = timed([("GET", path, None)] * WRITES, client)
                milliseconds = statistics.median(times)
                found = len(page.get("entry", ()))
                measured = f"{milliseconds:.1f} ms, {found} found, at most {max(times):.0f} ms"
                self._rows.add(f"search {what}", measured, "< 20 ms", met=milliseconds < 20)


def timed(requests: Sequence[tuple[str, str, object]], client: httpx.Client) -> list[float]:
    """Return how many milliseconds each request takes."""
    milliseconds = []
    for method, path, resource in requests:
        started = time.perf_counter()
        client.request(method, path, json=resource).raise_for_status()
        milliseconds.append((time.perf_counter() - started) * 1000)
    return milliseconds


def basic(resource_id: str) -> dict[str, object]:
    """Return a resource of the smallest type."""
    return {"resourceType": "Basic", "id": resource_id, "code": {"text": "x"}}
