"""The commands of the Bulk Data client: export and verify."""

import asyncio
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec
from msgspec.structs import replace
from rich.console import Group
from rich.markup import escape
from rich.text import Text

from helios_core.cli import export_events as events
from helios_core.cli.progress import progress_bar
from helios_core.cli.terminal import log_errors_only, new_table, out, print_json, print_line, run
from helios_core.client.backend_services import BackendServices
from helios_core.client.credentials import Credentials, TokenFile
from helios_core.client.errors import ExportFailed, ExportGone
from helios_core.client.export import (
    TENANT_HEADER,
    ExportOptions,
    ExportPhase,
    ExportProgress,
    ExportSummary,
    discard,
    export,
    resume,
)
from helios_core.client.kickoff import ClientRequest, given_twice, read_url
from helios_core.client.state import ExportFolder, FileCompression, has_state, is_accepted
from helios_core.client.verification import Verdict, VerificationReport, verify
from helios_core.errors import ConfigurationError, HeliosError
from helios_core.model.exports import Level

INCOMPLETE = 3
INTERRUPTED = 130
_STOP_SECONDS = 0.7
"""How long the process may take to end in order after Ctrl-C."""


class ExportChoices(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the command."""

    url: str | None = None
    to: Path | None = None
    resume: Path | None = None
    discard: bool = False
    level: str | None = None
    group: str | None = None
    types: Sequence[str] = ()
    since: str | None = None
    until: str | None = None
    type_filters: Sequence[str] = ()
    elements: Sequence[str] = ()
    patients: Sequence[str] = ()
    associated: Sequence[str] = ()
    organize_by: str | None = None
    tenant: str | None = None
    headers: Sequence[str] = ()
    """Each `Name: value`."""
    token_file: Path | None = None
    client_id: str | None = None
    key: Path | None = None
    key_id: str | None = None
    scope: str | None = None
    compress: str = FileCompression.NONE
    allow_errors: bool = False
    json: bool = False
    quiet: bool = False

    @property
    def folder(self) -> Path:
        """The folder of the export."""
        folder = self.resume or self.to
        if folder is None:
            raise ConfigurationError("--to FOLDER is missing")
        return folder


def export_to_folder(choices: ExportChoices) -> int:
    """
    Export into a folder, or go on with an export there; print what was done.

    Return the exit code: 0 if everything has arrived, 3 if the export is incomplete, 130 if it was
    interrupted.

    Raises:
        ConfigurationError: The options contradict each other, or the folder.
        ExportFailed: The export did not succeed.
    """
    log_errors_only()
    folder = choices.folder
    headers = _headers(choices)
    if choices.discard:
        credentials = _credentials(choices, _kept(folder))
        deleted = run(discard(folder, headers, credentials))
        done = "Deleted the export on" if deleted else "There is no such export on"
        print_line(f"{done} the server. Finished files stay in {folder}.")
        return 0
    reporter = _reporter(choices)
    options = ExportOptions(
        credentials=_credentials(choices, _kept(folder) if choices.resume else {}),
        compression=FileCompression(choices.compress),
    )
    request = None if choices.resume else _request(choices, headers)
    try:
        with reporter.showing() as on_progress:
            options = replace(options, on_progress=on_progress)
            work = (
                resume(folder, headers, options)
                if request is None
                else export(request, folder, options)
            )
            summary = _run_until_interrupted(
                work, options.stopping, lambda: reporter.interrupted(folder)
            )
    except ConfigurationError as error:
        reporter.failed(str(error), _unfinished(folder), code=2)
        raise
    except HeliosError as error:
        gone = isinstance(error, ExportGone)
        reporter.failed(str(error), None if gone else _unfinished(folder), code=1)
        hint = ""
        if has_state(folder):
            command = _resume_command(folder)
            hint = f"\nClear it here:  {command} --discard" if gone else f"\nGo on with: {command}"
        raise ExportFailed(f"{error}{hint}") from error
    if summary is None:
        reporter.interrupted(folder)
        return INTERRUPTED
    accepted = summary.is_intact and choices.allow_errors
    code = 0 if summary.is_complete or accepted else INCOMPLETE
    reporter.finished(summary, code, folder)
    return code


def verify_folder(manifest: Path, folder: Path, *, as_json: bool = False) -> bool:
    """
    Verify downloaded files against their manifest, print the findings, and return the result.

    Raises:
        ExportFailed: The manifest cannot be read.
        ProofMissing: The manifest has no proof of completeness.
    """
    report = verify(manifest.read_bytes(), folder)
    if as_json:
        print_json(
            {
                "transaction_time": report.transaction_time,
                "complete": report.ok,
                "continued": report.continued,
                "findings": [
                    {
                        "list": finding.kind,
                        "type": finding.type,
                        "resources": finding.tally.count,
                        "bytes": finding.tally.bytes,
                        "digest": finding.tally.digest,
                        "verdict": finding.verdict,
                        "reason": finding.reason,
                    }
                    for finding in report.findings
                ],
            }
        )
    else:
        out.print(verification_table(report))
    return report.ok


def _request(choices: ExportChoices, headers: Mapping[str, str]) -> ClientRequest:
    if choices.url is None:
        raise ConfigurationError("the address of the server is missing: helios export URL --to …")
    request = read_url(choices.url)
    if choices.level or choices.group:
        level = Level(choices.level or Level.GROUP)
        if (level is Level.GROUP) != (choices.group is not None):
            raise ConfigurationError("--level group needs --group, and no other level takes one")
        if request.level is not Level.SYSTEM:
            raise ConfigurationError(
                "the address says what level to export; leave --level and --group out"
            )
        request = replace(request, level=level, group_id=choices.group)
    request = replace(
        request,
        types=choices.types,
        since=choices.since,
        until=choices.until,
        type_filters=choices.type_filters,
        elements=choices.elements,
        patients=choices.patients,
        associated=choices.associated,
        organize_by=choices.organize_by,
        headers=headers,
    )
    if twice := given_twice(request):
        raise ConfigurationError(
            f"{', '.join(twice)}: both in the address and as an option; leave one of them out"
        )
    return request


def _headers(choices: ExportChoices) -> dict[str, str]:
    headers = {TENANT_HEADER: choices.tenant} if choices.tenant else {}
    for text in choices.headers:
        name, colon, value = (part.strip() for part in text.partition(":"))
        token = name.replace("-", "").replace("_", "")
        if not colon or not token.isascii() or not token.isalnum():
            raise ConfigurationError("--header takes 'Name: value', each header once")
        if name.lower() in map(str.lower, headers):
            raise ConfigurationError(f"the header {name} is given twice")
        headers[name] = value
    for name, value in headers.items():
        if not value.isascii() or not value.isprintable():
            raise ConfigurationError(f"the header {name} has a value that is not printable ASCII")
    return headers


def _tenant(choices: ExportChoices) -> str | None:
    """Return the tenant that the headers name, None if that is left to the server."""
    headers = {name.lower(): value for name, value in _headers(choices).items()}
    return headers.get(TENANT_HEADER.lower())


def _kept(folder: Path) -> Mapping[str, str]:
    """Return what an interrupted export was begun with, and the address of its server."""
    with ExportFolder.reopen(folder) as (_, state):
        return {**state.credentials, "base_url": state.request.base_url}


def _credentials(choices: ExportChoices, kept: Mapping[str, str]) -> Credentials | None:
    """Return what the options say, or what an interrupted export was begun with."""
    in_header = any(text.lower().startswith("authorization") for text in choices.headers)
    sources = {
        "--token-file": choices.token_file is not None,
        "--client-id": choices.client_id is not None,
        "--header Authorization": in_header,
    }
    if sum(sources.values()) > 1:
        named = " and ".join(name for name, given in sources.items() if given)
        raise ConfigurationError(f"{named} exclude each other")
    if (choices.client_id is None) != (choices.key is None):
        raise ConfigurationError("--client-id needs --key, the file with its private key")
    if choices.client_id is None and (choices.key_id or choices.scope):
        raise ConfigurationError("--key-id and --scope need --client-id")
    if choices.token_file is not None:
        return TokenFile(choices.token_file)
    if in_header:
        return None
    base_url = kept["base_url"] if "base_url" in kept else read_url(choices.url or "").base_url
    if choices.client_id is not None and choices.key is not None:
        return BackendServices(
            base_url, choices.client_id, choices.key, key_id=choices.key_id, scope=choices.scope
        )
    if "client_id" in kept:
        return BackendServices(
            base_url,
            kept["client_id"],
            Path(kept["key"]),
            key_id=kept.get("key_id"),
            scope=kept.get("scope"),
        )
    return TokenFile(Path(kept["token_file"])) if "token_file" in kept else None


def _unfinished(folder: Path) -> Path | None:
    return folder if has_state(folder) else None


def _resume_command(folder: Path) -> str:
    return f"helios export --resume {shlex.quote(str(folder))}"


def _run_until_interrupted(
    work: Coroutine[Any, Any, ExportSummary],
    stopping: threading.Event,
    on_overdue: Callable[[], None],
) -> ExportSummary | None:
    """
    Run until the end, or until SIGINT or SIGTERM; then return None within a second.

    What has to be kept is on disk at any moment, so a process whose threads do not end in time
    simply ends.
    """

    def give_up() -> NoReturn:
        on_overdue()
        sys.stdout.flush()
        os._exit(INTERRUPTED)

    overdue = threading.Timer(_STOP_SECONDS, give_up)
    overdue.daemon = True

    async def interruptible() -> ExportSummary | None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(work)

        def stop() -> None:
            if stopping.is_set():
                give_up()
            stopping.set()
            overdue.start()
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        try:
            return await task
        except asyncio.CancelledError:
            if not stopping.is_set():
                raise
            return None
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    try:
        return run(interruptible())
    finally:
        overdue.cancel()


class _Reporter:
    """Prints for people."""

    def __init__(self, choices: ExportChoices) -> None:
        self._choices = choices

    @contextmanager
    def showing(self) -> Iterator[Callable[[ExportProgress], None]]:
        with export_progress() as report:
            yield report

    def finished(self, summary: ExportSummary, code: int, folder: Path) -> None:
        out.print(export_table(summary))
        if summary.verification is not None:
            out.print(verification_table(summary.verification))
        for line in self.words(summary, code, folder):
            print_line(line)

    def interrupted(self, folder: Path) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h")  # the progress bar has hidden the cursor
        for line in _interrupted(folder):
            click.echo(line, err=True)

    def failed(self, error: str, unfinished: Path | None, *, code: int) -> None:
        """Print nothing: the command prints the error."""

    def words(self, summary: ExportSummary, code: int, folder: Path) -> Iterator[str]:
        """Yield what is to be said about a result, what matters most at the end."""
        if summary.verification is None and not summary.proof_problem:
            yield "The server sent no proof of completeness."
        for note in summary.report.notes:
            yield f"note of the server: {note}"
        if summary.report.note_count > len(summary.report.notes):
            yield f"and {summary.report.note_count - len(summary.report.notes):,} more notes"
        if summary.is_empty:
            tenant = _tenant(self._choices)
            whose = f"tenant {tenant!r}" if tenant else "the tenant of the request"
            yield (
                f"NOTHING was exported: of what was requested, {whose} has no resources. If that "
                "is a surprise, check --type, --since and --tenant; the URL and the token may "
                "name a tenant, too."
            )
        if not summary.is_complete:
            yield "The export is NOT complete:"
            yield from (f"  {problem}" for problem in problems(summary))
        if has_state(folder):
            yield f"Download what is damaged again: {_resume_command(folder)}"
        elif code:
            yield "What has arrived is intact; --allow-errors accepts it as it is (exit code 0)."
        elif not summary.is_complete:
            yield "It is accepted as it is, because of --allow-errors."


class _Quiet(_Reporter):
    """Prints only what is not as it should be, on standard error."""

    @contextmanager
    def showing(self) -> Iterator[Callable[[ExportProgress], None]]:
        yield lambda _: None

    def finished(self, summary: ExportSummary, code: int, folder: Path) -> None:
        if summary.is_empty or not summary.is_complete:
            for line in self.words(summary, code, folder):
                click.echo(f"helios: {line}", err=True)


class _Machine(_Reporter):
    """Prints events, one JSON object per line."""

    @contextmanager
    def showing(self) -> Iterator[Callable[[ExportProgress], None]]:
        last: list[ExportProgress] = []
        printed = 0.0

        def report(now: ExportProgress) -> None:
            nonlocal printed
            if now.status_url and not (last and last[0].status_url):
                folder = str(self._choices.folder)
                _emit(events.Accepted(status_url=now.status_url, folder=folder))
            changed = not last or last[0].phase is not now.phase
            last[:] = [now]
            if changed or time.monotonic() - printed >= 1:
                printed = time.monotonic()
                _emit(_progress_event(now))

        yield report

    def finished(self, summary: ExportSummary, code: int, folder: Path) -> None:
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
                problems=tuple(problems(summary)),
                resume=str(folder) if has_state(folder) else None,
                transaction_time=summary.transaction_time,
                resources=summary.lines,
                bytes=sum(file.size for file in summary.files),
                seconds=round(summary.seconds, 3),
                deleted=summary.deleted,
            )
        )

    def interrupted(self, folder: Path) -> None:
        super().interrupted(folder)
        _emit(_early_end("interrupted", INTERRUPTED, "interrupted", _unfinished(folder)))

    def failed(self, error: str, unfinished: Path | None, *, code: int) -> None:
        _emit(_early_end("failed", code, error, unfinished))


def _reporter(choices: ExportChoices) -> _Reporter:
    if choices.json:
        return _Machine(choices)
    return _Quiet(choices) if choices.quiet else _Reporter(choices)


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


def _early_end(
    result: Any,  # noqa: ANN401
    code: int,
    problem: str,
    unfinished: Path | None,
) -> events.End:
    return events.End(
        result=result,
        exit_code=code,
        problems=(problem,),
        resume=str(unfinished) if unfinished else None,
    )


def _interrupted(folder: Path) -> Iterator[str]:
    if not has_state(folder):
        yield "Interrupted before the server was asked for an export."
        return
    if not is_accepted(folder):
        yield (
            "Interrupted before the server answered. If it has begun an export all the same, "
            "nobody will fetch that."
        )
        yield f"Begin anew with: {_resume_command(folder)}"
        yield f"Or give up:      {_resume_command(folder)} --discard"
        return
    yield "Interrupted. The export stays on the server, and what has arrived stays here."
    yield f"Go on with:     {_resume_command(folder)}"
    yield f"Or delete both: {_resume_command(folder)} --discard"


def problems(summary: ExportSummary) -> Iterator[str]:
    """Yield in sentences what an export lacks, and where that is said."""
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
            received = f"{now.lines_done:,}{total} resources, {now.bytes_received / 1e6:,.1f} MB"
            bar.update(
                task,
                description=f"{label} {now.phase.value}".strip(),
                completed=now.fraction or 0,
                total=None if now.fraction is None else 1,
                words=received if fetching else now.message,
            )

        yield report


def export_table(summary: ExportSummary) -> Group:
    """Render the files of an export."""
    files = new_table("file", "list", "holds", "lines", "bytes")
    for file in summary.files:
        cells = (str(file.path), file.kind, file.type, f"{file.lines:,}", f"{file.size:,}")
        files.add_row(*map(escape, cells))
    kept = "; the server did not delete the export"
    undeleted = "" if summary.deleted or not summary.is_intact else kept
    total = (
        f"{summary.lines:,} resources as of {summary.transaction_time} in {summary.seconds:.1f} "
        f"s, {_counted(summary)}{undeleted}"
    )
    return Group(files, Text(total))


def _counted(summary: ExportSummary) -> str:
    without = sum(not file.counted for file in summary.files)
    if not without:
        return "every announced count verified"
    return f"no count announced for {without:,} of {len(summary.files):,} files"


def verification_table(report: VerificationReport) -> Group:
    """Render for every type whether all of it is there."""
    types = new_table("list", "type", "resources", "bytes", "verdict")
    for finding in report.findings:
        amounts = (f"{finding.tally.count:,}", f"{finding.tally.bytes:,}")
        verdict = f"{finding.verdict}: {finding.reason}" if finding.reason else finding.verdict
        types.add_row(*map(escape, (finding.kind, finding.type, *amounts, verdict)))
    complete = "complete" if report.ok else "NOT complete"
    total = f"proof of completeness as of {report.transaction_time}: {complete}"
    if errors := sum(each.tally.count for each in report.findings if each.kind == "error"):
        total += (
            f"; the list error has lines ({errors:,}) about what the server left out or noted, "
            "which no proof covers"
        )
    if report.continued:
        total += "; the manifest continues on another page, which is verified separately"
    return Group(types, Text(total))
