"""A health check: the server is not ready while the disk of the output is nearly full."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import msgspec

from helios_core import (
    API_LEVEL,
    Backends,
    BackendUnavailable,
    HealthExtension,
    hookimpl,
    in_thread,
)


class DiskSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which disk is looked at, and how much of it must be free."""

    folder: Annotated[Path, msgspec.Meta(extra={"setting": "HFS_BULK_EXPORT_OUTPUT_DIR"})] = Path()
    min_free: Annotated[
        int, msgspec.Meta(ge=0, title="bytes", description="Free space that the server needs")
    ] = 1024**3


@asynccontextmanager
async def open_checks(
    settings: DiskSettings, _backends: Backends
) -> AsyncIterator[Mapping[str, Callable[[], Awaitable[None]]]]:
    """Yield the checks by name."""

    async def space() -> None:
        usage = await in_thread(shutil.disk_usage, settings.folder)
        if usage.free < settings.min_free:
            raise BackendUnavailable(
                f"only {usage.free:,} bytes are free in {settings.folder}; HFS_DISK_MIN_FREE "
                f"wants {settings.min_free:,}"
            )

    yield {"space": space}


@hookimpl
def helios_health_checks() -> HealthExtension:
    """Offer the check `disk/space`."""
    return HealthExtension(api_level=API_LEVEL, settings=DiskSettings, open=open_checks)
