"""Demonstrate the whole product: make data, load it, serve it, export it, check every count."""

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from helios_core.cli import tables
from helios_core.cli.demo import tallies
from helios_core.cli.demo.population import GROUP_ID, write_population
from helios_core.cli.demo.tallies import DemoTally
from helios_core.cli.export_reports import export_progress
from helios_core.cli.load import load_progress, load_table
from helios_core.cli.terminal import log_errors_only, run
from helios_core.client import export as client
from helios_core.client.kickoff import ClientRequest
from helios_core.config.matrix import matrix
from helios_core.config.selection import Selection, configure
from helios_core.errors import HeliosError
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.instants import parse_instant
from helios_core.loading.load import LoadSummary, load
from helios_core.model.exports import Level
from helios_core.storage.data_provider import SupportsWrites

SERVE = "from helios_core.cli.commands import app; app(['serve'])"
LISTENING = re.compile(r"^Listening on (\S+)", re.MULTILINE)
PATIENTS = 300
TIMEOUT_SECONDS = 30.0
"""How long the server may take to start, and to stop."""
MANIFEST_FILES = 3
"""How many files of the manifest are shown."""

Tallies = Mapping[Level, DemoTally]


class DemoFailed(HeliosError):
    """A step of the demonstration did not have the expected result."""


def show_demo(folder: Path) -> None:
    """Run the demonstration on the terminal; see `run_demo`."""
    log_errors_only()
    # People read the output, also in a file, so it stays a table there.
    console = Console(width=None if sys.stdout.isatty() else 160)
    run(run_demo(folder, console))


async def run_demo(folder: Path, console: Console, *, patients: int = PATIENTS) -> None:
    """
    Demonstrate everything in `folder`, which is removed first.

    Raises:
        DemoFailed: A count is wrong, or the server does not start or stop properly.
    """
    started = time.monotonic()
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    population, files = folder / "population", folder / "files"
    selection = configure(_environment(folder))
    made = await asyncio.to_thread(write_population, population, patients=patients)
    console.print(f"Made {made.total():,} resources of {len(made)} types in {population}")
    referenced = selection.settings.bulk_export_referenced_types
    expected = await asyncio.to_thread(
        tallies.tally_files, population, referenced_types=referenced
    )
    console.print(load_table(await _load(selection, population)))
    async with _server(folder) as url:
        console.print(f"Serving at {url}", highlight=False)
        rows = matrix(
            selection.plugins,
            selected=selection.settings.backend_names,
            job_store=selection.settings.bulk_export_job_store,
        )
        console.print(tables.matrix_table(rows))
        exports = {level: await _export(url, level, files) for level in Level}
    stored = await _stored(selection, exports, tallies.read_group_members(population))
    exported = {level: _tally_summary(summary) for level, summary in exports.items()}
    console.print(_comparison(expected, exported, stored))
    _check(expected, exported, stored)
    manifest = files / Level.GROUP / "manifest.json"
    console.print(f"The manifest of the group export, shortened; all of it is in {manifest}:")
    console.print_json(json.dumps(_shorten(json.loads(exports[Level.GROUP].manifest))))
    seconds = time.monotonic() - started
    console.print(f"Every count agrees. The files are in {files} ({seconds:.1f} s in all).")


def _environment(folder: Path) -> dict[str, str]:
    """Return this process's environment with no settings but the demonstration's own."""
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
        with load_progress() as report:
            summary = await load(
                [population],
                provider,
                tenant=selection.settings.default_tenant,
                fhir_version=FHIRVersion.R4,
                on_progress=report,
            )
    if summary.bad:
        raise DemoFailed(f"{summary.bad:,} resources were not loaded: {summary.problems[0]}")
    return summary


@asynccontextmanager
async def _server(folder: Path) -> AsyncIterator[str]:
    """Run `helios serve` until the context ends, then stop it with SIGTERM."""
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
        raise DemoFailed(f"the server ended with code {code}; {log} says why")


async def _address(process: Process, log: Path) -> str:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while process.returncode is None and time.monotonic() < deadline:
        if match := LISTENING.search(await asyncio.to_thread(log.read_text)):
            return match[1]
        await asyncio.sleep(0.05)
    raise DemoFailed(f"the server did not start; {log} says why")


async def _stop(process: Process) -> int:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await process.wait()
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise DemoFailed(f"the server did not stop within {TIMEOUT_SECONDS:.0f} s") from error


async def _export(url: str, level: Level, files: Path) -> client.ExportSummary:
    request = ClientRequest(
        base_url=url, level=level, group_id=GROUP_ID if level is Level.GROUP else None
    )
    with export_progress(level) as report:
        options = client.ExportOptions(on_progress=report)
        return await client.export(request, files / level, options)


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


def _tally_summary(summary: client.ExportSummary) -> DemoTally:
    """Return the line counts of the files, which the client has compared with the manifest."""
    exported = DemoTally()
    for file in summary.files:
        exported[file.type if file.kind == "output" else file.kind] += file.lines
    return exported


def _shorten(manifest: dict[str, object]) -> dict[str, object]:
    """Return a manifest with only its first files and without its extensions."""
    return {
        name: _first(value) if isinstance(value, list) else value
        for name, value in manifest.items()
        if name != "extension"
    }


def _first(files: Sequence[object]) -> list[object]:
    more = len(files) - MANIFEST_FILES
    return [*files[:MANIFEST_FILES], *([f"... {more} more"] if more > 0 else [])]


def _comparison(*tallied: Tallies) -> Table:
    title = "Resources generated, exported and stored: one number where the three agree"
    table = Table("type", *Level, title=title)
    for name in sorted(tallied[0][Level.SYSTEM]):
        table.add_row(name, *(_cell([tally[level][name] for tally in tallied]) for level in Level))
    table.add_row("all", *(_cell([tally[level].total() for tally in tallied]) for level in Level))
    return table


def _cell(counts: list[int]) -> str:
    return " / ".join(f"{count:,}" for count in (counts if len(set(counts)) > 1 else counts[:1]))


def _check(expected: Tallies, exported: Tallies, stored: Tallies) -> None:
    wrong = [
        f"the {source} has {tallied[level][name]:,} {name} at {level} level, not {count:,}"
        for source, tallied in (("export", exported), ("database", stored))
        for level in Level
        for name, count in _all_types(expected[level], tallied[level])
        if tallied[level][name] != count
    ]
    if wrong:
        raise DemoFailed("; ".join(wrong))


def _all_types(expected: DemoTally, counted: DemoTally) -> list[tuple[str, int]]:
    return [(name, expected[name]) for name in sorted({*expected, *counted})]
