"""Contents: in the document of their version, or in chunks where they are too large for one."""

from collections.abc import Iterator, Mapping
from typing import Any

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection

CHUNK_BYTES = 8 * 1024 * 1024
"""How much of a content is in one document; a document takes 16 MiB with all that is in it."""


def chunks_of(seq: int, content: bytes) -> Iterator[dict[str, Any]]:
    """Yield the documents for a content that is larger than a chunk."""
    for number, start in enumerate(range(0, len(content), CHUNK_BYTES)):
        yield {"v": seq, "n": number, "b": content[start : start + CHUNK_BYTES]}


async def content_of(
    chunks: AsyncCollection[dict[str, Any]],
    version: Mapping[str, Any],
    *,
    session: AsyncClientSession | None = None,
) -> bytes | None:
    """Return what is stored of a version's content, None if nothing is."""
    if version["n"] <= CHUNK_BYTES:
        content = version.get("b")
        return content if isinstance(content, bytes) else None
    found = chunks.find({"v": version["_id"]}, {"b": 1}, session=session).sort("n", 1)
    return b"".join([chunk["b"] async for chunk in found])
