"""The manifest of any Bulk Data server, and the files it names."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from helios_core.client.errors import ExportFailed


class ManifestEntry(msgspec.Struct, frozen=True):
    """One file that a manifest lists."""

    url: str
    type: str = ""
    count: int | None = None
    extension: Any = None
    """A JSON object, or FHIR Extensions from version 4 on."""


class ReceivedManifest(msgspec.Struct, frozen=True, rename="camel"):
    """A manifest as any server may write it (Bulk Data 2.0.0 to 4.0.0-ballot)."""

    transaction_time: str
    requires_access_token: bool = False
    output: Sequence[ManifestEntry] = ()
    deleted: Sequence[ManifestEntry] = ()
    error: Sequence[ManifestEntry] = ()
    outcome: Sequence[ManifestEntry] = ()
    output_organized_by: str | None = None
    link: Sequence[Any] = ()
    extension: Any = None
    """As in `ManifestEntry`."""

    @property
    def entries(self) -> list[tuple[str, ManifestEntry]]:
        """All files, each with the name of its list."""
        names = ("output", "deleted", "error", "outcome")
        lists: dict[str, Sequence[ManifestEntry]] = {name: getattr(self, name) for name in names}
        return [(kind, entry) for kind, entries in lists.items() for entry in entries]


class PlannedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file to download, and its path on disk."""

    kind: str
    """`output`, `deleted`, `error` or, from version 4 on, `outcome`."""
    entry: ManifestEntry
    path: Path


def read_manifest(sent: bytes) -> ReceivedManifest:
    """
    Parse the manifest that a server sent.

    Raises:
        ExportFailed: It is not a manifest.
    """
    try:
        return msgspec.json.decode(sent, type=ReceivedManifest)
    except msgspec.DecodeError as error:
        raise ExportFailed(f"the server's manifest cannot be read: {error}") from error


def plan_files(manifest: ReceivedManifest, folder: Path) -> list[PlannedFile]:
    """Name every file after the last segment of its URL; a number makes equal names different."""
    taken: set[str] = {"manifest.json"}
    planned = []
    for number, (kind, entry) in enumerate(manifest.entries, start=1):
        name = _name(entry) or f"{kind}-{number}.ndjson"
        while name in taken:
            name = f"{number}-{name}"
        taken.add(name)
        planned.append(PlannedFile(kind=kind, entry=entry, path=folder / name))
    return planned


def _name(entry: ManifestEntry) -> str:
    segment = unquote(urlsplit(entry.url).path.rsplit("/", 1)[-1])
    # A name that the server chooses must not lead out of the folder.
    return re.sub(r"[^A-Za-z0-9._-]", "_", segment).lstrip(".").removesuffix(".gz")[-200:]
