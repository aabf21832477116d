"""Blocking operations on files, to be called from a thread."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import xxhash

from helios_core import StoredPart
from helios_localfs.layout import draft_path

READ_BYTES = 1024 * 1024
"""The bytes of one read: many enough to pay for a thread switch, few enough to keep in memory."""
_SWEEPS = 10


class PartWriter:
    """Writes one part to a draft, and renames the draft when it is complete and durable."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._leftover: Path | None = None
        self._descriptor: int | None = None
        self._size = 0
        self._digest = xxhash.xxh3_128()

    def open(self) -> None:
        """Create the draft, and the folders that it is in."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = draft_path(self._path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(draft, flags, 0o600)
        self._leftover = draft

    def write(self, chunks: Iterable[bytes]) -> None:
        """Append chunks to the draft."""
        if self._descriptor is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), str(self._path))
        for chunk in chunks:
            self._digest.update(chunk)
            self._size += len(chunk)
            rest = memoryview(chunk)
            with _naming(self._path):
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]

    def finish(self, *, above: bool) -> StoredPart:
        """
        Make the draft durable, then visible under its name.

        With `above`, the names of the job's and the tenant's folder are made durable as well: they
        may be new, created here or by another process that has not called fsync yet.
        """
        with _naming(self._path):
            if self._descriptor is not None:
                os.fsync(self._descriptor)
            self._close()
        draft_path(self._path).replace(self._path)
        self._leftover = self._path
        for folder in self._path.parents[: 3 if above else 1]:
            sync_folder(folder)
        return StoredPart(size=self._size, digest=self._digest.hexdigest())

    def abandon(self) -> None:
        """Remove the part, whether it is finished or still a draft."""
        try:
            self._close()
            if self._leftover is not None:
                self._leftover.unlink(missing_ok=True)
        except OSError as error:
            # The error of the caller matters more, and `delete` removes the file with its job.
            structlog.get_logger().warning("output.leftover", path=error.filename)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class PartReader:
    """Reads one part; once open, it can be read even if the file is removed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def open(self) -> None:
        """Open the file, and advise the kernel that it will be read sequentially."""
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def read(self, size: int, *, start: int) -> bytes:
        """Return up to `size` bytes from the offset `start`; none at the end of the file."""
        if self._descriptor is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), str(self._path))
        with _naming(self._path):
            return os.pread(self._descriptor, size, start)

    def close(self) -> None:
        """Close the file if it is open."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def remove_part(path: Path) -> None:
    """Remove a part and its draft, if they exist."""
    path.unlink(missing_ok=True)
    draft_path(path).unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """
    Remove a folder of files durably; do nothing if it does not exist.

    A writer that does not know of the removal may add a file between listing and removing the
    folder, so several attempts are made.

    Raises:
        OSError: The folder still holds files after the last attempt, or cannot be removed.
    """
    for _ in range(_SWEEPS):
        try:
            for entry in list(folder.iterdir()):
                entry.unlink(missing_ok=True)
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
        else:
            sync_folder(folder.parent)
            return
    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(folder))


def sync_folder(folder: Path) -> None:
    """Make the directory entries of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _naming(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the path to an OSError of a file descriptor, which has none; it is logged."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
