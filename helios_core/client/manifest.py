"""The manifest of any Bulk Data server, and the files it names."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from helios_core.client.errors import ExportFailed


class ManifestEntry(msgspec.Struct, frozen=True):
    """One file of a manifest."""

    url: str
    type: str = ""
    count: int | None = None
    extension: Any = None
    """An object of members, or FHIR Extensions from version 4 on."""


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
    """As in an entry."""

    @property
    def entries(self) -> list[tuple[str, ManifestEntry]]:
        """All the files, each with the list it is in."""
        names = ("output", "deleted", "error", "outcome")
        lists: dict[str, Sequence[ManifestEntry]] = {each: getattr(self, each) for each in names}
        return [(kind, entry) for kind, entries in lists.items() for entry in entries]


class PlannedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file to fetch, and where it goes."""

    kind: str
    """`output`, `deleted`, `error` or, from version 4 on, `outcome`."""
    entry: ManifestEntry
    path: Path


def read_manifest(sent: bytes) -> ReceivedManifest:
    """
    Read what a server sent as the manifest.

    Raises:
        ExportFailed: It is none.
    """
    try:
        return msgspec.json.decode(sent, type=ReceivedManifest)
    except msgspec.DecodeError as error:
        raise ExportFailed(f"the server's manifest cannot be read: {error}") from error


def plan_files(manifest: ReceivedManifest, folder: Path) -> list[PlannedFile]:
    """Name every file after its URL's last segment, and make equal names different."""
    taken: set[str] = {"manifest.json"}
    wanted = []
    for number, (kind, entry) in enumerate(manifest.entries, start=1):
        name = _name(entry) or f"{kind}-{number}.ndjson"
        while name in taken:
            name = f"{number}-{name}"
        taken.add(name)
        wanted.append(PlannedFile(kind=kind, entry=entry, path=folder / name))
    return wanted


def _name(entry: ManifestEntry) -> str:
    segment = unquote(urlsplit(entry.url).path.rsplit("/", 1)[-1])
    # What the server calls a file must not choose another folder of ours.
    return re.sub(r"[^A-Za-z0-9._-]", "_", segment).lstrip(".").removesuffix(".gz")[-200:]
