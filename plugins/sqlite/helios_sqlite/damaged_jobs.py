"""Go on with a damaged table of jobs: look at the rows of each job by themselves (J15)."""

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
    "turns": (_SQL["turns"], "only orders the exports"),
    "workers": (_SQL["workers"], "only counts the workers"),
}
"""The tables that have no rows of single jobs, what reads each, and what it is for."""

_AMONG = (
    "WITH jobs AS (SELECT j.* FROM json_each('[{numbers}]') AS sought"
    " CROSS JOIN main.jobs AS j ON j.job = sought.value) "
)
"""What a query begins with that sees some jobs only; each is looked up by its number."""

_CONTRADICTIONS = frozenset(
    {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG}
)
"""What statements meet only where values are not those that were stored."""


def is_of_a_row(error: BaseException) -> bool:
    """Return whether an error, or its cause, says that what is stored is damaged."""
    cause = error.__cause__ or error
    if isinstance(cause, sqlite3.Error):
        return is_damage(cause) or primary_code(cause) in _CONTRADICTIONS
    return isinstance(cause, ValueError | TypeError | ArithmeticError | LookupError)


def among(statement: str, numbers: Iterable[int]) -> str:
    """
    Return a query that sees some jobs only.

    Each is looked up by its number, so that no page is read but those with its rows.
    """
    listed = ",".join(map(str, sorted(numbers)))
    return _AMONG.format(numbers=listed) + statement


class DamagedJobs:
    """The jobs of which rows are damaged, so far as this process has met them."""

    def __init__(self, database: JobDatabase, set_aside: SetAside) -> None:
        self._database = database
        self._set_aside = set_aside
        self._numbers = set[int]()

    async def rows(self, statement: str, values: Parameters) -> list[Row]:
        """Return the rows of a query about all jobs that are not damaged."""

        async def read(numbers: Collection[int]) -> list[Row]:
            return await self._database.rows(among(statement, numbers), values)

        return await self._passed_over(read, read)

    async def change(self, statement: str, work: Callable[[Connection, str], Awaitable[T]]) -> T:
        """Do some work in a transaction with a query about all jobs that are not damaged."""

        async def done(numbers: Collection[int]) -> T:
            async with self._database.transaction() as connection:
                return await work(connection, among(statement, numbers))

        async def undone(numbers: Collection[int]) -> None:
            with suppress(_Undone):
                async with self._database.transaction() as connection:
                    await work(connection, among(statement, numbers))
                    raise _Undone

        return await self._passed_over(done, undone)

    async def listed(self, statement: str, values: Mapping[str, Any]) -> list[Row]:
        """Return the rows of a list of jobs; of damaged ones, what an index knows."""
        rows = list[Row]()
        for number, key in (await self._keys()).items():
            try:
                rows += await self._database.rows(among(statement, [number]), values)
            except Exception as error:  # noqa: BLE001  `_add` passes others on
                self._add(number, key, error)
                rows += await self._database.rows(_SQL["damaged"], {"job": number, **values})
        rows.sort(key=_place)
        return rows[: values["limit"]]

    async def _passed_over(
        self,
        work: Callable[[Collection[int]], Awaitable[T]],
        trial: Callable[[Collection[int]], Awaitable[object]],
    ) -> T:
        """
        Do some work with all jobs but those with which it cannot be done.

        Those are found by trying it with each. SQLite changes nothing more in a transaction that
        has met damage, so each try is a transaction of its own.

        Raises:
            BackendError: What is damaged are not the rows of single jobs.
        """
        jobs = await self._keys()
        try:
            return await work(jobs.keys() - self._numbers)
        except Exception as error:
            if not is_of_a_row(error):
                raise
        await self._require_shared()
        for number in jobs.keys() - self._numbers:
            try:
                await trial([number])
            except Exception as error:  # noqa: BLE001  `_add` passes others on
                self._add(number, jobs[number], error)
        return await work(jobs.keys() - self._numbers)

    async def _keys(self) -> dict[int, JobKey]:
        rows = await self._database.rows(_SQL["keys"])
        return {number: JobKey(tenant=tenant, id=job_id) for number, tenant, job_id in rows}

    async def _require_shared(self) -> None:
        """
        Raise an error if a table cannot be read that all jobs share: none of them is to blame.

        Raises:
            BackendError: It names the table.
        """
        for table, (statement, use) in _SHARED.items():
            try:
                await self._database.rows(statement)
            except Exception as error:
                if not is_of_a_row(error):
                    raise
                raise damaged(f"its table {table}, which {use}, cannot be read") from error

    def _add(self, number: int, key: JobKey, error: Exception) -> None:
        """
        Note a job that cannot be worked with.

        Raises:
            Exception: The error says nothing about what is stored.
        """
        if not is_of_a_row(error):
            raise error
        self._numbers.add(number)
        self._set_aside.add(number, key, error)


class _Undone(Exception):
    """What was done in a transaction is not to stay."""


def _place(row: Row) -> tuple[int, str, str]:
    """Return the place of a row in the list of jobs (J16)."""
    _, _, tenant, job_id, _, _, created_at, *_ = row
    return -created_at, tenant, job_id
