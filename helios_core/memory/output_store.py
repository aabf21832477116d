"""The reference output store: parts of one process."""

from collections.abc import AsyncIterator

import xxhash

from helios_core.errors import ConfigurationError, PartMissing
from helios_core.model.parts import PartKey, StoredPart
from helios_core.storage.output_store import OutputStore

_CHUNK_BYTES = 1024 * 1024


class MemoryOutputStore(OutputStore):
    """Keeps parts in the memory of one process: not durable, and every part takes memory."""

    def __init__(self) -> None:
        self._owner: str | None = None
        self._parts: dict[PartKey, bytes] = {}

    async def bind(self, owner: str) -> None:
        """Bind the store to its owner, and refuse any other one."""
        if self._owner not in (None, owner):
            raise ConfigurationError(
                f"the output store belongs to {self._owner}, not to {owner}; give each its own"
            )
        self._owner = owner

    async def put(self, key: PartKey, chunks: AsyncIterator[bytes]) -> StoredPart:
        """Collect the chunks, and store the part once the last one has arrived (O1, O2)."""
        content = b"".join([chunk async for chunk in chunks])
        self._parts[key] = content
        return StoredPart(size=len(content), digest=xxhash.xxh3_128_hexdigest(content))

    async def read(
        self, key: PartKey, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """Stream a range of a part (O3, O4, O7)."""
        if key not in self._parts:
            raise PartMissing(f"part {key.name} of export {key.job_id} is not in the output store")
        content = memoryview(self._parts[key])[start:end]
        for offset in range(0, len(content), _CHUNK_BYTES):
            yield bytes(content[offset : offset + _CHUNK_BYTES])

    async def discard(self, key: PartKey) -> None:
        """Remove one part, if it exists."""
        self._parts.pop(key, None)

    async def delete(self, tenant: str, job_id: str) -> None:
        """Remove the parts of one job (O5)."""
        for key in [key for key in self._parts if (key.tenant, key.job_id) == (tenant, job_id)]:
            del self._parts[key]

    async def jobs(self) -> AsyncIterator[tuple[str, str]]:
        """Yield the tenant and id of each job with stored parts, once."""
        for job in sorted({(key.tenant, key.job_id) for key in self._parts}):
            yield job
