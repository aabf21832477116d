"""`helios doctor`: check everything that a server needs, and say what to do."""

import asyncio
import os
import platform
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
from rich.markup import escape

from helios_core.cli.terminal import log_errors_only, new_table, out, print_json, run
from helios_core.config import selection
from helios_core.config.extensions import (
    SelectedExtension,
    open_health_checks,
    open_token_verifier,
)
from helios_core.config.plugins import (
    CORE,
    InstalledPlugin,
    is_released_with_core,
    load_all_plugins,
)
from helios_core.config.selection import SelectedBackend, Selection
from helios_core.config.settings import Settings
from helios_core.errors import BackendError, ConfigurationError, HeliosError, InvalidToken
from helios_core.export import oversight
from helios_core.export.expiry import find_unreadable
from helios_core.model.exports import ExportRequest, Level
from helios_core.model.jobs import Job
from helios_core.model.parts import PartKey, PartKind
from helios_core.storage.backends import Backends, OpenedHealthChecks
from helios_core.storage.data_provider import DataProvider, SupportsWrites
from helios_core.storage.extensions import HealthExtension
from helios_core.storage.job_store import JobStore
from helios_core.storage.output_store import OutputStore
from helios_core.storage.token_verifier import TokenVerifier

T = TypeVar("T")

Verdict = Literal["ok", "warning", "error"]

