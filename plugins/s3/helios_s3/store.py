"""The output store in a bucket."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import obstore

from helios_core import OutputStore, PartKey, PartMissing, StoredPart, in_thread, run_to_end
from helios_s3.buckets import Bucket
from helios_s3.downloads import windows
from helios_s3.errors import FAILURES, unavailable
from helios_s3.layout import job_of, job_prefix, part_key
from helios_s3.ownership import claim
from helios_s3.unfinished import abort_under, unfinished
from helios_s3.uploads import Upload, pieces


class S3OutputStore(OutputStore):
    """Keeps each part as an object of its own, {prefix}/{tenant}/{job}/{part}."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def bind(self, owner: str) -> None:
        """Mark the bucket for `owner`, and test every right that the store needs."""
        await in_thread(claim, self._bucket, owner)

    async def put(self, key: PartKey, chunks: AsyncIterator[bytes]) -> StoredPart:
        """Upload a small part at once and a larger one in blocks; abort on any failure."""
        upload = Upload(self._bucket, key)
        try:
            async for piece in pieces(chunks):
                await upload.write(piece)
                del piece  # or it would stay in memory while the next one is collected
            return await upload.finish()
        except BaseException:
            await run_to_end(upload.abandon())
            raise

    async def read(
        self, key: PartKey, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """Stream a range of bytes by requests of limited size, which are resumed if they break."""
        object_key = part_key(self._bucket.prefix, key)
        try:
            size = (await obstore.head_async(self._bucket.store, object_key))["size"]
            end = size if end is None else min(end, size)
            async for chunk in windows(self._bucket.store, object_key, start=start, end=end):
                yield chunk
        except FileNotFoundError as error:
            raise PartMissing(
                f"{key.name} is gone from the output bucket, though it was published;"
                " start the export again"
            ) from error
        except FAILURES as error:
            raise unavailable(error) from error

    async def discard(self, key: PartKey) -> None:
        """Delete one object; S3 accepts that it does not exist."""
        try:
            await obstore.delete_async(self._bucket.store, part_key(self._bucket.prefix, key))
        except FAILURES as error:
            raise unavailable(error) from error

    async def delete(self, tenant: str, job_id: str) -> None:
        """Abort the job's uploads, then delete its objects, a thousand per request."""
        prefix = job_prefix(self._bucket.prefix, tenant, job_id)
        try:
            await in_thread(abort_under, self._bucket, prefix)
            async for page in obstore.list(self._bucket.store, prefix, chunk_size=1000):
                await obstore.delete_async(self._bucket.store, [found["path"] for found in page])
        except FAILURES as error:
            raise unavailable(error) from error

    async def jobs(self) -> AsyncIterator[tuple[str, str]]:
        """Yield every job with an object or an unfinished upload, once each."""
        try:
            uploads = await in_thread(unfinished, self._bucket)
            begun = {job_of(self._bucket.prefix, upload.key) for upload in uploads}
            for tenant in await self._folders(self._bucket.prefix):
                for folder in await self._folders(tenant):
                    job = job_of(self._bucket.prefix, folder)
                    begun.discard(job)
                    if job is not None:
                        yield job
        except FAILURES as error:
            raise unavailable(error) from error
        for job in begun:
            if job is not None:
                yield job

    async def signed_urls(self, keys: Sequence[PartKey], *, valid_for: timedelta) -> Sequence[str]:
        """Return signed download URLs at the public endpoint, without a request."""
        if not keys:
            return []
        object_keys = [part_key(self._bucket.prefix, key) for key in keys]
        try:
            return await obstore.sign_async(self._bucket.signer, "GET", object_keys, valid_for)
        except FAILURES as error:
            raise unavailable(error) from error

    async def _folders(self, prefix: str) -> list[str]:
        found = await obstore.list_with_delimiter_async(self._bucket.store, prefix)
        names = [f"{folder}/" for folder in found["common_prefixes"]]
        return sorted(name for name in names if not name[len(prefix) :].startswith("."))
