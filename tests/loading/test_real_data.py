"""Synthea's bundles and the specification's examples load completely."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from isal import igzip

from helios_core.fhir.definitions import FHIRVersion

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="the real bundles are not in ../shared/data"
)


def read(path):
    return igzip.decompress(path.read_bytes())


async def test_the_bundles_of_synthea_load_with_all_their_references(store):
    folder = DATA / "synthea-r4" / "bundles"
    documents = [json.loads(read(path)) for path in sorted(folder.iterdir())]
    entries = [entry for document in documents for entry in document.get("entry", [])]

    summary = await store.load(folder)

    assert (summary.files, summary.bad) == (62, 0)
    assert summary.read == len(entries) + 1
    assert summary.created == len({entry["fullUrl"] for entry in entries}) + 1
    assert (summary.unresolved, summary.unresolved_distinct) == (40, 40)
    assert len(summary.unresolved_by_file) == 1


async def test_only_the_missing_members_of_the_group_stay_temporary(store):
    folder = DATA / "synthea-r4" / "bundles"
    await store.load(folder)
    groups = [d for p in folder.iterdir() if (d := json.loads(read(p)))["resourceType"] == "Group"]

    text = await store.text(f"Group/{groups[0]['id']}")

    members = re.findall(r'"reference":"([^"]*)"', text)
    kinds = Counter("urn" if member.startswith("urn:") else "Patient" for member in members)
    assert kinds == {"Patient": 60, "urn": 40}
    known = [member for member in members if member.startswith("Patient/")]
    assert all([await store.version(member) for member in known])


@pytest.mark.parametrize("version", ["R4", "R4B", "R5"])
async def test_the_examples_of_the_specification_load(store, version):
    path = DATA / "spec-examples" / f"{version}.ndjson.gz"
    lines = [json.loads(line) for line in read(path).splitlines()]

    summary = await store.load(path, fhir_version=FHIRVersion(version))

    assert summary.problems == ()
    assert summary.read == len(lines)
    for line in lines:
        stored = await store.version(f"{line['resourceType']}/{line['id']}", FHIRVersion(version))
        assert json.loads(stored.content) | {"meta": None} == line | {"meta": None}
