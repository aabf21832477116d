"""The commands about the search index, which need no running server."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal

from rich.table import Table

from helios_core.cli.terminal import log_errors_only, new_table, out, print_json, print_line, run
from helios_core.config import selection
from helios_core.config.environment import describe_variables, to_text
from helios_core.config.selection import SelectedBackend
from helios_core.errors import BackendUnavailable, ConfigurationError
from helios_core.storage.backends import Reach
from helios_core.storage.indexer import MAX_COUNTED, DatasetStatus, Indexer
from helios_core.storage.search_index import SearchIndex

WAIT_SECONDS = 1.0
"""Seconds between two checks whether another process has finished a build."""

FIRST_RESPONSE_SECONDS = 10.0
"""
How long an index may take to be opened and to respond once.

This is not repeated, because somebody waits for the command.
"""


def show_status(output: Literal["table", "json"]) -> None:
    """Print how far the search index has come."""

    async def read() -> list[DatasetStatus]:
        async with _opened_indexer() as indexer:
            return await indexer.status()

    _print(run(read()), output)


def rebuild_index(
    *, tenant: str | None, fhir_version: str | None, output: Literal["table", "json"]
) -> None:
    """Discard the index of a tenant, a FHIR version or (None) everything, and rebuild it."""

    async def work() -> list[DatasetStatus]:
        async with _opened_indexer() as indexer:
            datasets = await indexer.rebuild(tenant=tenant, fhir_version=fhir_version)
            while True:
                await indexer.follow(at_once=True)
                rows = [row for row in await indexer.status() if row.dataset in datasets]
                if all(row.state == "following" for row in rows):
                    return rows
                await asyncio.sleep(WAIT_SECONDS)

    _print(run(work()), output)


@asynccontextmanager
async def _opened_indexer() -> AsyncIterator[Indexer]:
    """
    Yield the indexer of the configured data provider and search index.

    Raises:
        ConfigurationError: There is no search index, or only a server's own process sees it.
        BackendUnavailable: The search index does not respond.
    """
    log_errors_only()
    chosen = selection.configure(os.environ)
    index = chosen.search_index
    if index is None:
        raise ConfigurationError(
            f"HFS_STORAGE_BACKEND is {chosen.settings.storage_backend}, which has no search index;"
            " append one with a hyphen, as in postgres-elasticsearch"
        )
    if index.backend.reach is Reach.PROCESS:
        raise ConfigurationError(
            f"plugin {index.plugin.origin.name} keeps the search index in the memory of the "
            "server's process, where no other process sees it"
        )
    chosen.data_provider.require_files()
    async with chosen.data_provider.open() as provider, _responding(index) as opened:
        yield Indexer(provider, opened, interval=chosen.settings.search_index_interval)


@asynccontextmanager
async def _responding(selected: SelectedBackend[SearchIndex]) -> AsyncIterator[SearchIndex]:
    """
    Yield an opened index after it has responded once.

    Raises:
        BackendUnavailable: It does not; the message has the settings with its address.
    """
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(FIRST_RESPONSE_SECONDS):
                index = await stack.enter_async_context(selected.open())
                await index.datasets()
        except TimeoutError as error:
            reason = f"The search index did not respond within {FIRST_RESPONSE_SECONDS:g} seconds"
            raise _unavailable(reason, selected) from error
        except BackendUnavailable as error:
            raise _unavailable(str(error), selected) from error
        yield index


def _unavailable(reason: str, selected: SelectedBackend[SearchIndex]) -> BackendUnavailable:
    """Return an error with the required settings of an index and their values."""
    name, values = selected.plugin.origin.name, selected.settings
    where = (
        f"{variable.name} is {variable.shown(to_text(getattr(values, variable.field)))}"
        for variable in describe_variables(type(values), plugin=name)
        if variable.required
    )
    return BackendUnavailable(". ".join((reason, *where)))


def _print(rows: Sequence[DatasetStatus], output: Literal["table", "json"]) -> None:
    if output == "json":
        print_json(rows)
    elif rows:
        out.print(_table(rows))
    else:
        print_line("There is nothing to index.")


def _table(rows: Sequence[DatasetStatus]) -> Table:
    table = new_table("tenant", "version", "state", "reached", "lag", "changes", "entries")
    for row in rows:
        reached = "" if row.reached is None else row.reached.isoformat(timespec="seconds")
        lag = "" if row.lag_seconds is None else f"{row.lag_seconds:.1f} s"
        changes = "" if row.changes is None else str(row.changes)
        if row.changes == MAX_COUNTED:
            changes += "+"
        table.add_row(
            *(row.tenant, row.fhir_version.value, row.state, reached, lag, changes),
            str(row.entries),
        )
    return table
