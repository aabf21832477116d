"""Prove from downloaded files that nothing of an export is missing."""

import gzip
import zlib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

import msgspec

from helios_core.client.manifest import (
    ManifestEntry,
    PlannedFile,
    ReceivedManifest,
    plan_files,
    read_manifest,
)
from helios_core.errors import HeliosError
from helios_core.model.completeness import ALGORITHM, KEY, Tallies, Tally, add_up, lines_digest

CHUNK = 4 * 1024 * 1024
HEADER = b'{"resourceType":"Parameters"'
"""How a line begins that heads a block and is no resource (Bulk Data 3.0.0, organizeOutputBy)."""


class ProofMissing(HeliosError):
    """A manifest does not say what its files add up to."""


class Verdict(StrEnum):
    """What became of a proof."""

    OK = "ok"
    MISMATCH = "mismatch"
    MISSING = "missing"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What the files of one type add up to, against what they should."""

    kind: str
    """The list of the manifest."""
    type: str
    found: Tally
    verdict: Verdict
    reason: str = ""


class VerificationReport(msgspec.Struct, frozen=True, kw_only=True):
    """The findings about one manifest."""

    transaction_time: str
    findings: tuple[Finding, ...]
    continued: bool
    """Whether the manifest is a page that others follow."""

    @property
    def ok(self) -> bool:
        """Whether everything the manifest lists is there, and unchanged."""
        return all(finding.verdict is Verdict.OK for finding in self.findings)


def verify(manifest: bytes, folder: Path) -> VerificationReport:
    """
    Compare files with the proof in their manifest.

    Files are looked for under the names that `helios export` gives them, the last segments of
    their URLs, also with `.gz` behind it.

    Raises:
        ExportFailed: The manifest cannot be read.
        NoProof: It carries no proof, or one of another kind.
    """
    received = read_manifest(manifest)
    expected = _proof(received)
    files = dict[tuple[str, str], list[PlannedFile]]()
    for wanted in plan_files(received, folder):
        key = wanted.kind, _group(received, wanted.kind, wanted.entry)
        files.setdefault(key, []).append(wanted)
    proven = {(kind, name) for kind, types in expected.items() for name in types}
    organized = received.output_organized_by is not None
    return VerificationReport(
        transaction_time=received.transaction_time,
        findings=tuple(
            _finding(
                key,
                files.get(key, []),
                expected=expected.get(key[0], {}).get(key[1]),
                organized=organized,
            )
            for key in sorted(proven | files.keys())
        ),
        continued=bool(received.link),
    )


def verify_if_proven(manifest: bytes, folder: Path) -> VerificationReport | None:
    """Compare as `verify` does, or give None for a manifest without a proof."""
    try:
        return verify(manifest, folder)
    except ProofMissing:
        return None


def _finding(
    key: tuple[str, str], files: list[PlannedFile], *, expected: Tally | None, organized: bool
) -> Finding:
    kind, name = key
    present = [(wanted, _present(wanted.path)) for wanted in files]
    absent = [wanted.path.name for wanted, path in present if path is None]
    found = Tally()
    try:
        for _, path in present:
            if path is not None:
                found += _tally(path, organized=organized)
        verdict, reason = _judged(expected, found, absent)
    except (OSError, EOFError, zlib.error) as error:
        verdict, reason = Verdict.MISMATCH, f"a file cannot be read ({type(error).__name__})"
    return Finding(kind=kind, type=name, found=found, verdict=verdict, reason=reason)


def _judged(expected: Tally | None, found: Tally, absent: list[str]) -> tuple[Verdict, str]:
    if absent:
        return Verdict.MISSING, f"no file {', '.join(absent)}"
    if expected is None:
        return Verdict.MISMATCH, "the proof does not speak of it"
    if found.count != expected.count:
        return Verdict.MISMATCH, f"{expected.count:,} resources were exported"
    if found.bytes != expected.bytes:
        return Verdict.MISMATCH, f"{expected.bytes:,} bytes were exported"
    if found.digest != expected.digest:
        return Verdict.MISMATCH, "the content is not what was exported"
    return Verdict.OK, ""


def _group(manifest: ReceivedManifest, kind: str, entry: ManifestEntry) -> str:
    """Give under which type a file counts, as the server that made the proof does."""
    if entry.type:
        return entry.type
    named = {"deleted": "Bundle", "error": "OperationOutcome", "outcome": "OperationOutcome"}
    return named.get(kind, manifest.output_organized_by or "")


def _proof(manifest: ReceivedManifest) -> Tallies:
    try:
        whole = _whole(manifest.extension)
        return _apart(manifest) if whole is None else whole
    except (msgspec.ValidationError, KeyError, TypeError, ValueError) as error:
        raise ProofMissing(
            "the manifest carries no proof of completeness that can be read; ask for the export "
            "again from a server that gives one"
        ) from error


def _whole(extension: object) -> Tallies | None:
    """Give the proof of a whole manifest, None where there is none."""
    if isinstance(extension, list):
        found = [_members(each) for each in extension if each["url"] == KEY]
        if not found:
            return None
        return add_up((each["list"], each["type"], _converted(each)) for each in found)
    if not isinstance(extension, dict) or KEY not in extension:
        return None
    proof = dict(extension[KEY])
    if proof.pop("algorithm") != ALGORITHM:
        raise ValueError(KEY)
    return msgspec.convert(proof, type=dict[str, dict[str, Tally]])


def _apart(manifest: ReceivedManifest) -> Tallies:
    """Give what the proofs of the single files add up to."""
    if not manifest.entries:
        raise KeyError(KEY)
    return add_up(
        (kind, _group(manifest, kind, entry), _single(entry.extension))
        for kind, entry in manifest.entries
    )


def _single(extension: Any) -> Tally:  # noqa: ANN401  whatever a server sends
    """Give the proof of one file."""
    if isinstance(extension, list):
        [members] = [_members(each) for each in extension if each["url"] == KEY]
        return _converted(members)
    return _converted(extension[KEY])


def _members(extension: Mapping[str, Any]) -> dict[str, Any]:
    """Give the parts of a FHIR Extension by name."""
    return {
        part["url"]: next(value for name, value in part.items() if name.startswith("value"))
        for part in extension["extension"]
    }


def _converted(members: Mapping[str, Any]) -> Tally:
    named = {name: members[name] for name in ("count", "bytes", "digest")}
    return msgspec.convert(named, type=Tally)


def _present(path: Path) -> Path | None:
    packed = path.with_name(path.name + ".gz")
    return next((each for each in (path, packed) if each.is_file()), None)


def _tally(path: Path, *, organized: bool) -> Tally:
    count = size = digest = 0
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for lines, length in _lines(file):
            digest += lines_digest(lines)
            size += length
            heads = sum(line.startswith(HEADER) for line in lines) if organized else 0
            count += len(lines) - heads
    return Tally(count=count, bytes=size, digest=f"{digest % 2**64:016x}")


def _lines(file: IO[bytes] | gzip.GzipFile) -> Iterator[tuple[list[bytes], int]]:
    """Give lines without their newlines, many at a time, and the bytes that held them."""
    rest = b""
    while chunk := file.read(CHUNK):
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        yield lines, sum(map(len, lines)) + len(lines)
    if rest:
        yield [rest], len(rest)
