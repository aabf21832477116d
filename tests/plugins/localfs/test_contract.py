from pathlib import Path

import pytest

from helios_core import Compression, OutputStore, PartKey
from helios_core.testing import OutputStoreSuite
from helios_localfs import LocalOutputStore


class TestLocalOutputStore(OutputStoreSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path):
        self.root = tmp_path / "exports"
        return LocalOutputStore(self.root)

    async def raw_names(self, tenant: str, job_id: str) -> list[str]:
        return sorted(path.name for path in self.root.glob(f"{tenant}/{job_id}/*"))

    async def raw_bytes(self, key: PartKey) -> bytes:
        gz = ".gz" if key.compression is Compression.GZIP else ""
        shard = f"{key.kind.value}-{key.resource_type}-{key.ordinal}"
        name = f"{shard}-{key.number}-{key.token}.ndjson{gz}"
        return (self.root / key.tenant / key.job_id / name).read_bytes()

    async def another(self, store: OutputStore) -> OutputStore:
        return LocalOutputStore(self.root)
