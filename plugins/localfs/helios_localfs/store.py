"""The output store in a local folder."""

from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from helios_core import OutputStore, PartKey, PartMissing, StoredPart, in_thread
from helios_localfs.errors import unavailable
from helios_localfs.files import READ_BYTES, PartReader, PartWriter, remove_folder, remove_part
from helios_localfs.layout import job_folder, part_path, subfolders
from helios_localfs.ownership import claim

_WRITE_BYTES = 1024 * 1024
"""The bytes that are collected before a thread writes them."""

_REMEMBERED_FOLDERS = 64

P = ParamSpec("P")
T = TypeVar("T")


class LocalOutputStore(OutputStore):
    """Keeps each part in a file of its own, {root}/{tenant}/{job}/{part}."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._named = deque[Path](maxlen=_REMEMBERED_FOLDERS)
        """Folders of jobs whose own directory entries are durable."""

    async def bind(self, owner: str) -> None:
        """Create and mark the folder; refuse one that belongs to another owner."""
        await in_thread(claim, self._root, owner)

    async def put(self, key: PartKey, chunks: AsyncIterator[bytes]) -> StoredPart:
        """Write a draft, fsync it, rename it, fsync the folders."""
        path = part_path(self._root, key)
        writer = PartWriter(path)
        try:
            await _call(writer.open)
            async for group in _grouped(chunks):
                await _call(writer.write, group)
                del group  # or it would stay in memory while the next one is collected
            return await self._finish(writer, path.parent)
        except BaseException:
            await in_thread(writer.abandon)
            raise

    async def _finish(self, writer: PartWriter, folder: Path) -> StoredPart:
        above = folder not in self._named
        stored = await _call(writer.finish, above=above)
        if above:
            self._named.append(folder)
        return stored

    async def read(
        self, key: PartKey, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """Stream a range of bytes, even if the part is removed meanwhile."""
        reader = PartReader(part_path(self._root, key))
        try:
            await _open(reader, key)
            while end is None or start < end:
                size = READ_BYTES if end is None else min(READ_BYTES, end - start)
                chunk = await _call(reader.read, size, start=start)
                if not chunk:
                    return
                yield chunk
                start += len(chunk)
        finally:
            reader.close()

    async def discard(self, key: PartKey) -> None:
        """Remove a part and its draft."""
        await _call(remove_part, part_path(self._root, key))

    async def delete(self, tenant: str, job_id: str) -> None:
        """Remove the job's folder."""
        await _call(remove_folder, job_folder(self._root, tenant, job_id))

    async def jobs(self) -> AsyncIterator[tuple[str, str]]:
        """Yield the tenant and the job of every job folder."""
        for tenant in await _call(subfolders, self._root):
            for job_id in await _call(subfolders, self._root / tenant):
                yield tenant, job_id


async def _open(reader: PartReader, key: PartKey) -> None:
    try:
        await in_thread(reader.open)
    except FileNotFoundError as error:
        raise PartMissing(
            f"{key.name} is gone from the output folder, though it was published;"
            " start the export again"
        ) from error
    except OSError as error:
        raise unavailable(error) from error


async def _grouped(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    group: list[bytes] = []
    size = 0
    async for chunk in chunks:
        group.append(chunk)
        size += len(chunk)
        del chunk  # only the group keeps it
        if size >= _WRITE_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


async def _call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return await in_thread(function, *args, **kwargs)
    except OSError as error:
        raise unavailable(error) from error
