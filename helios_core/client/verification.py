"""Prove from downloaded files that nothing of an export is missing."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

import msgspec

from helios_core.client.downloads import DAMAGED, open_plain
from helios_core.client.manifest import (
    BLOCK_HEADER,
    ManifestEntry,
    PlannedFile,
    ReceivedManifest,
    plan_files,
    read_manifest,
)
from helios_core.errors import HeliosError
from helios_core.hashes import HASH_MODULUS
from helios_core.model.completeness import ALGORITHM, KEY, Tallies, Tally, add_up, lines_digest

CHUNK = 4 * 1024 * 1024


class ProofMissing(HeliosError):
    """A manifest has no proof of completeness."""


class ProofUnreadable(ProofMissing):
    """A manifest has a proof that cannot be read, or that covers only some of its files."""


class Verdict(StrEnum):
    """The result of comparing files with the proof."""

    OK = "ok"
    MISMATCH = "mismatch"
    MISSING = "missing"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The totals of the files of one type, compared with the proof."""

    kind: str
    """The list of the manifest: `output`, `deleted`, `error` or `outcome`."""
    type: str
    tally: Tally
    verdict: Verdict
    reason: str = ""
    paths: tuple[Path, ...] = ()
    """The files that exist."""


class VerificationReport(msgspec.Struct, frozen=True, kw_only=True):
    """The findings about one manifest."""

    transaction_time: str
    findings: tuple[Finding, ...]
    continued: bool
    """Whether the manifest is only one page, which links to another."""

    @property
    def ok(self) -> bool:
        """Whether everything that the manifest lists is present and unchanged."""
        return all(finding.verdict is Verdict.OK for finding in self.findings)


def verify(manifest: bytes, folder: Path) -> VerificationReport:
    """
    Compare files with the proof in their manifest.

    The files have the names that `helios export` writes, the last segments of their URLs, or these
    with `.gz` or `.zst` appended.

    Raises:
        ExportFailed: The manifest cannot be read.
        ProofMissing: It has no proof.
        ProofUnreadable: It has an unknown kind of proof, or one for some files only.
    """
    received = read_manifest(manifest)
    expected = _proof(received)
    files = dict[tuple[str, str], list[PlannedFile]]()
    for file in plan_files(received, folder):
        key = file.kind, _type(received, file.kind, file.entry)
        files.setdefault(key, []).append(file)
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
    """
    Return the same as `verify`, or None if the manifest has no proof.

    Raises:
        ProofUnreadable: As in `verify`.
    """
    try:
        return verify(manifest, folder)
    except ProofUnreadable:
        raise
    except ProofMissing:
        return None


def _finding(
    key: tuple[str, str], files: list[PlannedFile], *, expected: Tally | None, organized: bool
) -> Finding:
    kind, name = key
    paths = [(file, find_file(file.path)) for file in files]
    absent = [file.path.name for file, path in paths if path is None]
    tally = Tally()
    try:
        for _, path in paths:
            if path is not None:
                tally += _tally(path, organized=organized)
        verdict, reason = _compare(expected, tally, absent)
    except DAMAGED as error:
        verdict, reason = Verdict.MISMATCH, f"a file cannot be read ({type(error).__name__})"
    return Finding(
        kind=kind,
        type=name,
        tally=tally,
        verdict=verdict,
        reason=reason,
        paths=tuple(path for _, path in paths if path is not None),
    )


def _compare(expected: Tally | None, tally: Tally, absent: list[str]) -> tuple[Verdict, str]:
    if absent:
        return Verdict.MISSING, f"no file {', '.join(absent)}"
    if expected is None:
        return Verdict.MISMATCH, "the proof does not mention it"
    if tally.count != expected.count:
        return Verdict.MISMATCH, f"{expected.count:,} resources were exported"
    if tally.bytes != expected.bytes:
        return Verdict.MISMATCH, f"{expected.bytes:,} bytes were exported"
    if tally.digest != expected.digest:
        return Verdict.MISMATCH, "the content differs from what was exported"
    return Verdict.OK, ""


