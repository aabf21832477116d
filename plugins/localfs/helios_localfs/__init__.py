"""Export output as files in a local folder."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import msgspec

from helios_core import API_LEVEL, Backend, OutputStore, Reach, hookimpl
from helios_localfs.store import LocalOutputStore

__all__ = ["LocalFSSettings", "LocalOutputStore", "helios_output_store"]


class LocalFSSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the files go; both settings are shared with the core."""

    output_dir: Annotated[
        str | None,
        msgspec.Meta(
            title="path",
            description="Folder of the export output, exports in HFS_DATA_DIR when unset",
            extra={"setting": "HFS_BULK_EXPORT_OUTPUT_DIR"},
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

    @property
    def root(self) -> Path:
        """The folder that holds one folder per tenant."""
        return Path(self.output_dir or Path(self.data_dir) / "exports").absolute()


@asynccontextmanager
async def _open(settings: LocalFSSettings) -> AsyncIterator[LocalOutputStore]:
    yield LocalOutputStore(settings.root)


@hookimpl
def helios_output_store() -> Backend[OutputStore]:
    """Offer local files as an output store."""
    return Backend(
        api_level=API_LEVEL,
        reach=Reach.MACHINE,
        implementation=LocalOutputStore,
        settings=LocalFSSettings,
        open=_open,
        files=lambda settings: [settings.root],
    )
