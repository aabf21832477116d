"""The commands about the search index, which work whether a server runs or not."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal

from rich.table import Table

from helios_core.cli.terminal import log_errors_only, new_table, out, print_json, print_line, run
from helios_core.config import selection
from helios_core.errors import ConfigurationError
from helios_core.storage.backends import Reach
from helios_core.storage.indexer import MAX_COUNTED, Indexer, ScopeStatus

WAIT_SECONDS = 1.0
"""How often it is looked whether another process has ended a build."""


def show_status(output: Literal["table", "json"]) -> None:
    """Print how far the search index has come."""

    async def found() -> list[ScopeStatus]:
        async with _opened_indexer() as indexer:
            return await indexer.status()

    _print(run(found()), output)


def rebuild(
    *, tenant: str | None, fhir_version: str | None, output: Literal["table", "json"]
) -> None:
    """Forget what is indexed, of everything or of a part, and build it anew."""

    async def work() -> list[ScopeStatus]:
        async with _opened_indexer() as indexer:
            scopes = await indexer.rebuild(tenant=tenant, fhir_version=fhir_version)
            while True:
                await indexer.follow(at_once=True)
                rows = [row for row in await indexer.status() if row.scope in scopes]
                if all(row.state == "following" for row in rows):
                    return rows
                await asyncio.sleep(WAIT_SECONDS)

    _print(run(work()), output)


@asynccontextmanager
async def _opened_indexer() -> AsyncIterator[Indexer]:
    """
    Yield the indexer of the configured data provider and search index.

    Raises:
        ConfigurationError: There is no search index, or only the process of a server sees it.
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
    async with chosen.data_provider.open() as provider, index.open() as opened:
        yield Indexer(provider, opened, interval=chosen.settings.search_index_interval)


def _print(rows: Sequence[ScopeStatus], output: Literal["table", "json"]) -> None:
    if output == "json":
        print_json(rows)
    elif rows:
        out.print(_table(rows))
    else:
        print_line("There is nothing to index.")


def _table(rows: Sequence[ScopeStatus]) -> Table:
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
