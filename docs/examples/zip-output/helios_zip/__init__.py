"""Export output as zip archives, one per part: a complete output store in one file."""

import os
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Annotated, ParamSpec, TypeVar
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

import msgspec

from helios_core import (
    API_LEVEL,
    Backend,
    BackendUnavailable,
    ConfigurationError,
    OutputStore,
    PartKey,
    PartMissing,
    Reach,
    StoredPart,
    hookimpl,
    in_thread,
)

CHUNK_BYTES = 1024 * 1024

P = ParamSpec("P")
T = TypeVar("T")


class ZipSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the archives go and how strongly they are compressed."""

    output_dir: Annotated[
        str, msgspec.Meta(title="path", description="Folder of the archives")
    ] = "./data/zip"
    level: Annotated[
        int, msgspec.Meta(ge=1, le=9, title="level", description="From 1, fast, to 9, small")
    ] = 1


class ZipOutputStore(OutputStore):
    """Keeps each part as the only member of an archive, {root}/{tenant}/{job}/{part}.zip."""

    def __init__(self, root: Path, *, level: int) -> None:
        self._root = root
        self._level = level

    async def bind(self, owner: str) -> None:
        """Create the folder and mark it, or refuse one that is not `owner`'s."""
        try:
            found = await in_thread(_mark, self._root, owner)
        except OSError as error:
            raise ConfigurationError(
                f"{self._root} cannot be written: {error.strerror}; set HFS_ZIP_OUTPUT_DIR"
            ) from error
        if found != owner:
            raise ConfigurationError(
                f"{self._root} belongs to {found}, not to {owner}; set HFS_ZIP_OUTPUT_DIR"
            )

    async def put(self, key: PartKey, chunks: AsyncIterator[bytes]) -> StoredPart:
        """Write an archive under a draft name, and rename it when it is complete and durable."""
        draft = _Draft(self._path(key), key.name, level=self._level)
        try:
            await _call(draft.open)
            async for chunk in chunks:
                await _call(draft.write, chunk)
            return await _call(draft.finish)
        except BaseException:
            await in_thread(draft.abandon)
            raise

    async def read(
        self, key: PartKey, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """Stream a range of the archive's member."""
        with ExitStack() as opened:
            member = await _call(_member, opened, self._path(key), key.name)
            await _call(member.seek, start)
            while end is None or start < end:
                size = CHUNK_BYTES if end is None else min(CHUNK_BYTES, end - start)
                chunk = await _call(member.read, size)
                if not chunk:
                    return
                yield chunk
                start += len(chunk)

    async def discard(self, key: PartKey) -> None:
        """Remove one archive."""
        await _call(self._path(key).unlink, missing_ok=True)

    async def delete(self, tenant: str, job_id: str) -> None:
        """Remove the job's folder."""
        await _call(_remove, self._root / tenant / job_id)

    async def jobs(self) -> AsyncIterator[tuple[str, str]]:
        """Yield tenant and job of every job folder."""
        for folder in await _call(sorted, self._root.glob("*/*/")):
            yield folder.parent.name, folder.name

    def _path(self, key: PartKey) -> Path:
        shard = f"{key.kind}-{key.resource_type}-{key.ordinal}-{key.number}"
        return self._root / key.tenant / key.job_id / f"{shard}-{key.token}.zip"


class _Draft:
    """An archive that is being written, and the steps that undo it."""

    def __init__(self, path: Path, name: str, *, level: int) -> None:
        self._path = path
        self._draft = path.with_suffix(".tmp")
        self._name = name
        self._level = level
        self._undo = ExitStack()
        self._size = 0
        self._digest = sha256()

    def open(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = self._undo.enter_context(self._draft.open("xb"))
        self._undo.callback(self._draft.unlink, missing_ok=True)
        archive = ZipFile(self._file, "w", ZIP_DEFLATED, compresslevel=self._level)
        self._archive = self._undo.enter_context(archive)
        member = archive.open(self._name, "w", force_zip64=True)
        self._member = self._undo.enter_context(member)

    def write(self, chunk: bytes) -> None:
        self._member.write(chunk)
        self._digest.update(chunk)
        self._size += len(chunk)

    def finish(self) -> StoredPart:
        self._member.close()
        self._archive.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._draft.replace(self._path)
        self._undo.callback(self._path.unlink, missing_ok=True)
        for folder in self._path.parents[:3]:
            _sync(folder)
        return StoredPart(size=self._size, digest=self._digest.hexdigest())

    def abandon(self) -> None:
        with suppress(OSError):
            self._undo.close()


def _member(opened: ExitStack, path: Path, name: str) -> IO[bytes]:
    try:
        archive = opened.enter_context(ZipFile(path))
    except FileNotFoundError as error:
        raise PartMissing(f"{name} is gone; start the export again") from error
    return opened.enter_context(archive.open(name))


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
        _sync(folder.parent)
    except FileNotFoundError:
        if folder.exists():
            raise


def _mark(root: Path, owner: str) -> str:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    proposal = root / f".owner.{uuid.uuid4().hex}"
    proposal.write_text(owner, encoding="utf-8")
    try:
        os.link(proposal, root / ".owner")
    except FileExistsError:
        return (root / ".owner").read_text(encoding="utf-8")
    finally:
        proposal.unlink()
    _sync(root)
    return owner


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return await in_thread(function, *args, **kwargs)
    except PartMissing:
        raise
    except OSError as error:
        raise BackendUnavailable(f"the archive folder fails: {error.strerror}") from error
    except BadZipFile as error:
        raise BackendUnavailable(f"an archive is damaged: {error}") from error


@asynccontextmanager
async def _open(settings: ZipSettings) -> AsyncIterator[ZipOutputStore]:
    yield ZipOutputStore(Path(settings.output_dir), level=settings.level)


@hookimpl
def helios_output_store() -> Backend[OutputStore]:
    """Offer zip archives as an output store."""
    return Backend(
        api_level=API_LEVEL,
        reach=Reach.MACHINE,
        implementation=ZipOutputStore,
        settings=ZipSettings,
        open=_open,
    )
