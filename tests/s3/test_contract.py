import pytest

from helios_core.manifests import Compression, PartKey
from helios_core.output_stores import OutputStore, SupportsSignedURLs
from helios_core.testing import OutputStoreSuite


class TestS3OutputStore(OutputStoreSuite):
    powers = frozenset({SupportsSignedURLs})
    prefix = ""

    @pytest.fixture
    async def store(self, opened, bucket, raw, keys_in):
        self.opened, self.bucket, self.raw, self.keys_in = opened, bucket, raw, keys_in
        return opened(prefix=self.prefix)

    def place(self, tenant: str, job_id: str) -> str:
        return "/".join(filter(None, (self.prefix, tenant, job_id, ""))) + "/"

    async def raw_names(self, tenant: str, job_id: str) -> list[str]:
        place = self.place(tenant, job_id)
        return [key.removeprefix(place) for key in self.keys_in(place)]

    async def raw_bytes(self, key: PartKey) -> bytes:
        gz = ".gz" if key.compression is Compression.GZIP else ""
        shard = f"{key.kind.value}-{key.resource_type}-{key.ordinal}"
        name = f"{shard}-{key.number}-{key.token}.ndjson{gz}"
        place = self.place(key.tenant, key.job_id) + name
        return self.raw.get_object(Bucket=self.bucket.name, Key=place)["Body"].read()

    async def another(self, store: OutputStore) -> OutputStore:
        return self.opened(prefix=self.prefix)


class TestS3OutputStoreUnderAPrefix(TestS3OutputStore):
    prefix = "site-1/exports"
