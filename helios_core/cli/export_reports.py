"""The output of `helios export`: for people, as events, or problems only."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Group
from rich.filesize import decimal
from rich.markup import escape
from rich.text import Text

from helios_core.cli import export_events as events
from helios_core.cli.progress import progress_bar
from helios_core.cli.terminal import new_table, out, print_error, print_line, printable
from helios_core.cli.verify import verification_table
from helios_core.client.export import ExportPhase, ExportProgress, ExportSummary
from helios_core.client.state import has_state, is_accepted, resume_command
from helios_core.client.verification import Verdict

INTERRUPTED = 130


class Reporter:
    """Prints for people."""

    def __init__(self, folder: Path, tenant: str | None) -> None:
        self._folder = folder
        self._tenant = tenant

    @contextmanager
    def showing(self) -> Iterator[Callable[[ExportProgress], None]]:
        """Yield a function that shows the progress it is called with, during the context."""
        with export_progress() as report:
            yield report

    def finished(self, summary: ExportSummary, code: int) -> None:
        """Print the result of an export that ends with this exit code."""
        out.print(_export_table(summary))
        if summary.verification is not None:
            out.print(verification_table(summary.verification))
        for line in self._remarks(summary, code):
            print_line(line)

    def interrupted(self) -> None:
        """Print how to continue the export."""
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h")  # the progress bar has hidden the cursor
        for line in _interrupted(self._folder):
            click.echo(line, err=True)

    def failed(self, error: str, *, code: int, gone: bool = False) -> None:
        """Print nothing: the command prints the error."""

    def _remarks(self, summary: ExportSummary, code: int) -> Iterator[str]:
        """Yield remarks about a result, the most important ones last."""
        if summary.verification is None and not summary.proof_problem:
            yield "The server sent no proof of completeness."
        for note in summary.report.notes:
            yield f"note of the server: {note}"
        if summary.report.note_count > len(summary.report.notes):
            yield f"and {summary.report.note_count - len(summary.report.notes):,} more notes"
        if summary.is_empty:
            whose = f"tenant {self._tenant!r}" if self._tenant else "the tenant of the request"
            yield (
                f"NOTHING was exported: of what was requested, {whose} has no resources. If that "
                "is a surprise, check --type, --since and --tenant; the URL and the token may "
                "name a tenant, too."
            )
        if not summary.is_complete:
            yield "The export is NOT complete:"
            yield from (f"  {problem}" for problem in _problems(summary))
        if has_state(self._folder):
            yield f"Download what is damaged again: {resume_command(self._folder)}"
        elif code:
            yield "What has arrived is intact; --allow-errors accepts it as it is (exit code 0)."
        elif not summary.is_complete:
            yield "It is accepted as it is, because of --allow-errors."


class _Quiet(Reporter):
    """Prints only problems, on standard error."""

    @contextmanager
    def showing(self) -> Iterator[Callable[[ExportProgress], None]]:
        yield lambda _: None

    def finished(self, summary: ExportSummary, code: int) -> None:
        if summary.is_empty or not summary.is_complete:
            for line in self._remarks(summary, code):
                print_error(line)


class _Machine(Reporter):
    """Prints events, one JSON object per line."""

    @contextmanager
    def showing(self) -> Iterator[Callable[[ExportProgress], None]]:
        last: list[ExportProgress] = []
        printed = 0.0

        def report(now: ExportProgress) -> None:
            nonlocal printed
            if now.status_url and not (last and last[0].status_url):
                folder = str(self._folder)
                _emit(events.Accepted(status_url=now.status_url, folder=folder))
            changed = not last or last[0].phase is not now.phase
            last[:] = [now]
            if changed or time.monotonic() - printed >= 1:
                printed = time.monotonic()
                _emit(_progress_event(now))

        yield report

    def finished(self, summary: ExportSummary, code: int) -> None:
        for file in summary.files:
            _emit(
                events.File(
                    list=file.kind,
                    type=file.type,
                    path=str(file.path),
                    lines=file.lines,
                    bytes=file.size,
                )
            )
        for finding in summary.verification.findings if summary.verification else ():
            _emit(
                events.Proof(
                    list=finding.kind,
                    type=finding.type,
                    resources=finding.tally.count,
                    bytes=finding.tally.bytes,
                    verdict=finding.verdict,
                    reason=finding.reason,
                )
            )
        for issue in (*summary.report.losses, *summary.report.notes):
            _emit(
                events.Issue(
                    severity=issue.severity,
                    code=issue.code,
                    text=issue.text,
                    file=issue.file,
                    line=issue.line,
                )
            )
        _emit(
            events.End(
                result="complete" if summary.is_complete else "incomplete",
                exit_code=code,
                problems=tuple(_problems(summary)),
                resume=str(self._folder) if has_state(self._folder) else None,
                transaction_time=summary.transaction_time,
                resources=summary.lines,
                bytes=sum(file.size for file in summary.files),
                seconds=round(summary.seconds, 3),
                deleted=summary.deleted,
            )
        )

    def interrupted(self) -> None:
        super().interrupted()
        _emit(self._early_end("interrupted", INTERRUPTED, "interrupted"))

    def failed(self, error: str, *, code: int, gone: bool = False) -> None:
        _emit(self._early_end("failed", code, error, gone=gone))

    def _early_end(
        self,
        result: Any,  # noqa: ANN401
        code: int,
        problem: str,
        *,
        gone: bool = False,
    ) -> events.End:
        return events.End(
            result=result,
            exit_code=code,
            problems=(problem,),
            resume=str(self._folder) if has_state(self._folder) and not gone else None,
        )


def new_reporter(folder: Path, *, tenant: str | None, as_json: bool, quiet: bool) -> Reporter:
    """
    Return the reporter of an export into a folder.

    `tenant` is the one that the request names; None leaves it to the server.
    """
    if as_json:
        return _Machine(folder, tenant)
    return _Quiet(folder, tenant) if quiet else Reporter(folder, tenant)


def _emit(event: events.Event) -> None:
    click.echo(msgspec.json.encode(event))


def _progress_event(now: ExportProgress) -> events.Progress:
    return events.Progress(
        phase=now.phase,
        percent=None if now.fraction is None else round(100 * now.fraction, 1),
        message=now.message,
        files_done=now.files_done,
        files_total=now.files_total,
        resources_done=now.lines_done,
        resources_total=now.lines_total,
        bytes_received=now.bytes_received,
    )


def _interrupted(folder: Path) -> Iterator[str]:
    if not has_state(folder):
        yield "Interrupted before an export was requested from the server."
        return
    if not is_accepted(folder):
        yield (
            "Interrupted before the server responded. If it has started an export nevertheless, "
            "that export will not be fetched."
        )
        yield f"Start again with: {resume_command(folder)}"
        yield f"Or give up:       {resume_command(folder)} --discard"
        return
    yield "Interrupted. The export stays on the server, and what has arrived stays here."
    yield f"Go on with:     {resume_command(folder)}"
    yield f"Or delete both: {resume_command(folder)} --discard"


def _problems(summary: ExportSummary) -> Iterator[str]:
    """Yield what an export lacks, each with the place where it is reported."""
    report = summary.report
    yield from map(str, report.losses)
    if report.loss_count > len(report.losses):
        files = ", ".join(dict.fromkeys(issue.file for issue in report.losses))
        yield f"{report.loss_count - len(report.losses):,} more problems, see {files}"
    if summary.proof_problem:
        yield summary.proof_problem
    for finding in summary.verification.findings if summary.verification else ():
        if finding.verdict is not Verdict.OK:
            files = ", ".join(path.name for path in finding.paths) or "no file"
            yield (
                f"{finding.kind} {finding.type}: {finding.tally.count:,} resources in {files}, "
                f"but {finding.reason}"
            )


@contextmanager
def export_progress(label: str = "") -> Iterator[Callable[[ExportProgress], None]]:
    """Show the server's own progress report, then how much has arrived, with the time left."""
    with ExitStack() as stack:
        bar = stack.enter_context(progress_bar())
        task = bar.add_task("starting", total=None, words="")

        def report(now: ExportProgress) -> None:
            fetching = now.phase in (ExportPhase.DOWNLOADING, ExportPhase.DONE)
            total = f" of {now.lines_total:,}" if now.lines_total else ""
            # Compressed, so that it is less than the bytes of the files in the table below.
            received = (
                f"{now.lines_done:,}{total} resources, {decimal(now.bytes_received)} received"
            )
            bar.update(
                task,
                description=f"{label} {now.phase.value}".strip(),
                completed=now.fraction or 0,
                total=None if now.fraction is None else 1,
                words=received if fetching else printable(now.message),
            )

        yield report


def _export_table(summary: ExportSummary) -> Group:
    """Render the files of an export."""
    files = new_table("file", "list", "holds", "lines", "bytes")
    for file in summary.files:
        cells = (str(file.path), file.kind, file.type, f"{file.lines:,}", f"{file.size:,}")
        files.add_row(*map(escape, cells))
    not_deleted = "; the server did not delete the export"
    remark = "" if summary.deleted or not summary.is_intact else not_deleted
    total = (
        f"{summary.lines:,} resources as of {summary.transaction_time} in {summary.seconds:.1f} "
        f"s, {_counted(summary)}{remark}"
    )
    return Group(files, Text(total))


def _counted(summary: ExportSummary) -> str:
    without = sum(not file.counted for file in summary.files)
    if not without:
        return "every announced count verified"
    return f"no count announced for {without:,} of {len(summary.files):,} files"
