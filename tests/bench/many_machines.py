"""
The rows of the second topology: processes over one PostgreSQL and one S3.

All of them run on this machine and share its processors, the database and the bucket's server as
well; what is timed is therefore paired with what the yardstick takes on the same machine at the
same time, and of several runs the fastest of both is compared.
"""

import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import claims
import copying
import server
import small_group
import uploading
from processor import using
from real_services import Bucket, Postgres, a_bucket, has_minio, minio_endpoint, postgres
from rows import MEGABYTE, Row, Rows

from helios_core.cli.demo.population import GROUP_ID, write_population

SYSTEM = "/$export"
GROUP = f"/Group/{GROUP_ID}/$export"
ELEMENTS = "/$export?_elements=identifier,status,code,subject"
MANY = 400_000
LARGE_RESOURCES = 50
QUICKLY = 10
"""So many resources of 20 MB are enough for a first impression."""
LARGE_BYTES = 20_000_000


class ManyMachines:
    """One run over servers that were started for it."""

    def __init__(self, folder: Path, resources: int, runs: int) -> None:
        self._folder = folder
        self._data = folder
        self._resources = resources
        self._runs = runs
        self._rows = Rows()
        self._database: dict[str, str] = {}
        self._postgres_pid: int | None = None

    def run(self) -> list[Row]:
        with postgres() as service:
            self._postgres_pid = service.server.get_pid() if service.restartable else None
            with self._empty(service):
                self._few()
            with self._empty(service) as url:
                self._rows.add("claims of shards, completed", f"{claims.rate(url):,.0f}/s")
            with self._empty(service) as url:
                self._load()
                self._to_files(url)
                self._workers()
                self._to_bucket()
        return self._rows

    @contextmanager
    def _empty(self, service: Postgres) -> Iterator[str]:
        """Take an empty database with all tables, and a folder, for what follows."""
        with service.database() as url:
            self._data = Path(tempfile.mkdtemp(dir=self._folder))
            self._database = {"HFS_STORAGE_BACKEND": "postgres", "HFS_DATABASE_URL": url}
            server.migrate(self._data, **self._database)
            yield url

    def _load(self) -> None:
        population = self._folder / "population"
        counts = write_population(population, resources=self._resources)
        size = sum(path.stat().st_size for path in population.iterdir())
        self._rows.add("data", f"{counts.total():,} resources, {size / MEGABYTE:,.0f} MB")
        load = server.load(self._data, population, **self._database)
        rate = counts.total() / load.seconds
        self._rows.add("load", f"{rate:,.0f} resources/s", ">= 8,000", met=rate >= 8000)
        self._rows.add("load, peak memory", f"{load.peak_bytes / MEGABYTE:,.0f} MB")

    def _few(self) -> None:
        """Export a few patients out of many."""
        source = self._folder / "small-group.ndjson"
        small_group.write(source)
        server.load(self._data, source, **self._database)
        with server.serve(self._data, **self._database) as running:
            path = f"/Group/{small_group.GROUP_ID}/$export"
            running.delete(running.export(path).status)
            export = self._fastest(running, path)
        assert export.resources == small_group.EXPORTED, "the group export lacks something"
        what = f"group of {small_group.MEMBERS} of {small_group.PATIENTS:,}"
        measured = f"{export.seconds * 1000:.0f} ms, {export.resources} resources"
        self._rows.add(what, measured, "< 200 ms", met=export.seconds < 0.2)

    def _to_files(self, url: str) -> None:
        with server.serve(self._data, **self._database) as running:
            running.delete(running.export(SYSTEM).status)
            self._first_answers(running)
            exports, copies, spent = [], [], []
            for _ in range(self._runs):
                with using(os.getpid(), *self._postgres_pids) as psql:
                    copies.append(copying.copy(url, self._folder / "copy.ndjson"))
                with using(running.pid, *self._postgres_pids) as ours:
                    export = running.export(SYSTEM)
                exports.append(export)
                spent.append((ours.seconds, psql.seconds))
                size = running.stored_bytes(export)
                running.delete(export.status)
                assert copies[-1].size == size, (
                    f"the yardstick wrote {copies[-1].size} bytes, not {size}"
                )
            system = min(exports, key=lambda export: export.seconds)
            self._rows.add(
                "system export to files", f"{system.seconds:.2f} s, {system.rate:,.0f}/s"
            )
            copied = min(copy.seconds for copy in copies)
            self._ratio(r"... to psql's \copy", system.seconds, copied, "<= 1.5 (goal 1.1)")
            synced = min(copy.durable_seconds for copy in copies)
            self._ratio(r"... to \copy with fsync", system.seconds, synced)
            ours, psql = min(spent)
            self._rows.add(
                "... processor time, with PostgreSQL's",
                rf"{ours:.2f} s, {ours / psql:.2f} of that of \copy",
            )
            group = self._fastest(running, GROUP)
            share = group.rate / system.rate
            measured = f"{group.rate:,.0f}/s, {share:.2f} of system"
            self._rows.add("group of 10 % export", measured)
            self._rows.add_memory("peak memory of a process", running.peak_bytes())

    def _ratio(
        self, what: str, seconds: float, yardstick: float, target: str = "", note: str = ""
    ) -> None:
        ratio = seconds / yardstick
        met = ratio <= 1.5 if target else None
        self._rows.add(what, f"{ratio:.2f} of its {yardstick:.2f} s{note}", target, met=met)

    def _first_answers(self, running: server.Server) -> None:
        seconds = []
        for path in [SYSTEM, GROUP] * 15:
            answered, status = running.kick_off(path)
            running.delete(status)
            seconds.append(answered * 1000)
        measured = f"{statistics.median(seconds):.1f} ms, at most {max(seconds):.1f} ms"
        self._rows.add("time to first 202", measured)

    def _workers(self) -> None:
        """Compare one worker with two, where Python has much to do and where it has little."""
        self._scaling("copied", SYSTEM, "none")
        self._scaling("gzip", SYSTEM, "gzip")
        self._scaling("_elements", ELEMENTS, "none")
        self._scaling("_elements, gzip", ELEMENTS, "gzip", ">= 1.6")

    def _scaling(self, what: str, path: str, compression: str, target: str = "") -> None:
        settings = self._database | {"HFS_BULK_EXPORT_COMPRESSION": compression}
        one = self._worked(settings, path, workers=1)
        self._rows.add(f"one worker, {what}", f"{one.seconds:.2f} s; {one.spent}")
        two = self._worked(settings, path, workers=2)
        self._rows.add(
            "... to two workers",
            f"{one.seconds / two.seconds:.2f} times as fast; {two.spent}",
            target,
            met=one.seconds / two.seconds >= 1.6 if target else None,
        )

    def _worked(self, settings: dict[str, str], path: str, *, workers: int) -> "_Worked":
        """Export with some workers beside a server that has none, and give the fastest run."""
        alone = settings | {"HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER": "true"}
        with (
            server.serve(self._data, **alone) as running,
            server.working(self._data, workers, **settings) as pid,
        ):
            running.delete(running.export(path).status)
            runs = []
            for _ in range(self._runs):
                with using(pid) as python, using(*self._postgres_pids) as database:
                    export = running.export(path)
                running.delete(export.status)
                runs.append(_Worked(export.seconds, python.seconds, database.seconds))
            return min(runs, key=lambda run: run.seconds)

    @property
    def _postgres_pids(self) -> list[int]:
        return [] if self._postgres_pid is None else [self._postgres_pid]

    def _to_bucket(self) -> None:
        if not has_minio():
            self._rows.add("PostgreSQL to S3", "not measured: make services", "", met=False)
            return
        folder = self._folder / "minio"
        folder.mkdir()
        with (
            minio_endpoint(folder) as endpoint,
            a_bucket(endpoint) as bucket,
            a_bucket(endpoint) as other,
        ):
            files = self._files()
            settings = self._database | _output(bucket)
            with server.serve(self._data, **settings) as running:
                self._uploads(running, bucket, other, files)
                self._rows.add_memory("peak memory of a process, to S3", running.peak_bytes())
            self._large(settings)

    def _files(self) -> list[Path]:
        """Export to files, for obstore to upload."""
        folder = self._folder / "parts"
        folder.mkdir()
        with server.serve(self._data, **self._database) as running:
            export = running.export(SYSTEM)
            for path in running.files_of(export):
                path.rename(folder / path.name)
        return sorted(folder.iterdir())

    def _uploads(
        self, running: server.Server, bucket: Bucket, other: Bucket, files: list[Path]
    ) -> None:
        running.delete(running.export(SYSTEM).status)
        trials = {each: uploading.upload(other, files, each) for each in uploading.SETTINGS}
        setting = min(trials, key=lambda each: trials[each])
        exports, uploads = [], list[float]()
        for _ in range(self._runs):
            uploads.append(uploading.upload(other, files, setting))
            export = running.export(SYSTEM)
            exports.append(export)
            stored = uploading.stored_bytes(bucket, export.status.rsplit("/", 1)[-1])
            running.delete(export.status)
            assert stored == sum(file.stat().st_size for file in files), "other bytes were stored"
        system = min(exports, key=lambda export: export.seconds)
        self._rows.add("system export to S3", f"{system.seconds:.2f} s, {system.rate:,.0f}/s")
        what = "... to obstore uploading the same"
        self._ratio(what, system.seconds, min(uploads), "<= 1.5", f", {setting}")

    def _large(self, settings: dict[str, str]) -> None:
        """Put resources of 20 MB among the others and export everything again."""
        count = LARGE_RESOURCES if self._resources >= MANY else QUICKLY
        source = self._folder / "large.ndjson"
        with source.open("w") as file:
            for number in range(count):
                data = f"{number:04}" * (LARGE_BYTES // 4)
                file.write(
                    f'{{"resourceType":"Binary","id":"large-{number}",'
                    f'"contentType":"text/plain","data":"{data}"}}\n'
                )
        load = server.load(self._data, source, **settings)
        what = f"{count} of {LARGE_BYTES // MEGABYTE} MB"
        rate = count * LARGE_BYTES / MEGABYTE / load.seconds
        measured = f"{rate:,.0f} MB/s, peak memory {load.peak_bytes / MEGABYTE:,.0f} MB"
        self._rows.add(f"load, {what}", measured)
        for compression in ("none", "gzip"):
            with server.serve(
                self._data, **settings, HFS_BULK_EXPORT_COMPRESSION=compression
            ) as running:
                for path in (SYSTEM, GROUP):
                    running.delete(running.export(path).status)
                what = f"peak memory to S3, {what}" if compression == "none" else "... with gzip"
                self._rows.add_memory(what, running.peak_bytes())

    def _fastest(self, running: server.Server, path: str) -> server.Export:
        exports = []
        for _ in range(self._runs):
            exports.append(running.export(path))
            running.delete(exports[-1].status)
        return min(exports, key=lambda export: export.seconds)


class _Worked:
    """One export by workers beside the server, and whose processor time it took."""

    def __init__(self, seconds: float, python: float, database: float) -> None:
        self.seconds = seconds
        self.spent = f"processor time: workers {python:.2f} s, PostgreSQL {database:.2f} s"


def _output(bucket: Bucket) -> dict[str, str]:
    return {
        "HFS_BULK_EXPORT_OUTPUT_BACKEND": "s3",
        "HFS_BULK_EXPORT_S3_BUCKET": bucket.name,
        "HFS_BULK_EXPORT_S3_ENDPOINT": bucket.endpoint,
        "HFS_BULK_EXPORT_S3_ALLOW_HTTP": "true",
        "HFS_BULK_EXPORT_S3_FORCE_PATH_STYLE": "true",
        "HFS_BULK_EXPORT_S3_ACCESS_KEY_ID": bucket.access_key,
        "HFS_BULK_EXPORT_S3_SECRET_ACCESS_KEY": bucket.secret_key,
    }
