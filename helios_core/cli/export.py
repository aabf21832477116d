"""The commands of the Bulk Data client: export and verify."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Group
from rich.markup import escape
from rich.text import Text

from helios_core.cli.progress import progress_bar
from helios_core.cli.terminal import log_errors_only, new_table, out, print_line, run
from helios_core.client.export import (
    ClientRequest,
    ExportPhase,
    ExportProgress,
    ExportSummary,
    export,
)
from helios_core.client.verification import VerificationReport, verify, verify_if_proven
from helios_core.model.exports import Level


def export_to_folder(  # noqa: PLR0913  one parameter per option
    url: str,
    folder: Path,
    *,
    level: str,
    group_id: str | None,
    types: Sequence[str],
    since: str | None,
    until: str | None,
    headers: Mapping[str, str],
) -> bool:
    """
    Export into a folder, print the files and verify them.

    Return whether they are complete as far as the server lets one know: its counts are always
    checked, its proof of completeness if it sends one.

    Raises:
        ExportFailed: The export did not succeed, or a count is wrong.
    """
    request = ClientRequest(
        base_url=url,
        level=Level(level),
        group_id=group_id,
        types=types,
        since=since,
        until=until,
        headers=headers,
    )
    log_errors_only()
    with export_progress() as report:
        summary = run(export(request, folder, on_progress=report))
    out.print(export_table(summary))
    verified = verify_if_proven(summary.manifest, folder)
    if verified is None:
        print_line("The server sent no proof of completeness.")
        return True
    out.print(verification_table(verified))
    return verified.ok


def verify_folder(manifest: Path, folder: Path) -> bool:
    """
    Verify downloaded files against their manifest, print the findings, and return the result.

    Raises:
        ExportFailed: The manifest cannot be read.
        ProofMissing: The manifest has no proof of completeness.
    """
    report = verify(manifest.read_bytes(), folder)
    out.print(verification_table(report))
    return report.ok


@contextmanager
def export_progress(label: str = "") -> Iterator[Callable[[ExportProgress], None]]:
    """Show the server's own progress report, then how many resources have arrived."""
    with progress_bar() as bar:
        task = bar.add_task("starting", total=None, words="")

        def report(now: ExportProgress) -> None:
            fetching = now.phase in (ExportPhase.DOWNLOADING, ExportPhase.DONE)
            received = (
                f"{now.files_done} of {now.files_total} files, {now.lines_done:,} lines, "
                f"{now.bytes_received / 1e6:,.1f} MB"
            )
            bar.update(
                task,
                description=f"{label} {now.phase.value}".strip(),
                completed=now.files_done if fetching else 0,
                total=now.files_total if fetching else None,
                words=received if fetching else now.message,
            )

        yield report


def export_table(summary: ExportSummary) -> Group:
    """Render the files of an export."""
    files = new_table("file", "list", "holds", "lines", "bytes")
    for file in summary.files:
        cells = (str(file.path), file.kind, file.type, f"{file.lines:,}", f"{file.size:,}")
        files.add_row(*map(escape, cells))
    undeleted = "" if summary.deleted else "; the server did not delete the export"
    total = (
        f"{summary.lines:,} resources as of {summary.transaction_time} in {summary.seconds:.1f} "
        f"s, every announced count verified{undeleted}"
    )
    return Group(files, Text(total))


def verification_table(report: VerificationReport) -> Group:
    """Render for every type whether all of it is there."""
    types = new_table("list", "type", "resources", "bytes", "verdict")
    for finding in report.findings:
        amounts = (f"{finding.tally.count:,}", f"{finding.tally.bytes:,}")
        verdict = f"{finding.verdict}: {finding.reason}" if finding.reason else finding.verdict
        types.add_row(*map(escape, (finding.kind, finding.type, *amounts, verdict)))
    complete = "complete" if report.ok else "NOT complete"
    total = f"proof of completeness as of {report.transaction_time}: {complete}"
    if report.continued:
        total += "; the manifest continues on another page, which is verified separately"
    return Group(types, Text(total))
