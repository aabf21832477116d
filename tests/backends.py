# ruff: noqa: E501 - the page has a sentence a line
"""
The tables of backends, as the capability matrix has them: a page, and one in the README.

`make docs` writes both.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from helios_core.config.matrix import (
    BACKEND_SETTINGS,
    OUTPUT_STORES,
    POWERS,
    Combination,
    matrix,
)
from helios_core.config.plugins import Plugin, is_released_with_core, load_all_plugins
from helios_core.storage.output_store import SupportsSignedURLs

README = Path(__file__).parents[1] / "README.md"
HEAD = """\
# Backends

Which data providers and output stores can be combined, and what each combination needs.
`helios capabilities --all` prints the same for what is installed, and [`--format json`](cli.md#helios-capabilities) for programs.
Every combination is tested, with every FHIR version: see [Run the tests](../how-to/test.md#the-matrix).

`make docs` writes this page.

## Combinations

"""
POWERS_HEAD = """
*Processes* says how far apart servers and workers may be that share exports.
What has to be set besides is in [Settings](settings.md).

## Powers

What is optional for a data provider; [Hooks](hooks.md#powers) says what each is for.

"""
OUTPUT_HEAD = """
The output stores differ in one: files in `s3` are downloaded from the bucket, by signed URLs, those in `local-fs` from the server.
"""


def page() -> str:
    """Return the page."""
    listed = _rows()
    table = _table(
        [*(f"`{name}`" for name in BACKEND_SETTINGS), "install", "set", "jobs", "processes"],
        map(_cells, listed, _rows(installed=False)),
    )
    return f"{HEAD}{table}{POWERS_HEAD}{_powers(listed)}{OUTPUT_HEAD}"


def readme() -> str:
    """Return the README with the table of what works."""
    working = (row for row in _rows() if row.works)
    providers = (
        [f"`{name}`", rows[0].job_store, *(row.reach for row in rows)]
        for name, rows in ((name, list(rows)) for name, rows in groupby(working, _provider))
    )
    table = _table(
        ["resources in", "jobs in", *(f"output in `{name}`" for name in OUTPUT_STORES)], providers
    )
    text = README.read_text(encoding="utf-8")
    return re.sub(r"(?m)^\| resources in (.*\n)(\|.*\n)*", lambda _: table, text)


def plugins() -> list[Plugin]:
    """Return the plugins of this repository, whatever else is installed."""
    usable = [plugin for plugin in load_all_plugins() if isinstance(plugin, Plugin)]
    return [plugin for plugin in usable if is_released_with_core(plugin.origin)]


def _rows(*, installed: bool = True) -> list[Combination]:
    """Return what is known of, as if all plugins were installed or none."""
    offered = plugins() if installed else ()
    rows = matrix(offered, selected=("sqlite", "local-fs"), known=True)
    return [row for row in rows if "memory" not in (row.data_provider, row.output_store)]


def _provider(row: Combination) -> str:
    return row.data_provider


def _cells(row: Combination, absent: Combination) -> list[str]:
    selects = [f"`{value}`" for value in row.settings.values()]
    if not row.works:
        return [*selects, row.reason, "", "", ""]
    required = ", ".join(f"`{name}`" for name in row.required)
    return [*selects, f"`{absent.install}`", required, row.job_store, row.reach]


def _powers(rows: Iterable[Combination]) -> str:
    """Return a table of the powers of the data providers that work."""
    names = [name for protocol, name in POWERS if protocol is not SupportsSignedURLs]
    working = {row.data_provider: row.capabilities for row in rows if row.works}
    able = {
        provider: {capability.name for capability in capabilities if capability.works}
        for provider, capabilities in working.items()
    }
    return _table(
        ["data provider", *names],
        (
            [f"`{provider}`", *("yes" if name in has else "no" for name in names)]
            for provider, has in able.items()
        ),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
