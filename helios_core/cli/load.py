"""The command that loads files into the selected data provider."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.console import Group
from rich.text import Text

from helios_core.cli.progress import progress_bar
from helios_core.cli.terminal import log_errors_only, new_table, out, print_json, run
from helios_core.config.selection import Selection, configure
from helios_core.errors import ConfigurationError
from helios_core.fhir.definitions import FHIRVersion
from helios_core.loading.link_index import Match
from helios_core.loading.load import LoadProgress, LoadSummary, load
from helios_core.loading.resources import LoadProblem
from helios_core.storage.data_provider import SupportsWrites


class LoadChoices(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the command."""

    tenant: str | None
    fhir_version: str | None
    strict: bool
    assign_ids: bool
    json: bool


def load_paths(paths: Sequence[Path], choices: LoadChoices) -> LoadSummary:
    """
    Load files and folders, and print the result; SIGINT ends the load early.

    Raises:
        ConfigurationError: The configuration is wrong, or the data provider cannot be written to.
        BackendUnavailable: The data provider cannot be reached.
    """
    log_errors_only()
    selection = configure(os.environ)
    summary = run(_load(selection, paths, choices))
    if choices.json:
        print_json(_json(summary))
    else:
        out.print(load_table(summary))
    return summary


async def _load(selection: Selection, paths: Sequence[Path], choices: LoadChoices) -> LoadSummary:
    settings = selection.settings
    async with selection.data_provider.open() as provider:
        if not isinstance(provider, SupportsWrites):
            raise ConfigurationError(
                f"{selection.data_provider.plugin.origin} cannot be written to"
            )
        with load_progress() as report, _stopping_on_sigint() as stopping:
            return await load(
                paths,
                provider,
                tenant=choices.tenant or settings.default_tenant,
                fhir_version=FHIRVersion(choices.fhir_version or settings.default_fhir_version),
                strict=choices.strict,
                assign_ids=choices.assign_ids,
                stopping=stopping,
                on_progress=report,
                base_urls=(settings.base_url,) if settings.base_url else (),
            )


@contextmanager
def _stopping_on_sigint() -> Iterator[asyncio.Event]:
    """Yield an event that the first SIGINT sets; a second one interrupts as usual."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        stopping.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        yield stopping
    finally:
        loop.remove_signal_handler(signal.SIGINT)


@contextmanager
def load_progress() -> Iterator[Callable[[LoadProgress], None]]:
    """Show how much of the files is loaded, resources per second and the remaining time."""
    with progress_bar() as bar:
        task = bar.add_task("scanning", words="")

        printed: str | None = None

        def report(now: LoadProgress) -> None:
            nonlocal printed
            if now.reason not in (None, printed):
                words = f"{now.phase.value}: {now.reason}"
                bar.console.print(words, markup=False, highlight=False, soft_wrap=True)
            printed = now.reason
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
    """Render the counts of a load, and the reasons why resources were not loaded."""
    names = ("files", "read", "created", "updated", "unchanged", "deleted", "bad")
    counts = new_table(*names, "rate")
    counts.add_row(*(f"{getattr(summary, name):,}" for name in names), f"{summary.rate:,.0f}/s")
    lines = [*_listed("bad", summary.problems, summary.bad)]
    lines += _listed("clash", summary.clashes, summary.clashed)
    if summary.unmatched:
        reasons = ", ".join(
            f"{count:,} {_REASONS[reason]}" for reason, count in summary.unmatched_by_reason
        )
        lines.append(
            f"{summary.unmatched:,} conditional references (Type?search) are kept unchanged, "
            f"because not one resource matches: {reasons}"
        )
        lines += _by_file(summary.unmatched_by_file)
    if summary.unresolved:
        lines.append(
            f"{summary.unresolved:,} references to {summary.unresolved_distinct:,} resources that "
            "were not loaded are kept unchanged:"
        )
        lines += _by_file(summary.unresolved_by_file)
    if summary.skipped:
        lines.append(f"{summary.skipped:,} files were skipped, because of their names")
    if summary.interrupted:
        lines.append(
            "interrupted: the resources counted above are stored; load again to continue, those "
            "that have not changed are not written twice"
        )
    return Group(counts, *map(Text, lines))


_REASONS = {
    Match.NOTHING: "match nothing",
    Match.SEVERAL: "match several resources",
    Match.UNSUPPORTED: "are searches that are not supported here",
}


def _listed(word: str, problems: Sequence[LoadProblem], count: int) -> Iterator[str]:
    yield from (f"{word}: {problem}" for problem in problems)
    if count > len(problems):
        yield f"{word}: {count - len(problems):,} more"


def _by_file(counts: Sequence[tuple[Path, int]]) -> Iterator[str]:
    yield from (f"  {path}: {count:,}" for path, count in counts)


def _json(summary: LoadSummary) -> dict[str, object]:
    """Return a summary in the form that `--json` prints."""
    content = msgspec.structs.asdict(summary)
    for name in ("unresolved_by_file", "unmatched_by_file"):
        content[name] = {str(path): count for path, count in content[name]}
    content["unmatched_by_reason"] = dict(summary.unmatched_by_reason)
    content["rate"] = round(summary.rate, 1)
    content["seconds"] = round(summary.seconds, 3)
    return content
