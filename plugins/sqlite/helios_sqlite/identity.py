"""Detection of an open database file that was removed or replaced."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog

from helios_core import StoreReplaced, in_thread

log = structlog.stdlib.get_logger()

CHECK_SECONDS = 1.0
"""How often the files are checked while nothing is written."""

_SUFFIXES = ("", "-wal", "-shm")

_Identity = tuple[int, int] | None


class FileIdentity:
    """
    The identity (device and inode) of a database's files since it was opened.

    A process keeps a removed or replaced file open, and everything written to it is lost when the
    process ends. SQLite keeps the `-wal` and `-shm` files while any process has the database open,
    so they must remain the same, too.
    """

    def __init__(self, path: Path, holds: str) -> None:
        self._paths = [path.with_name(path.name + suffix) for suffix in _SUFFIXES]
        self._holds = holds
        self._opened: list[_Identity] = []
        self.replaced = False
        """Whether the files had been replaced at the last check."""

    def record(self) -> None:
        """Record the files that were just opened."""
        self._opened = self._now()

    def check(self) -> None:
        """
        Check that the files at the path are those that were opened.

        Raises:
            StoreReplaced: They are not.
        """
        changed = [
            path
            for path, opened, now in zip(self._paths, self._opened, self._now(), strict=True)
            if opened is not None and opened != now
        ]
        if changed and not self.replaced:
            log.error("database.replaced", file=changed[0].name, holds=self._holds)
        self.replaced = bool(changed)
        self.refuse_if_replaced()

    def refuse_if_replaced(self) -> None:
        """
        Raise an error if the last check failed.

        Raises:
            StoreReplaced: The files were removed or replaced.
        """
        if self.replaced:
            raise StoreReplaced(
                f"the database file with the {self._holds} was removed or replaced while it was"
                " open, so that writes would be lost; put the file back, or restart the server"
            )

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Check the files every `CHECK_SECONDS` until the context ends."""
        watching = asyncio.ensure_future(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            with suppress(StoreReplaced):
                await in_thread(self.check)

    def _now(self) -> list[_Identity]:
        return [_identity(path) for path in self._paths]


def _identity(path: Path) -> _Identity:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
