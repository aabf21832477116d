"""Jobs in a damaged file: queries that read each job by itself, to skip damaged ones (J15)."""

import sqlite3
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from aiosqlite import Connection

from helios_core import JobKey, SetAside, read_statements
from helios_sqlite.databases import JobDatabase, Parameters, Row
from helios_sqlite.errors import damaged, is_damage, primary_code

_SQL = read_statements("helios_sqlite", "damaged_jobs")

T = TypeVar("T")

_SHARED = {
    "turns": (_SQL["turns"], "only holds the order of the tenants"),
    "workers": (_SQL["workers"], "only lists the workers"),
}
"""Tables whose rows belong to no single job: a statement that reads all, and the purpose."""

_AMONG = (
    "WITH jobs AS (SELECT j.* FROM json_each('[{numbers}]') AS sought"
    " CROSS JOIN main.jobs AS j ON j.job = sought.value) "
)
"""The beginning of a query that sees only some jobs, each looked up by its number."""

_DAMAGED = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG})
"""Result codes that are due to damaged values."""


def is_job_damage(error: BaseException) -> bool:
    """Return whether an error, or its cause, is due to damaged data."""
    cause = error.__cause__ or error
    if isinstance(cause, sqlite3.Error):
        return is_damage(cause) or primary_code(cause) in _DAMAGED
    return isinstance(cause, ValueError | TypeError | ArithmeticError | LookupError)


def among(statement: str, numbers: Iterable[int]) -> str:
    """
    Return a query that sees only some jobs.

    Each is looked up by its number, so that only the pages with its rows are read.
    """
    listed = ",".join(map(str, sorted(numbers)))
    return _AMONG.format(numbers=listed) + statement


class DamagedJobs:
    """Runs queries over the jobs that are not damaged, as far as this process knows."""

    def __init__(self, database: JobDatabase, set_aside: SetAside) -> None:
        self._database = database
        self._set_aside = set_aside
        self._numbers = set[int]()

    async def rows(self, statement: str, values: Parameters) -> list[Row]:
        """Return the rows of a query over all jobs that are not damaged."""

        async def read(numbers: Collection[int]) -> list[Row]:
            return await self._database.rows(among(statement, numbers), values)

        return await self._without_damaged(read, read)

    async def change(self, statement: str, work: Callable[[Connection, str], Awaitable[T]]) -> T:
        """Run `work` in a transaction, with a query over all jobs that are not damaged."""

        async def done(numbers: Collection[int]) -> T:
            async with self._database.transaction() as connection:
                return await work(connection, among(statement, numbers))

        async def undone(numbers: Collection[int]) -> None:
            with suppress(_Undone):
                async with self._database.transaction() as connection:
                    await work(connection, among(statement, numbers))
                    raise _Undone

        return await self._without_damaged(done, undone)

    async def listed(self, statement: str, values: Mapping[str, Any]) -> list[Row]:
        """Return the rows of a list of jobs; damaged ones have only the columns of an index."""
        rows = list[Row]()
        for number, key in (await self._keys()).items():
            try:
                rows += await self._database.rows(among(statement, [number]), values)
            except Exception as error:  # noqa: BLE001  `_add` raises others
                self._add(number, key, error)
                rows += await self._database.rows(_SQL["damaged"], {"job": number, **values})
        rows.sort(key=_sort_key)
        return rows[: values["limit"]]

    async def _without_damaged(
        self,
        work: Callable[[Collection[int]], Awaitable[T]],
        trial: Callable[[Collection[int]], Awaitable[object]],
    ) -> T:
        """
        Run `work` with all jobs except damaged ones.

        These are found by running `trial` with each job. Each trial is a transaction of its own,
        since a transaction cannot continue after an error of damage.

        Raises:
            BackendError: A table that belongs to no single job is damaged.
        """
        jobs = await self._keys()
        try:
            return await work(jobs.keys() - self._numbers)
        except Exception as error:
            if not is_job_damage(error):
                raise
        await self._require_shared()
        for number in jobs.keys() - self._numbers:
            try:
                await trial([number])
            except Exception as error:  # noqa: BLE001  `_add` raises others
                self._add(number, jobs[number], error)
        return await work(jobs.keys() - self._numbers)

    async def _keys(self) -> dict[int, JobKey]:
        rows = await self._database.rows(_SQL["keys"])
        return {number: JobKey(tenant=tenant, id=job_id) for number, tenant, job_id in rows}

    async def _require_shared(self) -> None:
        """
        Check that tables shared by all jobs can be read: damage there is not the fault of a job.

        Raises:
            BackendError: A shared table is damaged; the message names it.
        """
        for table, (statement, use) in _SHARED.items():
            try:
                await self._database.rows(statement)
            except Exception as error:
                if not is_job_damage(error):
                    raise
                raise damaged(f"its table {table}, which {use}, cannot be read") from error

    def _add(self, number: int, key: JobKey, error: Exception) -> None:
        """
        Record a damaged job.

        Raises:
            Exception: The given error is not due to damaged data.
        """
        if not is_job_damage(error):
            raise error
        self._numbers.add(number)
        self._set_aside.add(number, key, error)


class _Undone(Exception):
    """Rolls a transaction back."""


def _sort_key(row: Row) -> tuple[int, str, str]:
    """Return the sort key of a row in the list of jobs (J16)."""
    _, _, tenant, job_id, _, _, created_at, *_ = row
    return -created_at, tenant, job_id
