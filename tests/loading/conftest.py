import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from helios_core.fhir.definitions import FHIRVersion
from helios_core.loading import parsers
from helios_core.loading.load import LoadSummary, load
from helios_core.memory.data_provider import MemoryDataProvider
from helios_core.storage.resource_keys import ResourceKey


class Store:
    """A memory provider, with the load and the look the tests need."""

    def __init__(self) -> None:
        self.data_provider = MemoryDataProvider()

    async def load(self, *paths: Path, **options) -> LoadSummary:
        options = {"tenant": "default", "fhir_version": FHIRVersion.R4} | options
        return await load(paths, self.data_provider, **options)

    async def version(self, reference: str, fhir_version: FHIRVersion = FHIRVersion.R4):
        key = ResourceKey("default", fhir_version, *reference.split("/"))
        return await self.data_provider.get(key)

    def references(self, *types: str) -> list[str]:
        """Return `Type/id` of everything live of some types, or of all, sorted."""
        return sorted(
            f"{key.resource_type}/{resource_id}"
            for key, versions in self.data_provider._collections.items()
            for resource_id, own in versions.items()
            if (not types or key.resource_type in types) and own[-1].stored.content is not None
        )

    async def text(self, reference: str) -> str:
        version = await self.version(reference)
        assert version is not None, f"{reference} is not stored"
        assert version.content is not None, f"{reference} is deleted"
        return version.content.decode()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture(params=["one process", "parser processes"])
def anywhere(request, monkeypatch):
    """Run a test in one process and with processes that parse."""
    if request.param != "one process":
        monkeypatch.setattr(parsers, "PARALLEL_BYTES", 0)
        monkeypatch.setattr(os, "cpu_count", lambda: 3)


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    """Write a file of text, of one document, or of one document per line."""

    def write(name: str, *documents: object, indent: int | None = None) -> Path:
        texts = [d if isinstance(d, str) else json.dumps(d, indent=indent) for d in documents]
        content = "\n".join(texts).encode()
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write
