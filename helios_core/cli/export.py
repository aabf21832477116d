"""The command `helios export`."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from msgspec.structs import replace

from helios_core.cli.export_reports import INTERRUPTED, new_reporter
from helios_core.cli.terminal import log_errors_only, print_line, run
from helios_core.client.backend_services import BackendServices
from helios_core.client.credentials import Credentials, TokenFile
from helios_core.client.errors import ExportFailed, ExportGone
from helios_core.client.export import (
    TENANT_HEADER,
    ExportOptions,
    ExportSummary,
    discard,
    export,
    resume,
)
from helios_core.client.kickoff import ClientRequest, read_url, repeated_parameters
from helios_core.client.state import ExportFolder, FileCompression, has_state, resume_command
from helios_core.errors import ConfigurationError, HeliosError
from helios_core.model.exports import Level

INCOMPLETE = 3
_STOP_SECONDS = 0.7
"""How many seconds the process may take to end in an orderly way after Ctrl-C."""


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
    Export into a folder, or continue an export there, and print the result.

    Return the exit code: 0 if everything has arrived, 3 if the export is incomplete, 130 if it was
    interrupted.

    Raises:
        ConfigurationError: The options contradict each other or the state of the folder.
        ExportFailed: The export did not succeed.
    """
    log_errors_only()
    folder = choices.folder
    headers = _headers(choices)
    if choices.discard:
        credentials = _credentials(choices, _stored_origin(folder))
        deleted = run(discard(folder, headers, credentials))
        done = "Deleted the export on" if deleted else "There is no such export on"
        print_line(f"{done} the server. Finished files stay in {folder}.")
        return 0
    tenant = {name.lower(): value for name, value in headers.items()}.get(TENANT_HEADER.lower())
    reporter = new_reporter(folder, tenant=tenant, as_json=choices.json, quiet=choices.quiet)
    options = ExportOptions(
        credentials=_credentials(choices, _stored_origin(folder) if choices.resume else {}),
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
            summary = _run_until_interrupted(work, options.stopping, reporter.interrupted)
    except ConfigurationError as error:
        reporter.failed(str(error), code=2)
        raise
    except HeliosError as error:
        gone, hint = isinstance(error, ExportGone), ""
        reporter.failed(str(error), code=1, gone=gone)
        if has_state(folder):
            command = resume_command(folder)
            hint = f"\nRemove it here: {command} --discard" if gone else f"\nGo on with: {command}"
        raise ExportFailed(f"{error}{hint}") from error
    if summary is None:
        reporter.interrupted()
        return INTERRUPTED
    accepted = summary.is_intact and choices.allow_errors
    code = 0 if summary.is_complete or accepted else INCOMPLETE
    reporter.finished(summary, code)
    return code


def _request(choices: ExportChoices, headers: Mapping[str, str]) -> ClientRequest:
    if choices.url is None:
        raise ConfigurationError("the address of the server is missing: helios export URL --to …")
    request = read_url(choices.url)
    if choices.level or choices.group:
        level = Level(choices.level or Level.GROUP)
        if (level is Level.GROUP) != (choices.group is not None):
            raise ConfigurationError("--level group needs --group, and no other level takes one")
        if request.level is not Level.SYSTEM:
            raise ConfigurationError("the URL has a level already; leave --level and --group out")
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
    if repeated := repeated_parameters(request):
        raise ConfigurationError(
            f"{', '.join(repeated)}: both in the URL and as an option; leave one of them out"
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
            raise ConfigurationError(f"--header passes {name} twice; pass it once")
        headers[name] = value
    for name, value in headers.items():
        if not value.isascii() or not value.isprintable():
            raise ConfigurationError(f"the header {name} has a value that is not printable ASCII")
    return headers


def _stored_origin(folder: Path) -> Mapping[str, str]:
    """Return the source of an interrupted export's credentials, and its server's base URL."""
    with ExportFolder.reopen(folder) as (_, state):
        return {**state.credentials, "base_url": state.request.base_url}


def _credentials(choices: ExportChoices, stored: Mapping[str, str]) -> Credentials | None:
    """Return credentials from the options, or else from those of an interrupted export."""
    in_header = any(text.lower().startswith("authorization") for text in choices.headers)
    sources = {
        "--token-file": choices.token_file is not None,
        "--client-id": choices.client_id is not None,
        "--header Authorization": in_header,
    }
    if sum(sources.values()) > 1:
        names = " and ".join(name for name, is_set in sources.items() if is_set)
        raise ConfigurationError(f"{names} exclude each other")
    if (choices.client_id is None) != (choices.key is None):
        raise ConfigurationError(
            "--client-id, the id of a client, and --key, the file with its private key, need each "
            "other"
        )
    if choices.client_id is None and (choices.key_id or choices.scope):
        raise ConfigurationError("--key-id and --scope need --client-id")
    if choices.token_file is not None:
        return TokenFile(choices.token_file)
    if in_header:
        return None
    base_url = stored["base_url"] if "base_url" in stored else read_url(choices.url or "").base_url
    if choices.client_id is not None and choices.key is not None:
        return BackendServices(
            base_url, choices.client_id, choices.key, key_id=choices.key_id, scope=choices.scope
        )
    if "client_id" in stored:
        return BackendServices(
            base_url,
            stored["client_id"],
            Path(stored["key"]),
            key_id=stored.get("key_id"),
            scope=stored.get("scope"),
        )
    return TokenFile(Path(stored["token_file"])) if "token_file" in stored else None


def _run_until_interrupted(
    work: Coroutine[Any, Any, ExportSummary],
    stopping: threading.Event,
    on_overdue: Callable[[], None],
) -> ExportSummary | None:
    """
    Run until the end, or until SIGINT or SIGTERM; then return None within a second.

    All state is on disk at any moment. So if threads do not end in time, the process is ended.
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