def _type(manifest: ReceivedManifest, kind: str, entry: ManifestEntry) -> str:
    """Return the type under which a proof counts a file."""
    if entry.type:
        return entry.type
    types = {"deleted": "Bundle", "error": "OperationOutcome", "outcome": "OperationOutcome"}
    return types.get(kind, manifest.output_organized_by or "")


def _proof(manifest: ReceivedManifest) -> Tallies:
    try:
        proof = _manifest_proof(manifest.extension)
        return _sum_of_file_proofs(manifest) if proof is None else proof
    except (msgspec.ValidationError, KeyError, TypeError, ValueError) as error:
        files = [entry.extension for _, entry in manifest.entries]
        with_proof = sum(KEY in str(extension) for extension in files)
        if with_proof:
            raise ProofUnreadable(
                f"the proof of completeness covers {with_proof} of {len(files)} files, or cannot "
                "be read"
            ) from error
        if KEY in str(manifest.extension):
            raise ProofUnreadable("the proof of completeness cannot be read") from error
        raise ProofMissing(
            "the manifest has no proof of completeness that can be read; repeat the export with a "
            "server that sends one"
        ) from error


def _manifest_proof(extension: object) -> Tallies | None:
    """Return the proof in the extension of a manifest, or None if it has none."""
    if isinstance(extension, list):
        proofs = [_members(item) for item in extension if item["url"] == KEY]
        if not proofs:
            return None
        return add_up((proof["list"], proof["type"], _to_tally(proof)) for proof in proofs)
    if not isinstance(extension, dict) or KEY not in extension:
        return None
    proof = dict(extension[KEY])
    if proof.pop("algorithm") != ALGORITHM:
        raise ValueError(KEY)
    return msgspec.convert(proof, type=dict[str, dict[str, Tally]])


def _sum_of_file_proofs(manifest: ReceivedManifest) -> Tallies:
    """Return the sum of the proofs of single files."""
    if not manifest.entries:
        raise KeyError(KEY)
    return add_up(
        (kind, _type(manifest, kind, entry), _file_proof(entry.extension))
        for kind, entry in manifest.entries
    )


def _file_proof(extension: Any) -> Tally:  # noqa: ANN401  whatever a server sends
    """Return the proof of one file."""
    if isinstance(extension, list):
        [members] = [_members(item) for item in extension if item["url"] == KEY]
        return _to_tally(members)
    return _to_tally(extension[KEY])


def _members(extension: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the nested extensions of a FHIR Extension, by their `url`."""
    return {
        part["url"]: next(value for name, value in part.items() if name.startswith("value"))
        for part in extension["extension"]
    }


def _to_tally(members: Mapping[str, Any]) -> Tally:
    fields = {name: members[name] for name in ("count", "bytes", "digest")}
    return msgspec.convert(fields, type=Tally)


def find_file(path: Path) -> Path | None:
    """Return the file that was downloaded as `path`, however it is compressed, or None."""
    names = (path.with_name(path.name + suffix) for suffix in ("", ".gz", ".zst"))
    return next((name for name in names if name.is_file()), None)


def _tally(path: Path, *, organized: bool) -> Tally:
    count = size = digest = 0
    with open_plain(path) as file:
        for lines, length in _lines(file):
            digest += lines_digest(lines)
            size += length
            headers = sum(line.startswith(BLOCK_HEADER) for line in lines) if organized else 0
            count += len(lines) - headers
    return Tally(count=count, bytes=size, digest=f"{digest % HASH_MODULUS:016x}")


def _lines(file: IO[bytes]) -> Iterator[tuple[list[bytes], int]]:
    """Yield lists of lines without newlines, each with its number of bytes in the file."""
    rest = b""
    while chunk := file.read(CHUNK):
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        yield lines, sum(map(len, lines)) + len(lines)
    if rest:
        yield [rest], len(rest)
