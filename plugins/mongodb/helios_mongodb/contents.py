"""Contents: in the document of their version, or in chunks if they are too large for it."""

from collections.abc import Iterator, Mapping
from typing import Any

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection

CHUNK_BYTES = 8 * 1024 * 1024
"""The most bytes of a content in one document; MongoDB limits a whole document to 16 MiB."""


def chunks_of(seq: int, content: bytes) -> Iterator[dict[str, Any]]:
    """Yield the chunk documents of a content that is larger than `CHUNK_BYTES`."""
    for number, start in enumerate(range(0, len(content), CHUNK_BYTES)):
        yield {"v": seq, "n": number, "b": content[start : start + CHUNK_BYTES]}


async def content_of(
    chunks: AsyncCollection[dict[str, Any]],
    version: Mapping[str, Any],
    *,
    session: AsyncClientSession | None = None,
) -> bytes | None:
    """Return the stored content of a version, None if it is missing; chunks may be missing."""
    if version["n"] <= CHUNK_BYTES:
        content = version.get("b")
        return content if isinstance(content, bytes) else None
    found = chunks.find({"v": version["_id"]}, {"b": 1}, session=session).sort("n", 1)
    return b"".join([chunk["b"] async for chunk in found])
