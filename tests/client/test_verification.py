import gzip
import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from helios_core.client.errors import ExportFailed
from helios_core.client.verification import (
    ProofMissing,
    ProofUnreadable,
    Verdict,
    verify,
    verify_if_proven,
)
from helios_core.model import completeness
from helios_core.model.completeness import Tally, add_up, lines_digest

PATIENTS = [b'{"resourceType":"Patient","id":"p%d"}' % n for n in range(5)]
DEVICES = [b'{"resourceType":"Device","id":"d%d"}' % n for n in range(3)]


def tally(lines):
    size = sum(map(len, lines)) + len(lines)
    return {"count": len(lines), "bytes": size, "digest": f"{lines_digest(lines):016x}"}


def manifest_of(files, *, proof=None, **more):
    """A manifest of files by name, with their proof unless another one is passed."""
    entries = [
        {"type": name.split("-")[0], "url": f"http://fhir.example/export-file/1/{name}"}
        for name in files
    ]
    if proof is None:
        types = {}
        for name, lines in files.items():
            types.setdefault(name.split("-")[0], []).extend(lines)
        proof = {"output": {name: tally(lines) for name, lines in types.items()}}
    whole = {completeness.KEY: {"algorithm": completeness.ALGORITHM, **proof}}
    return {
        "transactionTime": "2026-11-22T00:00:00Z",
        "requiresAccessToken": False,
        "output": entries,
        "deleted": [],
        "error": [],
        "extension": whole,
        **more,
    }


def encoded(manifest):
    return msgspec.json.encode(manifest)


@pytest.fixture
def files(tmp_path):
    files = {
        "Patient-1-1.ndjson": PATIENTS[:2],
        "Patient-1-2.ndjson": PATIENTS[2:],
        "Device-1-1.ndjson": DEVICES,
    }
    for name, lines in files.items():
        (tmp_path / name).write_bytes(b"".join(line + b"\n" for line in lines))
    return files


def verdicts(report):
    return {finding.type: finding.verdict for finding in report.findings}


def test_files_that_are_whole_are_proven(files, tmp_path):
    report = verify(encoded(manifest_of(files)), tmp_path)

    assert report.ok
    assert verdicts(report) == {"Device": Verdict.OK, "Patient": Verdict.OK}
    assert [finding.tally.count for finding in report.findings] == [3, 5]
    assert not report.continued


def test_lines_may_lie_in_other_files_and_in_another_order(files, tmp_path):
    one, two = tmp_path / "Patient-1-1.ndjson", tmp_path / "Patient-1-2.ndjson"
    one.write_bytes(b"".join(line + b"\n" for line in reversed(PATIENTS)))
    two.write_bytes(b"")

    assert verify(encoded(manifest_of(files)), tmp_path).ok


def test_packed_files_are_unpacked(files, tmp_path):
    plain = tmp_path / "Device-1-1.ndjson"
    plain.with_name("Device-1-1.ndjson.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()

    assert verify(encoded(manifest_of(files)), tmp_path).ok


def test_a_missing_file_is_named(files, tmp_path):
    (tmp_path / "Patient-1-2.ndjson").unlink()

    report = verify(encoded(manifest_of(files)), tmp_path)

    assert not report.ok
    assert verdicts(report) == {"Device": Verdict.OK, "Patient": Verdict.MISSING}
    assert "Patient-1-2.ndjson" in report.findings[1].reason


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"resourceType":"Device","id":"d0"}\n',
        b"\n".join(DEVICES),
        b"\n".join([*DEVICES, DEVICES[0], b""]),
        b"\n".join([*DEVICES[:2], b'{"resourceType":"Device","id":"d9"}', b""]),
        b"\n".join([DEVICES[0], DEVICES[1] + b" ", DEVICES[2][:-1], b""]),
    ],
)
def test_any_other_content_is_a_mismatch(files, tmp_path, content):
    (tmp_path / "Device-1-1.ndjson").write_bytes(content)

    report = verify(encoded(manifest_of(files)), tmp_path)

    assert verdicts(report) == {"Device": Verdict.MISMATCH, "Patient": Verdict.OK}
    assert report.findings[0].reason


