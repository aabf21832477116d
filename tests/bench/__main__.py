"""
Measure speed and memory against yardsticks of the same run.

    python tests/bench --resources 400000
    python tests/bench --only postgres --only s3

Generates data, loads it with `helios load`, serves it with `helios serve`, and prints what was
measured beside what is wanted. With --strict a miss is an error.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import server
import small_group
import yardstick
from authenticated import Authenticated
from many_machines import ManyMachines
from other_stores import Documents, InBuckets, Searched
from rich.console import Console
from rows import MEGABYTE, Row, Rows, table

from helios_core.cli.demo.population import GROUP_ID, write_population

LARGE_RESOURCES = 50
LARGE_BYTES = 20_000_000
TARGET_RESOURCES = 400_000
LEVELS = {
    "system": "/$export",
    "all patients": "/Patient/$export",
    "group of 10 %": f"/Group/{GROUP_ID}/$export",
}
OBSERVATIONS = "/$export?_type=Observation"
NARROW = f"{OBSERVATIONS}&_typeFilter=Observation%3Fdate%3Dge2019-03-01%26date%3Dlt2019-04-06"
"""36 of the 3,650 days the population spreads over: an index knows where these are."""
WIDE = f"{OBSERVATIONS}&_typeFilter=Observation%3Fvalue-quantity%3Dgt100"
"""Quantities are not indexed, so that every Observation has to be looked at."""
ELEMENTS = "/$export?_elements=identifier,status,code,subject"


class Bench:
    """One run from data to table."""

    def __init__(self, folder: Path, resources: int, runs: int) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._resources = resources
        self._runs = runs
        self._rows = Rows()
        self._system_rate = 0.0
        self._system_seconds = 0.0

    def run(self) -> list[Row]:
        self._load()
        with server.serve(self._data) as running:
            running.export(LEVELS["system"])
            self._first_answers(running)
            self._system(running)
            self._downloads(running)
            for name in ("all patients", "group of 10 %"):
                self._level(running, name)
            self._filters(running)
            self._elements(running)
            self._rows.add_memory("peak memory, all of the above", running.peak_bytes())
        self._gzip()
        Authenticated(self._data, self._runs).add_to(self._rows)
        self._few()
        self._large()
        return self._rows

    def _load(self) -> None:
        population = self._folder / "population"
        counts = write_population(population, resources=self._resources)
        size = sum(path.stat().st_size for path in population.iterdir())
        self._rows.add("data", f"{counts.total():,} resources, {size / MEGABYTE:,.0f} MB")
        load = server.load(self._data, population)
        rate = counts.total() / load.seconds
        self._rows.add(
            "load", f"{rate:,.0f} resources/s", ">= 15,000 (goal 30,000)", met=rate >= 15e3
        )
        self._rows.add("load, peak memory", f"{load.peak_bytes / MEGABYTE:,.0f} MB")

    def _first_answers(self, running: server.Server) -> None:
        seconds = []
        for path in [LEVELS["system"], LEVELS["group of 10 %"]] * 15:
            answered, status = running.kick_off(path)
            running.delete(status)
            seconds.append(answered * 1000)
        measured = f"{statistics.median(seconds):.1f} ms, at most {max(seconds):.1f} ms"
        self._rows.add("time to first 202", measured, "< 50 ms", met=max(seconds) < 50)

    def _system(self, running: server.Server) -> None:
        exports, dumps = [], []
        for _ in range(self._runs):
            if yardstick.SHELL:
                target = self._folder / "dump.ndjson"
                dumps.append(yardstick.dump(self._data / "helios.db", target))
            export = running.export(LEVELS["system"])
            exports.append(export)
            size = running.stored_bytes(export)
            assert all(dump.size == size for dump in dumps), "the yardstick wrote other rows"
            running.delete(export.status)
        self._system_seconds = statistics.median(export.seconds for export in exports)
        self._system_rate = exports[0].resources / self._system_seconds
        self._rows.add(
            "system export", f"{self._system_seconds:.2f} s, {self._system_rate:,.0f}/s"
        )
        self._compare(dumps)

    def _compare(self, dumps: list[yardstick.Dump]) -> None:
        if not dumps:
            self._rows.add(
                "... to the sqlite3 shell", "not measured: sqlite3 is not installed", "", met=False
            )
            return
        shell = statistics.median(dump.seconds for dump in dumps)
        durable = statistics.median(dump.durable_seconds for dump in dumps)
        ratio = self._system_seconds / shell
        measured = f"{ratio:.2f} of its {shell:.2f} s"
        self._rows.add("... to the sqlite3 shell", measured, "<= 1.5 (goal 1.0)", met=ratio <= 1.5)
        ratio = self._system_seconds / durable
        self._rows.add("... to the shell with fsync", f"{ratio:.2f} of its {durable:.2f} s")

    def _downloads(self, running: server.Server) -> None:
        export = running.export(LEVELS["system"])
        rates = []
        for _ in range(self._runs):
            started = time.perf_counter()
            size = running.download(export)
            rates.append(size / MEGABYTE / (time.perf_counter() - started))
        running.delete(export.status)
        rate = statistics.median(rates)
        self._rows.add("download", f"{rate:,.0f} MB/s", ">= 500 MB/s", met=rate >= 500)

    def _level(self, running: server.Server, name: str) -> None:
        rates = []
        for _ in range(self._runs):
            export = running.export(LEVELS[name])
            running.delete(export.status)
            rates.append(export.rate)
        ratio = statistics.median(rates) / self._system_rate
        measured = f"{statistics.median(rates):,.0f}/s, {ratio:.2f} of system"
        self._rows.add(f"{name} export", measured, ">= 0.5", met=ratio >= 0.5)

    def _filters(self, running: server.Server) -> None:
        """Compare filtered exports of one type with all of it."""
        everything = self._median(running, OBSERVATIONS)
        narrow = self._median(running, NARROW)
        share = narrow.resources / everything.resources
        allowed = everything.seconds * 0.05 + 0.1
        measured = f"{narrow.seconds * 1000:.0f} ms of {everything.seconds * 1000:.0f} ms"
        target = f"<= 5 % + 100 ms = {allowed * 1000:.0f} ms"
        self._rows.add(
            f"filter by index, {share:.1%}", measured, target, met=narrow.seconds <= allowed
        )
        wide = self._median(running, WIDE)
        share = wide.resources / everything.resources
        ratio = everything.seconds / wide.seconds
        measured = f"{everything.resources / wide.seconds:,.0f}/s read, {ratio:.2f} of unfiltered"
        self._rows.add(f"filter without index, {share:.0%}", measured, ">= 0.4", met=ratio >= 0.4)

    def _elements(self, running: server.Server) -> None:
        rate = self._median(running, ELEMENTS).rate
        ratio = rate / self._system_rate
        measured = f"{rate:,.0f}/s, {ratio:.2f} of system"
        self._rows.add("system export, _elements", measured, ">= 0.6", met=ratio >= 0.6)

    def _median(self, running: server.Server, path: str) -> server.Export:
        """Export several times, and give the export of median length."""
        exports = []
        for _ in range(self._runs):
            exports.append(running.export(path))
            running.delete(exports[-1].status)
        return sorted(exports, key=lambda export: export.seconds)[self._runs // 2]

    def _few(self) -> None:
        """Export a few patients out of many, from a store of their own."""
        data, source = self._folder / "small-group", self._folder / "small-group.ndjson"
        small_group.write(source)
        server.load(data, source)
        with server.serve(data) as running:
            path = f"/Group/{small_group.GROUP_ID}/$export"
            running.delete(running.export(path).status)
            export = self._median(running, path)
        assert export.resources == small_group.EXPORTED, "the group export lacks something"
        milliseconds = export.seconds * 1000
        what = f"group of {small_group.MEMBERS} of {small_group.PATIENTS:,}"
        measured = f"{milliseconds:.0f} ms, {export.resources} resources"
        self._rows.add(what, measured, "< 200 ms", met=milliseconds < 200)

    def _gzip(self) -> None:
        with server.serve(self._data, HFS_BULK_EXPORT_COMPRESSION="gzip") as running:
            exports = []
            for _ in range(self._runs):
                export = running.export(LEVELS["system"])
                size = running.stored_bytes(export)
                running.delete(export.status)
                exports.append(export.seconds)
            seconds = statistics.median(exports)
            measured = f"{seconds:.2f} s, {seconds / self._system_seconds:.2f} of plain"
            self._rows.add("system export, gzip", f"{measured}, {size / MEGABYTE:,.0f} MB at rest")
            self._rows.add_memory("peak memory, gzip", running.peak_bytes())

    def _large(self) -> None:
        """Put resources of 20 MB among the others and do everything again."""
        large = self._folder / "large.ndjson"
        with large.open("w") as file:
            for number in range(LARGE_RESOURCES):
                data = f"{number:04}" * (LARGE_BYTES // 4)
                file.write(
                    f'{{"resourceType":"Binary","id":"large-{number}",'
                    f'"contentType":"text/plain","data":"{data}"}}\n'
                )
        load = server.load(self._data, large)
        what = f"{LARGE_RESOURCES} of {LARGE_BYTES // MEGABYTE} MB"
        rate = LARGE_RESOURCES * LARGE_BYTES / MEGABYTE / load.seconds
        peak = load.peak_bytes / MEGABYTE
        self._rows.add(f"load, {what}", f"{rate:,.0f} MB/s, peak memory {peak:,.0f} MB")
        with server.serve(self._data) as running:
            for path in LEVELS.values():
                export = running.export(path)
                running.download(export)
                running.delete(export.status)
            self._rows.add_memory(f"peak memory, {what} among them", running.peak_bytes())


TOPOLOGIES = {
    "sqlite": Bench,
    "postgres": ManyMachines,
    "mongodb": Documents,
    "s3": InBuckets,
    "elasticsearch": Searched,
}
TITLES = {
    "sqlite": "One machine: SQLite and local files",
    "postgres": "Many machines, all on this one: PostgreSQL, local files and S3",
    "mongodb": "MongoDB and local files, beside PostgreSQL",
    "s3": "Resources in a bucket and local files, beside PostgreSQL",
    "elasticsearch": "SQLite with Elasticsearch",
}
USUAL = ("sqlite", "postgres")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests/bench", description=__doc__.strip().split("\n")[0]
    )
    parser.add_argument("--resources", type=int, default=40_000)
    parser.add_argument("--runs", type=int, default=5, help="of everything that is timed")
    parser.add_argument(
        "--only", choices=TOPOLOGIES, action="append", help=f"instead of {' and '.join(USUAL)}"
    )
    parser.add_argument("--strict", action="store_true", help="a missed target is an error")
    options = parser.parse_args()
    started = time.monotonic()
    console = Console(width=140)
    missed = False
    for name, topology in TOPOLOGIES.items():
        if name in (options.only or USUAL):
            with tempfile.TemporaryDirectory(prefix="helios-bench-") as folder:
                rows = topology(Path(folder), options.resources, options.runs).run()
            missed |= any(row.met is False for row in rows)
            console.print(table(rows, TITLES[name]))
    if options.resources < TARGET_RESOURCES:
        console.print(
            f"The targets are for {TARGET_RESOURCES:,} resources; below, the cost of each file and"
            " each commit weighs more.",
            highlight=False,
        )
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    seconds = time.monotonic() - started
    console.print(f"{seconds:.0f} s; {os.cpu_count()} processors, load average {load}")
    return 1 if options.strict and missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
