"""The commands about exports, which use the job store itself and need no running server."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Literal, Self, TypeAlias

import click
import msgspec
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from helios_core.cli.terminal import log_errors_only, new_table, out, print_json, print_line, run
from helios_core.config import selection
from helios_core.config.environment import to_text
from helios_core.errors import ConfigurationError, JobNotFound
from helios_core.export import expiry
from helios_core.model.jobs import JobKey, JobQuery, JobStatus, JobSummary
from helios_core.storage.backends import Backends, Reach
from helios_core.storage.job_store import JobStore

MIN_PREFIX = 4
"""Minimum length of an id's beginning, so that a typing mistake does not select a job."""
MAX_JOBS = 1000
"""Maximum number of jobs that one query returns."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
DURATION = re.compile(rf"(\d{{1,6}})([{''.join(UNITS)}])", re.ASCII)

Output: TypeAlias = Literal["table", "json"]
_End: TypeAlias = Callable[[Backends, JobSummary], Awaitable[None]]


class JobRow(msgspec.Struct, frozen=True, kw_only=True):
    """One export as the commands print it."""

    id: str
    tenant: str
    owner: str
    """Issuer and id of the client, empty on an open server."""
    status: str
    readable: bool
    """Whether this version can read the stored export."""
    created_at: datetime
    age_seconds: int
    ended_at: datetime | None
    touched_at: datetime | None
    """When a worker last worked on it."""
    percent: int
    resources_done: int
    resources_total: int
    """An estimate."""
    shards_done: int
    shards_total: int
    bytes: int
    """Size of the published files."""
    attempts: int
    """The most attempts at one shard."""
    last_error: str | None
    """Why the export ended in error, or else why the latest failed attempt failed."""
    waiting_for: str | None
    """The backend that one of its shards waits for."""
    level: str | None
    fhir_version: str | None
    types: Sequence[str]
    transaction_time: datetime | None


class ListChoices(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `helios jobs list`."""

    query: JobQuery
    limit: int
    after: str | None
    output: Output


def parse_duration(text: str | None) -> timedelta | None:
    """
    Return a duration such as `90s`, `15m`, `6h`, `2d` or `1w`.

    Raises:
        UsageError: It is not such a duration.
    """
    if text is None:
        return None
    match = DURATION.fullmatch(text)
    if match is None:
        raise click.UsageError(f"{text!r} is not a number followed by s, m, h, d or w")
    return timedelta(seconds=int(match[1]) * UNITS[match[2]])


def list_jobs(choices: ListChoices) -> None:
    """Print a page of the list of exports, the newest first."""
    jobs = run(_list(choices))
    rows = [job_row(job) for job in jobs[: choices.limit]]
    if choices.output == "json":
        print_json(rows)
        return
    if not rows:
        print_line("There are no such exports.")
        return
    out.print(jobs_table(rows))
    if len(jobs) > choices.limit:
        click.echo(f"There are more: --after {rows[-1].id}", err=True)


def show_job(prefix: str, *, tenant: str | None, output: Output) -> None:
    """Print everything that is known of an export."""

    async def read() -> JobSummary:
        async with _opened_job_store() as store:
            return await _resolve(store, prefix, tenant)

    row = job_row(run(read()))
    if output == "json":
        print_json(row)
        return
    values = msgspec.to_builtins(row)
    width = max(map(len, values))
    for name, value in values.items():
        text = ", ".join(value) if isinstance(value, tuple) else to_text(value)
        print_line(f"{name.replace('_', ' '):{width}}  {text}")


def cancel_jobs(prefixes: Sequence[str], *, tenant: str | None) -> None:
    """Cancel exports; a server removes their files."""

    async def cancel(backends: Backends, job: JobSummary) -> None:
        try:
            await expiry.cancel_job(backends, job.key)
        except JobNotFound:
            if job.status != JobStatus.CANCELLED:
                raise
            print_line(f"{job.id} was cancelled already.")
        else:
            print_line(f"{job.id} is cancelled.")

    _for_each(prefixes, tenant, cancel)


