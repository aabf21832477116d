"""The manifest of any Bulk Data server, and the files it names."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import msgspec

from helios_core.client.documents import decode_json
from helios_core.client.errors import ExportFailed

BLOCK_HEADER = b'{"resourceType":"Parameters"'
"""The start of a block header, which is not a resource (Bulk Data 3.0.0, organizeOutputBy)."""

MANIFEST_NAME = "manifest.json"
"""The name of the file with the manifest in the folder of an export."""

_LISTS = ("output", "deleted", "error", "outcome")


class ManifestEntry(msgspec.Struct, frozen=True):
    """One file that a manifest lists."""

    url: str
    type: str = ""
    count: int | None = None
    file_size: int | None = msgspec.field(default=None, name="fileSize")
    """Bytes of NDJSON, from version 4 on."""
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
    def next_url(self) -> str | None:
        """The URL of the next page of a manifest that is sent in pages, or None."""
        for link in self.link:
            if isinstance(link, dict) and link.get("relation") == "next":
                url = link.get("url")
                return url if isinstance(url, str) else None
        return None

    @property
    def entries(self) -> list[tuple[str, ManifestEntry]]:
        """All files, each with the name of its list."""
        lists: dict[str, Sequence[ManifestEntry]] = {name: getattr(self, name) for name in _LISTS}
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
        ExportFailed: It is not a manifest, or has an invalid URL.
    """
    try:
        manifest = decode_json(sent, ReceivedManifest)
    except msgspec.DecodeError as error:
        raise ExportFailed(f"the server's manifest cannot be read: {error}") from error
    for number, (kind, entry) in enumerate(manifest.entries, start=1):
        if not is_reference(entry.url):
            raise ExportFailed(
                f"entry {number} of the server's manifest ({kind}) has an invalid URL"
            )
    return manifest


def is_reference(url: str) -> bool:
    """Return whether a text is an http or https URL, or a relative one."""
    try:
        parts = urlsplit(url)
        has_port = parts.port != 0
        # A relative URL has no host, and the name of a host may be one that httpx cannot decode.
        has_host = bool(httpx.URL(url).host) or not parts.scheme
    except (ValueError, httpx.InvalidURL):
        return False
    return parts.scheme in ("", "http", "https") and has_port and has_host


def join_pages(pages: Sequence[bytes]) -> bytes:
    """
    Return one manifest for all pages, or the only page as it was sent.

    It has the files of every page, each with its own extension. Extensions of pages are left out,
    because each is about the files of one page only.
    """
    if len(pages) == 1:
        return pages[0]
    first, *others = (msgspec.json.decode(page) for page in pages)
    for name in _LISTS:
        entries = [entry for page in (first, *others) for entry in page.get(name) or ()]
        if entries or name in first:
            first[name] = entries
    del first["link"]
    first.pop("extension", None)
    return msgspec.json.encode(first)


def plan_files(manifest: ReceivedManifest, folder: Path) -> list[PlannedFile]:
    """Name each file after the last segment of its URL; a number is prefixed to repeated names."""
    taken = {MANIFEST_NAME}
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
    # A name chosen by the server must not lead out of the folder.
    return re.sub(r"[^A-Za-z0-9._-]", "_", segment).removesuffix(".gz")[-200:].lstrip(".")