PROBE_TENANT = "_doctor"
"""The tenant of probes; no client can have one whose name begins with an underscore."""
PROBE = b'{"resourceType":"Basic"}\n'
PROBE_JWT = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImRvY3RvciJ9.e30.AA"
"""An invalid token that makes a verifier ask its issuer, because its key `doctor` is unknown."""
TIMEOUT_SECONDS = 30
"""How long each check of a backend may take."""
MAX_DEVIATION = timedelta(seconds=5)
"""How far the clock of a backend may deviate from this machine's."""
LITTLE_SPACE = 1024**3
NO_SPACE = 100 * 1024**2
"""Free bytes on a disk below which the doctor warns (`LITTLE_SPACE`) or fails (`NO_SPACE`)."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""
    """What to do, unless `found` says it."""


def examine(output: Literal["table", "json"]) -> int:
    """Print the results of all checks, and return the exit code."""
    log_errors_only()
    checks = run(run_checks())
    if output == "json":
        print_json(checks)
    else:
        table = new_table("check", "verdict", "found", "what to do")
        styles = {"ok": "green", "warning": "yellow", "error": "red"}
        for check in checks:
            cells = map(escape, (check.name, check.verdict, check.found, check.advice))
            table.add_row(*cells, style=None if check.verdict == "ok" else styles[check.verdict])
        out.print(table)
    failed = {check.name for check in checks if check.verdict == "error"}
    return 2 if "settings" in failed else int(bool(failed))


async def run_checks() -> list[Check]:
    """Check everything, except what depends on a check that failed."""
    checks = [*_check_plugins(), *_check_versions()]
    try:
        chosen = selection.configure(os.environ)
        chosen.data_provider.require_files()
        chosen.job_store.require_files()
    except ConfigurationError as error:
        failed = Check(name="settings", verdict="error", found=error.found, advice=error.advice)
        return [failed, *checks]
    checks = [*_check_settings(chosen.settings), *checks, *_check_disks(chosen)]
    async with AsyncExitStack() as stack:
        return [*checks, *await _Backends(chosen, stack).check()]


def _check_settings(settings: Settings) -> Iterator[Check]:
    lease, heartbeat = settings.bulk_export_lease_duration, settings.bulk_export_heartbeat_interval
    if lease < 2 * heartbeat:
        yield Check(
            name="settings",
            verdict="warning",
            found="A worker that misses one heartbeat loses its shard.",
            advice="Set HFS_BULK_EXPORT_LEASE_DURATION to three times "
            "HFS_BULK_EXPORT_HEARTBEAT_INTERVAL.",
        )
    else:
        yield Check(name="settings", verdict="ok", found="All settings are valid.")


def _check_plugins() -> Iterator[Check]:
    loaded = list(load_all_plugins())
    broken = [item for item in loaded if isinstance(item, tuple)]
    for origin, problem in broken:
        yield Check(
            name="plugins",
            verdict="warning",
            found=str(problem),
            advice=f"Repair or uninstall {origin.distribution}; it matters only if selected.",
        )
    if not broken:
        yield Check(name="plugins", verdict="ok", found=f"{len(loaded)} are usable.")


def _check_versions() -> Iterator[Check]:
    core = version(CORE)
    origins = [item[0] if isinstance(item, tuple) else item.origin for item in load_all_plugins()]
    others = sorted({_label(origin) for origin in origins if _has_other_version(origin, core)})
    if others:
        yield Check(
            name="versions",
            verdict="error",
            found=f"{CORE} has version {core}, but installed are also {', '.join(others)}.",
            advice=f"Install version {core} of all of them: they are released together.",
        )
    else:
        found = f"{CORE} and its plugins {core}, Python {platform.python_version()}"
        yield Check(name="versions", verdict="ok", found=found)


def _has_other_version(origin: InstalledPlugin, core: str) -> bool:
    return is_released_with_core(origin) and origin.version != core


def _label(origin: InstalledPlugin) -> str:
    return f"{origin.distribution} {origin.version}"


def _check_disks(chosen: Selection) -> Iterator[Check]:
    seen = set[Path]()
    for backend in chosen.backends:
        for path in backend.files():
            folder = next(parent for parent in (path, *path.parents) if parent.is_dir())
            if folder not in seen:
                seen.add(folder)
                yield _check_disk(folder)


def _check_disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    found = f"{free / 1024**3:.1f} GiB are free at {folder}."
    if free >= LITTLE_SPACE:
        return Check(name="disk", verdict="ok", found=found)
    return Check(
        name="disk",
        verdict="warning" if free >= NO_SPACE else "error",
        found=found,
        advice="Free space, delete exports (helios jobs list), or move the folder.",
    )


class _Backends:
    """Opens the selected backends one by one, and tries the operations they are needed for."""

    def __init__(self, chosen: Selection, stack: AsyncExitStack) -> None:
        self._chosen = chosen
        self._stack = stack
        self._checks = list[Check]()
        self._probe = secrets.token_hex(8)

    async def check(self) -> list[Check]:
        """Return the results, those of the data provider first."""
        chosen = self._chosen
        provider = await self._opened("data provider", chosen.data_provider)
        if provider is not None:
            await self._try("data provider", "Reading works", self._read, provider)
        if chosen.search_index is not None:
            index = await self._opened("search index", chosen.search_index)
            if index is not None:
                await self._try("search index", "Reading works", index.datasets)
        jobs = await self._opened("job store", chosen.job_store)
        if jobs is None:
            return self._checks
        outputs = await self._opened("output store", chosen.output_store)
        # As long as the job exists, no server removes the file as an orphan.
        if await self._try("job store", "Adding a job works", self._add, jobs):
            if outputs is not None:
                works = "Writing, reading and deleting work"
                await self._try("output store", works, self._write, outputs, jobs)
                if provider is not None:
                    backends = Backends(
                        data_provider=provider,
                        job_store=jobs,
                        output_store=outputs,
                        announce=lambda _job: None,
                    )
                    await self._check_verifier(backends)
                    await self._check_health(backends)
            await self._try("job store", "Deleting a job works", self._remove, jobs)
            await self._try("job store", "Listing jobs works", self._look_after, jobs)
        return self._checks

    async def _check_verifier(self, backends: Backends) -> None:
        """Open the verifier of access tokens, and make it query its issuer."""
        selected = self._chosen.token_verifier
        if selected is None:
            return
        works = f"{_capital(str(selected.origin))} can be opened"
        opened = list[TokenVerifier]()

        async def enter() -> None:
            verifier = await open_token_verifier(self._stack, selected, backends)
            assert verifier is not None  # noqa: S101  one is selected
            opened.append(verifier)

        if await self._try("token verifier", works, enter):
            await self._try("token verifier", "Its issuer responds", self._check_issuer, *opened)

    async def _check_health(self, backends: Backends) -> None:
        """Open the health checks of plugins, and run them as `/_readiness` does."""
        for selected in self._chosen.extensions:
            if not isinstance(selected.extension, HealthExtension):
                continue
            opened = list[OpenedHealthChecks]()

            async def enter(one: SelectedExtension, found: list[OpenedHealthChecks]) -> None:
                found.extend(await open_health_checks(self._stack, [one], backends))

            works = f"The health checks of {selected.origin} can be opened"
            if await self._try("health checks", works, enter, selected, opened):
                for name, check in opened[0].checks.items():
                    await self._try(f"{selected.origin.name}/{name}", "All is well", check)

    async def _opened(self, name: str, selected: SelectedBackend[T]) -> T | None:
        opened = list[T]()

        async def enter() -> None:
            opened.append(await self._stack.enter_async_context(selected.open()))

        await self._try(name, f"{_capital(str(selected.plugin.origin))} can be opened", enter)
        return opened[0] if opened else None

    async def _try(
        self, name: str, works: str, work: Callable[..., Awaitable[object]], *arguments: object
    ) -> bool:
        """Run a check and note its result; return whether it succeeded."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await work(*arguments)
        except ConfigurationError as error:
            found, advice = error.found, error.advice
        except HeliosError as error:
            found, advice = str(error), ""
        except TimeoutError:
            found, advice = f"It did not respond within {TIMEOUT_SECONDS} seconds.", "Restart it."
        except Exception as error:  # noqa: BLE001  a plugin may raise anything
            found = f"It raised {type(error).__name__}."
            advice = "Report this to the maintainer of the plugin."
        else:
            self._checks.append(Check(name=name, verdict="ok", found=f"{works}."))
            return True
        self._checks.append(Check(name=name, verdict="error", found=found, advice=advice))
        return False

    async def _read(self, provider: DataProvider) -> None:
        before = datetime.now(UTC)
        settled = await provider.transaction_time()
        # Where others write, the transaction time is that of the last load, which may be days ago.
        if isinstance(provider, SupportsWrites):
            self._compare_clocks("data provider", before, settled)

    async def _check_issuer(self, verifier: TokenVerifier) -> None:
        """Make the verifier query its issuer, for its configuration and for a key."""
        await verifier.smart_configuration(self._chosen.settings.base_url or "http://localhost")
        with suppress(InvalidToken):
            await verifier.verify(PROBE_JWT)

    async def _add(self, jobs: JobStore) -> None:
        settings = self._chosen.settings
        request = ExportRequest(
            tenant=PROBE_TENANT,
            url="",
            fhir_version=settings.default_fhir_version,
            level=Level.SYSTEM,
            types=(),
        )
        before = datetime.now(UTC)
        job = Job(id=self._probe, request=request, transaction_time=before)
        added = await jobs.add(job, [], max_active=1)
        self._compare_clocks("job store", before, added.created_at or before)

    async def _write(self, outputs: OutputStore, jobs: JobStore) -> None:
        await outputs.bind(jobs.identity)
        key = PartKey(
            tenant=PROBE_TENANT,
            job_id=self._probe,
            kind=PartKind.OUTPUT,
            resource_type="Basic",
            ordinal=1,
            number=1,
            token=1,
        )
        try:
            await outputs.put(key, _chunks())
            content = b"".join([chunk async for chunk in outputs.read(key)])
            if content != PROBE:
                raise BackendError("the bytes read are not the bytes written; check the storage")
        finally:
            await outputs.delete(PROBE_TENANT, self._probe)

    async def _remove(self, jobs: JobStore) -> None:
        await jobs.delete(PROBE_TENANT, self._probe)

    async def _look_after(self, jobs: JobStore) -> None:
        await find_unreadable(jobs)
        for problem in await oversight.problems(jobs):
            self._checks.append(Check(name="exports", verdict="warning", found=problem))

    def _compare_clocks(self, name: str, before: datetime, remote: datetime) -> None:
        """Note by how much a clock deviates, not counting the time that reading it took."""
        after = datetime.now(UTC)
        deviation = max(before - remote, remote - after, timedelta())
        seconds = f"{deviation.total_seconds():.1f}"
        good = deviation <= MAX_DEVIATION
        self._checks.append(
            Check(
                name="clocks",
                verdict="ok" if good else "warning",
                found=f"The clock of the {name} is {seconds} s from this machine's.",
                advice="" if good else "Synchronize both by NTP; leases and expiry depend on it.",
            )
        )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


async def _chunks() -> AsyncIterator[bytes]:
    yield PROBE
