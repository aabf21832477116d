"""The command that loads files into the selected data provider."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Group
from rich.text import Text

from helios_core.cli.progress import progress_bar
from helios_core.cli.terminal import log_errors_only, new_table, out, run
from helios_core.config.selection import Selection, configure
from helios_core.errors import ConfigurationError
from helios_core.fhir.definitions import FHIRVersion
from helios_core.loading.load import LoadProgress, LoadSummary, load
from helios_core.storage.data_provider import SupportsWrites


def load_paths(
    paths: Sequence[Path], *, tenant: str | None, fhir_version: str | None, strict: bool
) -> LoadSummary:
    """
    Load files and folders, and print what was done.

    Raises:
        ConfigurationError: The configuration is wrong, or the data provider cannot be written to.
        BackendUnavailable: The data provider cannot be reached.
    """
    log_errors_only()
    selection = configure(os.environ)
    settings = selection.settings
    summary = run(
        _load(
            selection,
            paths,
            tenant=tenant or settings.default_tenant,
            fhir_version=FHIRVersion(fhir_version or settings.default_fhir_version),
            strict=strict,
        )
    )
    out.print(load_table(summary))
    return summary


async def _load(
    selection: Selection,
    paths: Sequence[Path],
    *,
    tenant: str,
    fhir_version: FHIRVersion,
    strict: bool,
) -> LoadSummary:
    base_url = selection.settings.base_url
    async with selection.data_provider.open() as provider:
        if not isinstance(provider, SupportsWrites):
            raise ConfigurationError(
                f"{selection.data_provider.plugin.origin} cannot be written to"
            )
        with load_progress() as report:
            return await load(
                paths,
                provider,
                tenant=tenant,
                fhir_version=fhir_version,
                strict=strict,
                on_progress=report,
                base_urls=(base_url,) if base_url else (),
            )


@contextmanager
def load_progress() -> Iterator[Callable[[LoadProgress], None]]:
    """Show how much of the files is loaded, resources per second, and the time remaining."""
    with progress_bar() as bar:
        task = bar.add_task("scanning", words="")

        def report(now: LoadProgress) -> None:
            elapsed = bar.tasks[task].elapsed or 0
            rate = now.resources / elapsed if elapsed else 0
            bar.update(
                task,
                description=now.phase.value,
                completed=now.bytes_done,
                total=now.bytes_total,
                words=f"{now.resources:,} resources, {rate:,.0f}/s" if now.resources else "",
            )

        yield report


def load_table(summary: LoadSummary) -> Group:
    """Render what a load did, and what was wrong with the resources that were not loaded."""
    names = ("files", "read", "created", "updated", "unchanged", "deleted", "bad")
    counts = new_table(*names, "rate")
    counts.add_row(*(f"{getattr(summary, name):,}" for name in names), f"{summary.rate:,.0f}/s")
    lines = [f"bad: {problem}" for problem in summary.problems]
    if summary.bad > len(summary.problems):
        lines.append(f"bad: {summary.bad - len(summary.problems):,} more")
    if summary.unresolved:
        lines.append(
            f"{summary.unresolved:,} references to {summary.unresolved_distinct:,} resources that "
            "were not loaded are kept unchanged:"
        )
        lines += [f"  {path}: {count:,}" for path, count in summary.unresolved_by_file]
    if summary.skipped:
        lines.append(f"{summary.skipped:,} files were skipped: their names are not those of JSON")
    return Group(counts, *map(Text, lines))
