from typing import ClassVar

import pytest

from helios_core.memory.output_store import MemoryOutputStore
from helios_core.model.parts import PartKey
from helios_core.storage.output_store import OutputStore
from helios_core.testing import OutputStoreSuite
from helios_core.testing.output_store import PART, yield_chunks


class TestMemoryOutputStore(OutputStoreSuite):
    waivers: ClassVar = {
        "test_memory_does_not_grow_with_the_part": "memory is where this store keeps its parts",
    }

    @pytest.fixture
    def store(self):
        self.kept = MemoryOutputStore()
        return self.kept

    async def raw_names(self, tenant: str, job_id: str) -> list[str]:
        return [
            key.name for key in self.kept._parts if (key.tenant, key.job_id) == (tenant, job_id)
        ]

    async def raw_bytes(self, key: PartKey) -> bytes:
        return self.kept._parts[key]

    async def another(self, store: OutputStore) -> OutputStore:
        return store

    async def test_memory_does_not_grow_with_the_part(self, store):
        await store.put(PART, yield_chunks([b"a" * 1000] * 10))

        assert sum(map(len, store._parts.values())) == 10_000
