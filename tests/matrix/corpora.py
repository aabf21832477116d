"""What the rows are loaded with, and what it is afterwards."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from isal import igzip

from helios_core.fhir import FHIRVersion, load_definitions
from helios_core.loading.load import load
from helios_core.memory import MemoryDataProvider
from helios_core.testing import corpus, take_snapshot
from tests.turns import in_turn, today

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
"""Real data, where there are any beside the repository."""
PATIENTS = 12
MEMBERS = frozenset(f"p{n}" for n in range(0, PATIENTS, 3))
"""The ids of the patients in the Group `g1`."""
NOTE = "Whatever fills a shard. " * 250

Resources = Mapping[str, Any]
"""Resources by `Type/id`."""


def examples(version: str) -> list[Path]:
    """Return the file with the specification's examples, in a list that may be empty."""
    return [path for path in [DATA / "spec-examples" / f"{version}.ndjson.gz"] if path.is_file()]


def real_data(version: str, folder: Path) -> tuple[Path, ...]:
    """
    Return files with the examples of a version and with Bundles, where there are any.

    The types of the examples take turns; the files of one folder are those of one run.
    """
    thinned = (_thinned(path, folder / f"examples-{version}.ndjson") for path in examples(version))
    return (*thinned, *bundles(version))


def _thinned(path: Path, thinned: Path) -> Path:
    if thinned.exists():
        return thinned
    resources = [json.loads(line) for line in igzip.decompress(path.read_bytes()).splitlines()]
    types = in_turn(sorted({resource["resourceType"] for resource in resources}), today())
    return write(thinned, (each for each in resources if each["resourceType"] in types))


def bundles(version: str) -> list[Path]:
    """Return a Bundle of Synthea; none for other versions, or where there is no real data."""
    return sorted((DATA / "synthea-r4" / "bundles").glob("*"))[:1] * (version == "R4")


def made() -> list[dict[str, Any]]:
    """Return resources that are the same in every version, of patients and one group of them."""
    who = {"resourceType": "Practitioner", "id": "dr", "active": True}
    found = [who, {"resourceType": "Organization", "id": "elsewhere", "active": True}]
    for n in range(PATIENTS):
        gender = ("female", "male")[n % 2]
        subject = {"reference": f"Patient/p{n}"}
        found.append({"resourceType": "Patient", "id": f"p{n}", "gender": gender})
        found.extend(
            {
                "resourceType": "Observation",
                "id": f"o{n}-{k}",
                "status": ("final", "amended")[k % 2],
                "code": {"text": "made"},
                "subject": subject,
                "performer": [{"reference": "Practitioner/dr"}],
                "note": [{"text": NOTE}],
            }
            for k in range(6)
        )
        found.append(
            {
                "resourceType": "Condition",
                "id": f"c{n}",
                "code": {"text": "made"},
                "subject": subject,
                "recordedDate": f"2020-01-{n + 1:02}",
            }
        )
    return [*found, group(MEMBERS)]


def group(members: Iterable[str]) -> dict[str, Any]:
    """Return the Group `g1` of patients."""
    entities = [{"entity": {"reference": f"Patient/{name}"}} for name in sorted(members)]
    return {"resourceType": "Group", "id": "g1", "type": "person", "member": entities}


def write(path: Path, resources: Iterable[Mapping[str, Any]]) -> Path:
    """Write a file of NDJSON."""
    path.write_text("".join(f"{json.dumps(resource)}\n" for resource in resources))
    return path


@cache
def as_loaded(paths: tuple[Path, ...], version: str) -> Resources:
    """Return what is exported of files once they are loaded, by the reference backend alone."""
    return asyncio.run(_as_loaded(paths, version))


async def _as_loaded(paths: tuple[Path, ...], version: str) -> Resources:
    fhir_version = FHIRVersion(version)
    provider = MemoryDataProvider()
    summary = await load(list(paths), provider, tenant=corpus.TENANT, fhir_version=fhir_version)
    assert summary.bad == 0
    types = sorted(load_definitions(fhir_version).types)
    view = corpus.view(
        await provider.transaction_time(), corpus.request(fhir_version=fhir_version, types=types)
    )
    found = by_name(map(msgspec.json.decode, (await take_snapshot(provider, view)).lines))
    text = json.dumps(found)
    # A Binary that a record links to is represented by the record.
    linked = {name for name in found if name.startswith("Binary/") and f'"url": "{name}"' in text}
    return {name: resource for name, resource in found.items() if name not in linked}


def by_name(resources: Iterable[dict[str, Any]], base: str = "") -> Resources:
    """
    Return resources by their names, without what a server says of its versions.

    The addresses of attachments, which an export makes absolute, are relative to `base`.
    """
    if base:
        text = json.dumps(list(resources)).replace(f'"{base}/Binary/', '"Binary/')
        resources = json.loads(text)
    found: dict[str, Any] = {}
    for resource in resources:
        name = f"{resource['resourceType']}/{resource['id']}"
        assert name not in found, f"{name} is there twice"
        meta = {
            key: value
            for key, value in resource.get("meta", {}).items()
            if key not in {"versionId", "lastUpdated"}
        }
        rest = {key: value for key, value in resource.items() if key != "meta"}
        found[name] = rest | ({"meta": meta} if meta else {})
    return found
