"""The resources that the stores are loaded with."""

from pathlib import Path

import pytest

from helios_core.loading.load import load
from helios_core.testing import corpus

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
BUNDLES = 4


def examples(version):
    """The file with the examples of the specification."""
    path = DATA / "spec-examples" / f"{version}.ndjson.gz"
    if not path.is_file():
        pytest.skip("the specification's examples are not in ../shared/data")
    return path


def bundles():
    """The files with Bundles of Synthea."""
    folder = DATA / "synthea-r4" / "bundles"
    if not folder.is_dir():
        pytest.skip("the bundles of Synthea are not in ../shared/data")
    return sorted(folder.iterdir())


async def loaded(provider, paths, version):
    """Load files, which have more than 100 resources."""
    summary = await load(list(paths), provider, tenant=corpus.TENANT, fhir_version=version)
    assert summary.created > 100


async def read(batches):
    """All lines of the batches."""
    return [line async for batch in batches for line in batch.lines]
