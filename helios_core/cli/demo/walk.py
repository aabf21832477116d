"""Show the whole product in one go: make data, load, serve, export, check."""

import asyncio
import os
import re
import shutil
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from helios_core.cli import progress, tables
from helios_core.cli.demo import tallies
from helios_core.cli.demo.population import GROUP_ID, write_population
from helios_core.cli.demo.tallies import DemoTally
from helios_core.client import export as client
from helios_core.config import matrix as capabilities
from helios_core.config import selection as plugins
from helios_core.config.selection import Selection
from helios_core.errors import HeliosError
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.instants import parse_instant
from helios_core.loading.load import LoadSummary, load
from helios_core.model.exports import Level
from helios_core.storage.data_provider import SupportsWrites

SERVE = "from helios_core.cli.commands import app; app(['serve'])"
LISTENING = re.compile(r"^Listening on (\S+)", re.MULTILINE)
PATIENTS = 300
PATIENCE = 30.0
"""Seconds the server may take to start or to stop."""

Tallies = Mapping[Level, DemoTally]


class DemoFailed(HeliosError):
    """Something the demonstration did has not the outcome it must have."""


async def run_demo(folder: Path, console: Console, *, patients: int = PATIENTS) -> None:
    """
    Demonstrate everything within `folder`, which is removed first.

    Raises:
        DemoFailed: A count is wrong, or the server does not start or stop as it should.
    """
    started = time.monotonic()
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    population, files = folder / "population", folder / "files"
    selection = plugins.configure(_environment(folder))
    made = await asyncio.to_thread(write_population, population, patients=patients)
    console.print(f"Made {made.total():,} resources of {len(made)} types in {population}")
    referenced = selection.settings.bulk_export_referenced_types
    expected = await asyncio.to_thread(
        tallies.tally_files, population, referenced_types=referenced
    )
    console.print(tables.load_table(await _load(selection, population)))
    async with _server(folder) as url:
        console.print(f"Serving at {url}", highlight=False)
        exports = {level: await _export(url, level, files) for level in Level}
    stored = await _stored(selection, exports, tallies.read_group_members(population))
    console.print("The manifest of the group export:")
    console.print_json(exports[Level.GROUP].manifest.decode())
    console.print(tables.matrix_table(_matrix(selection)))
    given = {level: _given(summary) for level, summary in exports.items()}
    console.print(_comparison(expected, given, stored))
    _check(expected, given, stored)
    seconds = time.monotonic() - started
    console.print(f"Every count agrees. The files are in {files} ({seconds:.1f} s in all).")


def _environment(folder: Path) -> dict[str, str]:
    """Give an environment in which only the demonstration's own settings count."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HFS_")}
    return environ | {
        "HFS_DATA_DIR": str(folder / "server"),
        "HFS_SERVER_PORT": "0",
        "HFS_LOG_LEVEL": "warning",
    }


async def _load(selection: Selection, population: Path) -> LoadSummary:
    async with selection.data_provider.open() as provider:
        if not isinstance(provider, SupportsWrites):
            raise DemoFailed(f"{selection.data_provider.plugin.origin} cannot be written to")
        with progress.load_progress() as tell:
            summary = await load(
                [population],
                provider,
                tenant=selection.settings.default_tenant,
                fhir_version=FHIRVersion.R4,
                on_progress=tell,
            )
    if summary.bad:
        raise DemoFailed(f"{summary.bad:,} resources were not loaded: {summary.problems[0]}")
    return summary


@asynccontextmanager
async def _server(folder: Path) -> AsyncIterator[str]:
    """Run `helios serve` until the context ends, then have it stop by itself."""
    log = folder / "server.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SERVE), env=_environment(folder), stdout=output, stderr=output
        )
    try:
        yield await _address(process, log)
    except BaseException:
        await _stop(process)
        raise
    if code := await _stop(process):
        raise DemoFailed(f"the server ended with code {code}; {log} tells why")


async def _address(process: Process, log: Path) -> str:
    deadline = time.monotonic() + PATIENCE
    while process.returncode is None and time.monotonic() < deadline:
        if found := LISTENING.search(await asyncio.to_thread(log.read_text)):
            return found[1]
        await asyncio.sleep(0.05)
    raise DemoFailed(f"the server did not start; {log} tells why")


async def _stop(process: Process) -> int:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(PATIENCE):
            return await process.wait()
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise DemoFailed(f"the server did not stop within {PATIENCE:.0f} s") from error


async def _export(url: str, level: Level, files: Path) -> client.ExportSummary:
    order = client.ClientRequest(
        base_url=url, level=level, group_id=GROUP_ID if level is Level.GROUP else None
    )
    with progress.export_progress(level) as tell:
        return await client.export(order, files / level, on_progress=tell)


async def _stored(
    selection: Selection, exports: Mapping[Level, client.ExportSummary], members: frozenset[str]
) -> dict[Level, DemoTally]:
    async with selection.data_provider.open() as provider:
        return {
            level: await tallies.tally_database(
                provider,
                level,
                tenant=selection.settings.default_tenant,
                at=parse_instant(summary.transaction_time),
                members=members,
                referenced_types=selection.settings.bulk_export_referenced_types,
            )
            for level, summary in exports.items()
        }


def _given(summary: client.ExportSummary) -> DemoTally:
    """Count the lines of the files; the client has compared them with the manifest."""
    given = DemoTally()
    for file in summary.files:
        given[file.type if file.kind == "output" else file.kind] += file.lines
    return given


def _matrix(selection: Selection) -> list[capabilities.Combination]:
    settings = selection.settings
    selected = (settings.storage_backend, settings.bulk_export_output_backend)
    return capabilities.matrix(selection.plugins, selected=selected)


def _comparison(*tallied: Tallies) -> Table:
    title = "Resources generated, exported and stored: one number where the three agree"
    table = Table("type", *Level, title=title)
    for name in sorted(tallied[0][Level.SYSTEM]):
        table.add_row(name, *(_cell([tally[level][name] for tally in tallied]) for level in Level))
    table.add_row("all", *(_cell([tally[level].total() for tally in tallied]) for level in Level))
    return table


def _cell(counts: list[int]) -> str:
    return " / ".join(f"{count:,}" for count in (counts if len(set(counts)) > 1 else counts[:1]))


def _check(expected: Tallies, given: Tallies, stored: Tallies) -> None:
    found = [("export", given), ("database", stored)]
    wrong = [
        f"the {source} has {tallied[level][name]:,} {name} at {level} level, not {count:,}"
        for source, tallied in found
        for level in Level
        for name, count in _all_types(expected[level], tallied[level])
        if tallied[level][name] != count
    ]
    if wrong:
        raise DemoFailed("; ".join(wrong))


def _all_types(expected: DemoTally, found: DemoTally) -> list[tuple[str, int]]:
    return [(name, expected[name]) for name in sorted({*expected, *found})]