def delete_jobs(prefixes: Sequence[str], *, tenant: str | None) -> None:
    """Cancel exports and remove them with their files."""

    async def delete(backends: Backends, job: JobSummary) -> None:
        with suppress(JobNotFound):  # it was cancelled already
            await expiry.cancel_job(backends, job.key)
        await expiry.remove_job(backends, job.tenant, job.id)
        print_line(f"{job.id} is deleted.")

    _for_each(prefixes, tenant, delete)


def watch_jobs(prefix: str | None, *, tenant: str | None, interval: timedelta) -> int:
    """
    Show the active exports until Ctrl-C, or one until it ends; return the exit code.

    On a terminal they are shown in a table that changes, elsewhere as one line per change.
    """
    try:
        return run(_watch(prefix, tenant, interval))
    except KeyboardInterrupt:
        return 130


def job_row(job: JobSummary) -> JobRow:
    """Return an export as the commands print it."""
    request = job.job.request if job.job else None
    complete = job.status == JobStatus.COMPLETE
    age = max(datetime.now(UTC) - job.created_at, timedelta())
    return JobRow(
        id=job.id,
        tenant=job.tenant,
        owner=job.owner,
        status=job.status,
        readable=job.job is not None,
        created_at=job.created_at.astimezone(UTC),
        age_seconds=int(age.total_seconds()),
        ended_at=job.completed_at and job.completed_at.astimezone(UTC),
        touched_at=job.touched_at and job.touched_at.astimezone(UTC),
        percent=100 if complete else job.progress.percent,
        resources_done=job.progress.resources_done,
        resources_total=job.progress.resources_total,
        shards_done=job.progress.shards_done,
        shards_total=job.progress.shards_total,
        bytes=job.bytes,
        attempts=job.attempts,
        last_error=job.failure or job.last_error,
        waiting_for=job.progress.waiting_for,
        level=request.level.value if request else None,
        fhir_version=request.fhir_version.value if request else None,
        types=request.types if request else (),
        transaction_time=job.job.transaction_time.astimezone(UTC) if job.job else None,
    )


def jobs_table(rows: Sequence[JobRow]) -> Table:
    """Render exports; those that ended in error or cannot be read are red."""
    columns = ("id", "tenant", "status", "age", "done", "shards", "size", "attempts")
    table = new_table(*columns, "owner", "last error")
    for row in rows:
        status = row.status if row.readable else f"{row.status}, unreadable"
        cells = (
            *(row.id, row.tenant, status, _age(row.age_seconds), f"{row.percent} %"),
            *(f"{row.shards_done}/{row.shards_total}", _size(row.bytes), str(row.attempts)),
            *(row.owner, _waiting(row) or row.last_error or ""),
        )
        bad = row.status == JobStatus.ERROR or not row.readable
        table.add_row(*map(escape, cells), style="red" if bad else None)
    return table


async def _list(choices: ListChoices) -> list[JobSummary]:
    async with _opened_job_store() as store:
        after = None
        if choices.after is not None:
            after = (await _resolve(store, choices.after, choices.query.tenant)).place
        return await store.jobs(choices.query, limit=choices.limit + 1, after=after)


@asynccontextmanager
async def _opened_job_store() -> AsyncIterator[JobStore]:
    """
    Open the job store alone.

    Raises:
        ConfigurationError: Only the server's own process can see its jobs, or there is no
            database.
    """
    log_errors_only()
    chosen = selection.configure(os.environ)
    _require_shared(chosen)
    async with chosen.job_store.open() as store:
        yield store


def _require_shared(chosen: selection.Selection) -> None:
    """
    Require that this process can see the exports of a server.

    Raises:
        ConfigurationError: They are in the memory of its process, or there is no database.
    """
    if chosen.job_store.backend.reach is Reach.PROCESS:
        raise ConfigurationError(
            f"plugin {chosen.job_store.plugin.origin.name} keeps exports in the memory of the "
            "server's process, where no other process sees them; select another one with "
            "HFS_STORAGE_BACKEND"
        )
    chosen.job_store.require_files()


