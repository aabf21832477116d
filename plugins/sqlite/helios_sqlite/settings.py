"""The settings of SQLite."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec

from helios_core import ConfigurationError


class Synchronous(StrEnum):
    """What a commit waits for (https://sqlite.org/pragma.html#pragma_synchronous)."""

    FULL = "full"
    """The disk: a committed change survives a power cut."""
    NORMAL = "normal"
    """The operating system: a power cut may undo the last commits, but corrupts nothing."""


class SQLiteSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The path of the database, and how it is written."""

    database_url: Annotated[
        str | None,
        msgspec.Meta(
            title="path or sqlite:///path",
            description=(
                "Database file; three slashes are followed by a relative path, four by an"
                " absolute one. helios.db in HFS_DATA_DIR when unset"
            ),
            extra={"setting": "HFS_DATABASE_URL"},
        ),
    ] = None
    data_dir: Annotated[
        str,
        msgspec.Meta(
            title="path",
            description="Folder of everything the server keeps on disk",
            extra={"setting": "HFS_DATA_DIR"},
        ),
    ] = "./data"
    synchronous: Annotated[
        Synchronous,
        msgspec.Meta(
            description=(
                "Whether a commit waits for the disk (full), or may be lost in a power cut"
                " (normal)"
            ),
        ),
    ] = Synchronous.FULL
    busy_timeout: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            title="seconds",
            description="How long a write waits for the writes of other processes",
        ),
    ] = 30.0

    @property
    def patience_ms(self) -> int:
        """The busy timeout in milliseconds."""
        return int(self.busy_timeout * 1000)

    @property
    def path(self) -> Path:
        """
        The absolute path of the database file.

        Raises:
            ConfigurationError: `database_url` is of another database, or names no file.
        """
        url = self.database_url or str(Path(self.data_dir) / "helios.db")
        scheme, colon, rest = url.partition("://")
        if not colon:
            return _file(url, url)
        if scheme != "sqlite":
            raise ConfigurationError(
                f"HFS_DATABASE_URL starts with {scheme}://, which plugin sqlite cannot use;"
                " set it to a path or sqlite:///path, or select the plugin of that database"
            )
        return _file(rest.removeprefix("/"), url)


def _file(name: str, url: str) -> Path:
    if not name or name.startswith(":memory:"):
        raise ConfigurationError(
            f"HFS_DATABASE_URL is {url!r}, which names no file; set it to a path that other"
            " processes can open, such as data/helios.db"
        )
    return Path(name).expanduser().absolute()
