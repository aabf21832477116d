"""Notice that the files of an open database are no longer those at its path."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog

from helios_core import StoreReplaced, in_thread

log = structlog.stdlib.get_logger()

LOOK_SECONDS = 1.0
"""How often the files are looked at while nothing is written."""

_SUFFIXES = ("", "-wal", "-shm")

_Identity = tuple[int, int] | None


class FileIdentity:
    """
    The identity of the files of one database, from when it was opened.

    A file that was removed or replaced stays where the process has it open, and whatever is
    written to it is gone when the process ends. SQLite keeps the log and its index as long as
    anybody has the database open, so they have to be the same as well.
    """

    def __init__(self, path: Path, holds: str) -> None:
        self._paths = [path.with_name(path.name + suffix) for suffix in _SUFFIXES]
        self._holds = holds
        self._opened: list[_Identity] = []
        self.replaced = False
        """Whether the files were replaced when they were last looked at."""

    def note(self) -> None:
        """Take the files to be those that were just opened."""
        self._opened = self._now()

    def check(self) -> None:
        """
        Look at the files.

        Raises:
            StoreReplaced: They are not those that were opened.
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
        Go by the last look.

        Raises:
            StoreReplaced: The files were not those that were opened.
        """
        if self.replaced:
            raise StoreReplaced(
                f"the database file with the {self._holds} was removed or replaced while it was"
                " open, and what is written to it would be lost; put the file back or restart"
            )

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Look at the files every second for as long as the context lasts."""
        watching = asyncio.ensure_future(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
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