def _for_each(prefixes: Sequence[str], tenant: str | None, end: _End) -> None:
    async def work() -> None:
        log_errors_only()
        chosen = selection.configure(os.environ)
        _require_shared(chosen)
        async with selection.open_backends(chosen.settings) as backends:
            jobs = [await _resolve(backends.job_store, prefix, tenant) for prefix in prefixes]
            for job in {job.key: job for job in jobs}.values():
                await end(backends, job)

    run(work())


async def _resolve(store: JobStore, prefix: str, tenant: str | None) -> JobSummary:
    """
    Return the only export whose id begins with `prefix`.

    Raises:
        JobNotFound: There is none.
        UsageError: There are several, or the beginning is too short.
    """
    if len(prefix) < MIN_PREFIX:
        raise click.UsageError(
            f"{prefix!r} is too short: type an id, or at least its first {MIN_PREFIX} characters"
        )
    jobs = await store.jobs(JobQuery(tenant=tenant, id_prefix=prefix), limit=MAX_JOBS)
    exact = [job for job in jobs if job.id == prefix]
    if len(exact) == 1 or len(jobs) == 1:
        return (exact or jobs)[0]
    if not jobs:
        raise JobNotFound(
            f"there is no export whose id begins with {prefix}; see helios jobs list"
        )
    names = ", ".join(f"{job.id} of {job.tenant}" for job in jobs[:5])
    raise click.UsageError(f"{len(jobs)} ids begin with {prefix} ({names}); type more of it")


async def _watch(prefix: str | None, tenant: str | None, interval: timedelta) -> int:
    async with _opened_job_store() as store:
        watched = None if prefix is None else (await _resolve(store, prefix, tenant)).key
        with _Display() as display:
            while True:
                jobs = await _active_or(store, watched, tenant)
                display.show([job_row(job) for job in jobs])
                if watched is not None and (not jobs or jobs[0].completed_at is not None):
                    return 0 if jobs and jobs[0].status == JobStatus.COMPLETE else 1
                await asyncio.sleep(interval.total_seconds())


async def _active_or(
    store: JobStore, watched: JobKey | None, tenant: str | None
) -> list[JobSummary]:
    if watched is None:
        active = frozenset(status for status in JobStatus if status.active)
        return await store.jobs(JobQuery(tenant=tenant, statuses=active), limit=MAX_JOBS)
    query = JobQuery(tenant=watched.tenant, id_prefix=watched.id)
    return [job for job in await store.jobs(query, limit=MAX_JOBS) if job.key == watched]


class _Display:
    """A table that changes on a terminal; elsewhere a line for each change."""

    def __init__(self) -> None:
        self._live = Live(console=out, auto_refresh=False) if out.is_terminal else None
        self._printed = dict[tuple[str, str], str]()

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, rows: Sequence[JobRow]) -> None:
        if self._live:
            self._live.update(out.fitted(jobs_table(rows)), refresh=True)
            return
        lines = {(row.tenant, row.id): _line(row) for row in rows}
        for key, line in lines.items():
            if self._printed.get(key) != line:
                print_line(line)
        for tenant, job_id in self._printed.keys() - lines.keys():
            print_line(f"{job_id} {tenant} is no longer active")
        self._printed = lines


def _line(row: JobRow) -> str:
    shards = f"{row.shards_done}/{row.shards_total} shards"
    line = f"{row.id} {row.tenant} {row.status} {row.percent} % {shards} {_size(row.bytes)}"
    reason = _waiting(row) or row.last_error
    return f"{line}: {reason}" if reason else line


def _waiting(row: JobRow) -> str | None:
    return row.waiting_for and f"waiting: {row.waiting_for}"


def _age(seconds: int) -> str:
    """Return an age in the largest unit of which there are at least two."""
    unit = next((u for u in ("d", "h", "m") if seconds >= 2 * UNITS[u]), "s")
    return f"{seconds // UNITS[unit]}{unit}"


def _size(size: int) -> str:
    """Return a number of bytes in binary units."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:  # noqa: PLR2004  binary units
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
