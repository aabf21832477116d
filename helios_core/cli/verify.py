"""The command `helios verify`."""

from pathlib import Path

from rich.console import Group
from rich.markup import escape
from rich.text import Text

from helios_core.cli.terminal import new_table, out, print_json
from helios_core.client.manifest import MANIFEST_NAME
from helios_core.client.state import has_state, resume_command
from helios_core.client.verification import VerificationReport, verify
from helios_core.errors import ConfigurationError

_MAX_LISTED = 5
"""Maximum number of manifests that an error lists."""


def verify_download(path: Path, folder: Path | None, *, as_json: bool) -> bool:
    """
    Verify downloaded files against their manifest, print the findings, return whether all is ok.

    `path` is the manifest or the folder of an export. The files are in `folder`, or if
    that is None, beside the manifest.

    Raises:
        ConfigurationError: The folder has no manifest, or those of several exports.
        ExportFailed: The manifest cannot be read.
        ProofMissing: The manifest has no proof of completeness.
    """
    manifest = _manifest_in(path) if path.is_dir() else path
    report = verify(manifest.read_bytes(), folder or manifest.parent)
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


def verification_table(report: VerificationReport) -> Group:
    """Render for every type whether all of its resources are present."""
    types = new_table("list", "type", "resources", "bytes", "verdict")
    for finding in report.findings:
        amounts = (f"{finding.tally.count:,}", f"{finding.tally.bytes:,}")
        verdict = f"{finding.verdict}: {finding.reason}" if finding.reason else finding.verdict
        types.add_row(*map(escape, (finding.kind, finding.type, *amounts, verdict)))
    complete = "complete" if report.ok else "NOT complete"
    total = f"proof of completeness as of {report.transaction_time}: {complete}"
    if errors := sum(f.tally.count for f in report.findings if f.kind == "error"):
        total += (
            f"; the list `error` has {errors:,} lines about losses or remarks of the server, "
            "which no proof covers"
        )
    if report.continued:
        total += "; the manifest continues on another page, which is verified separately"
    return Group(types, Text(total))


def _manifest_in(folder: Path) -> Path:
    """
    Return the manifest of the export in a folder or, if it has none, in one of its subfolders.

    Raises:
        ConfigurationError: There is none, the export is unfinished, or several folders have one.
    """
    manifests = sorted(folder.glob(MANIFEST_NAME)) or sorted(folder.glob(f"*/{MANIFEST_NAME}"))
    if not manifests and has_state(folder):
        raise ConfigurationError(
            f"{folder} holds an unfinished export; go on with: {resume_command(folder)}"
        )
    if not manifests:
        raise ConfigurationError(
            f"{folder} has no {MANIFEST_NAME}, which helios export writes; if the manifest has "
            "another name, pass the manifest itself"
        )
    if len(manifests) > 1:
        listed = [str(path.parent) for path in manifests[:_MAX_LISTED]]
        rest = len(manifests) - len(listed)
        more = f" and {rest:,} more" if rest else ""
        raise ConfigurationError(
            f"{folder} has several exports; pass one of {', '.join(listed)}{more}"
        )
    return manifests[0]
