import gzip
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"


def _folder(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"../shared/{name} is not beside this repository")
    return folder


@pytest.fixture(scope="session")
def definitions() -> Path:
    return _folder("fhir")


@pytest.fixture(scope="session")
def spec_examples() -> dict[str, list[bytes]]:
    folder = _folder("data/spec-examples")
    return {
        path.name.split(".")[0]: gzip.decompress(path.read_bytes()).splitlines()
        for path in sorted(folder.glob("*.ndjson.gz"))
    }


@pytest.fixture(scope="session")
def real_bundles() -> list[bytes]:
    folder = _folder("data/synthea-r4/bundles")
    return [gzip.decompress(path.read_bytes()) for path in sorted(folder.glob("*.json.gz"))]
