from types import SimpleNamespace

import pytest

from helios_core import Compression, OutputStore, PartKey, SupportsSignedURLs
from helios_core.testing import OutputStoreSuite


class TestS3OutputStore(OutputStoreSuite):
    powers = frozenset({SupportsSignedURLs})
    prefix = ""

    @pytest.fixture
    async def store(self, opened, bucket, raw, keys_in):
        self.behind = SimpleNamespace(opened=opened, bucket=bucket, raw=raw, keys_in=keys_in)
        return opened(prefix=self.prefix)

    def place(self, tenant: str, job_id: str) -> str:
        return "/".join(filter(None, (self.prefix, tenant, job_id))) + "/"

    async def raw_names(self, tenant: str, job_id: str) -> list[str]:
        place = self.place(tenant, job_id)
        return [key.removeprefix(place) for key in self.behind.keys_in(place)]

    async def raw_bytes(self, key: PartKey) -> bytes:
        gz = ".gz" if key.compression is Compression.GZIP else ""
        shard = f"{key.kind.value}-{key.resource_type}-{key.ordinal}"
        name = f"{shard}-{key.number}-{key.token}.ndjson{gz}"
        place = self.place(key.tenant, key.job_id) + name
        answer = self.behind.raw.get_object(Bucket=self.behind.bucket.name, Key=place)
        return answer["Body"].read()

    async def another(self, store: OutputStore) -> OutputStore:
        return self.behind.opened(prefix=self.prefix)


@pytest.mark.in_turn
class TestS3OutputStoreUnderAPrefix(TestS3OutputStore):
    prefix = "site-1/exports"


@pytest.mark.in_turn
class TestS3OutputStoreOnMinIO(TestS3OutputStore):
    @pytest.fixture
    def bucket(self, minio_bucket):
        return minio_bucket