@pytest.mark.parametrize("packed", [b"no gzip", gzip.compress(b"x" * 100, mtime=0)[:-9]])
def test_a_broken_file_is_a_mismatch(files, tmp_path, packed):
    (tmp_path / "Device-1-1.ndjson").unlink()
    (tmp_path / "Device-1-1.ndjson.gz").write_bytes(packed)

    assert verdicts(verify(encoded(manifest_of(files)), tmp_path))["Device"] is Verdict.MISMATCH


def test_a_file_struck_from_the_manifest_is_missed(files, tmp_path):
    manifest = manifest_of(files)
    del manifest["output"][1:]

    assert not verify(encoded(manifest), tmp_path).ok


def test_a_type_the_proof_does_not_speak_of_is_not_proven(files, tmp_path):
    manifest = manifest_of(files, proof={"output": {"Device": tally(DEVICES)}})

    assert verdicts(verify(encoded(manifest), tmp_path))["Patient"] is Verdict.MISMATCH


def test_headers_of_blocks_are_no_resources(tmp_path):
    """TR-46: they count in the digest, not among the resources."""
    lines = [b'{"resourceType":"Parameters","parameter":[{"name":"header"}]}', *PATIENTS]
    (tmp_path / "Patient-1-1.ndjson").write_bytes(b"".join(line + b"\n" for line in lines))
    proof = {"output": {"Patient": tally(lines) | {"count": len(PATIENTS)}}}
    manifest = manifest_of({"Patient-1-1.ndjson": lines}, proof=proof, outputOrganizedBy="Patient")
    del manifest["output"][0]["type"]

    assert verify(encoded(manifest), tmp_path).ok


def test_every_file_may_have_its_own_proof(files, tmp_path):
    manifest = manifest_of(files, extension=None, link=[{"relation": "next", "url": "x"}])
    for entry, lines in zip(manifest["output"], files.values(), strict=True):
        entry["extension"] = {completeness.KEY: tally(lines)}

    report = verify(encoded(manifest), tmp_path)

    assert report.ok
    assert report.continued
    (tmp_path / "Device-1-1.ndjson").write_bytes(b"")
    assert not verify(encoded(manifest), tmp_path).ok


@pytest.mark.parametrize("extension", [None, {}, [], "urn"])
def test_without_a_proof_nothing_is_proven(files, tmp_path, extension):
    manifest = encoded(manifest_of(files, extension=extension))

    with pytest.raises(ProofMissing):
        verify(manifest, tmp_path)
    assert verify_if_proven(manifest, tmp_path) is None


@pytest.mark.parametrize(
    "extension",
    [
        {completeness.KEY: {"algorithm": "md5", "output": {}}},
        {completeness.KEY: {"output": {}}},
        {completeness.KEY: 5},
        {completeness.KEY: {"algorithm": completeness.ALGORITHM, "output": {"Patient": 5}}},
        [{"url": completeness.KEY}],
    ],
)
def test_a_proof_that_cannot_be_read_is_not_taken_for_none(files, tmp_path, extension):
    manifest = encoded(manifest_of(files, extension=extension))

    with pytest.raises(ProofUnreadable, match="cannot be read"):
        verify_if_proven(manifest, tmp_path)


def test_a_proof_of_some_files_only_is_not_taken_for_none(files, tmp_path):
    manifest = manifest_of(files, extension=None)
    entry, lines = manifest["output"][0], next(iter(files.values()))
    entry["extension"] = {completeness.KEY: tally(lines)}

    with pytest.raises(ProofUnreadable, match="covers 1 of 3 files"):
        verify_if_proven(encoded(manifest), tmp_path)


def test_what_is_no_manifest_is_told(tmp_path):
    with pytest.raises(ExportFailed, match="manifest"):
        verify(b"[]", tmp_path)


@given(
    lines=st.lists(st.binary(max_size=20)),
    cuts=st.lists(st.integers(0, 30), max_size=4),
    seed=st.randoms(use_true_random=False),
)
def test_digests_of_parts_add_up_however_the_lines_are_cut_and_ordered(lines, cuts, seed):
    expected = sum(xxh3_64_intdigest(line) for line in lines) % 2**64
    shuffled = [*lines]
    seed.shuffle(shuffled)
    edges = sorted([0, *(min(cut, len(lines)) for cut in cuts), len(lines)])

    parts = [shuffled[start:end] for start, end in itertools.pairwise(edges)]
    totals = add_up(("output", "Patient", Tally(**tally(part))) for part in parts)

    assert lines_digest(lines) == expected
    assert totals["output"]["Patient"] == Tally(**tally(lines))
