"""The manifest of an export, rendered anew from its published parts at every poll."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from helios_core.errors import PartNotFound
from helios_core.fhir.bulk_data import Guide
from helios_core.fhir.instants import format_instant
from helios_core.http.bulk.file_urls import FileURLSigner, PartURLs
from helios_core.model import completeness
from helios_core.model.jobs import Job
from helios_core.model.parts import Part, PartKey, PartKind

Extensions: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""Extensions of a manifest: members of an object, or FHIR Extensions from version 4 on."""


class ManifestFile(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One entry of a manifest's lists; which members it has depends on the guide's version."""

    type: str | UnsetType = UNSET
    """Not there where a file holds resources of several types."""
    url: str
    count: int
    continues_in_file: str | UnsetType = UNSET
    """The file in which the last block of this one goes on."""
    file_size: int | UnsetType = UNSET
    """Bytes of NDJSON, before any compression."""
    extension: Extensions | UnsetType = UNSET


class ManifestLink(msgspec.Struct, frozen=True, kw_only=True):
    """Where the manifest goes on."""

    relation: str = "next"
    url: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer to a poll of a finished job (Bulk Data 2.0.0, Complete Status)."""

    manifest_type: str | UnsetType = UNSET
    transaction_time: str
    request: str | UnsetType = UNSET
    requires_access_token: bool
    output_format: str | UnsetType = UNSET
    output_organized_by: str | UnsetType = UNSET
    output: list[ManifestFile]
    deleted: list[ManifestFile]
    error: list[ManifestFile] | UnsetType = UNSET
    outcome: list[ManifestFile] | UnsetType = UNSET
    link: list[ManifestLink] | UnsetType = UNSET
    extension: Extensions | UnsetType = UNSET


PARTS_PER_PAGE: Final = 10
"""How many files a page of a manifest has that may be shown before the export is complete."""


class ManifestPage(msgspec.Struct, frozen=True, kw_only=True):
    """The parts one manifest shows, and where the next ones are."""

    parts: Sequence[Part]
    next: int | None = None
    """The number of the next page, None where there is none yet, or none at all."""

    @property
    def keys(self) -> list[PartKey]:
        """Every part that is named, that in which the last one goes on included."""
        named = [part.key for part in self.parts]
        return list(
            dict.fromkeys(named + [next_part_key(p.key) for p in self.parts if p.continues])
        )


class ManifestRenderer:
    """Gives manifests as one version of the guide has them, their files as links have them."""

    def __init__(self, guide: Guide, links: FileURLSigner) -> None:
        self._guide = guide
        self._links = links

    async def page(self, job: Job, parts: Sequence[Part], number: int, *, base: str) -> bytes:
        """
        Give a page as JSON, empty while it cannot be told what will be on it.

        Raises:
            PartNotFound: There will never be a page of that number.
            BackendUnavailable: Its links cannot be signed.
        """
        page = manifest_page(job, parts, number)
        if page is None:
            return b""
        addresses = await self._links.to(page.keys, base)
        manifest = render_manifest(job, page, guide=self._guide, base=base, addresses=addresses)
        return msgspec.json.encode(manifest)


def manifest_page(job: Job, parts: Sequence[Part], number: int) -> ManifestPage | None:
    """
    Give a page of the manifest, or None while it cannot be told what will be on it.

    Pages of a client that takes partial manifests are filled with the parts in the order of their
    publication, and shown when they are full or the export is complete. As parts are only ever
    added behind the others, a page that was shown stays what it is, but for the link to the next.

    Raises:
        PartNotFound: There will never be a page of that number.
    """
    size = PARTS_PER_PAGE if job.request.partial_manifests else max(len(parts), 1)
    ordered = sorted(parts, key=lambda part: part.published) if size < len(parts) else parts
    chosen = ordered[(number - 1) * size : number * size]
    if job.status.active:
        full = job.request.partial_manifests and len(chosen) == size
        if not full:
            return None
    elif number > 1 and not chosen:
        raise PartNotFound("The manifest has fewer pages; follow its links from the first one on.")
    more = len(parts) > number * size
    return ManifestPage(parts=chosen, next=number + 1 if more else None)


def next_part_key(key: PartKey) -> PartKey:
    """Give the next part of the same shard and kind."""
    return msgspec.structs.replace(key, number=key.number + 1)


def render_manifest(
    job: Job,
    page: ManifestPage,
    *,
    guide: Guide,
    base: str,
    addresses: PartURLs,
) -> Manifest:
    """
    Give a manifest as seen through a base URL (Bulk Data 2.0.0, Output Manifest).

    `addresses` has those of all the page's `keys`.
    """
    request = job.request
    rendering = _Rendering(guide, addresses.of, organized_by=request.organize_by)
    lists = {
        guide.problems: rendering.files(page, PartKind.ERROR, proven=request.partial_manifests)
    }
    status_url = f"{base}/export-status/{job.id}"
    return Manifest(
        manifest_type=guide.manifest_type or UNSET,
        transaction_time=format_instant(job.transaction_time),
        request=request.url if guide.shows_request else UNSET,
        requires_access_token=addresses.require_access_token,
        output_format=guide.output_format or UNSET,
        output_organized_by=request.organize_by or UNSET,
        output=rendering.files(page, PartKind.OUTPUT, proven=request.partial_manifests),
        deleted=rendering.files(page, PartKind.DELETED, proven=request.partial_manifests),
        link=[ManifestLink(url=f"{status_url}?page={page.next}")] if page.next else UNSET,
        # What is the same on every page cannot hold what is only known in the end.
        extension=UNSET if request.partial_manifests else rendering.proof(page),
        **lists,
    )


class _Rendering:
    """Parts as a version of the guide shows them."""

    def __init__(
        self, guide: Guide, urls: Mapping[PartKey, str], *, organized_by: str | None
    ) -> None:
        self._guide = guide
        self._urls = urls
        self._organized_by = organized_by

    def files(self, page: ManifestPage, kind: PartKind, *, proven: bool) -> list[ManifestFile]:
        return [self._file(part, proven=proven) for part in page.parts if part.key.kind is kind]

    def _file(self, part: Part, *, proven: bool) -> ManifestFile:
        key = part.key
        return ManifestFile(
            type=part.manifest_type if self._typed(key.kind) else UNSET,
            url=self._urls[key],
            count=part.count,
            continues_in_file=self._urls[next_part_key(key)] if part.continues else UNSET,
            file_size=part.plain_size if self._guide.shows_sizes else UNSET,
            extension=self._tally(part) if proven else UNSET,
        )

    def _typed(self, kind: PartKind) -> bool:
        if kind is PartKind.OUTPUT:
            return self._organized_by is None
        return self._guide.typed_problems

    def _tally(self, part: Part) -> Extensions | msgspec.UnsetType:
        if part.digest_sum is None:
            return UNSET
        tally = completeness.part_tally(part)
        if self._guide.lists_extensions:
            return [_extension(completeness.KEY, _members(tally))]
        return {completeness.KEY: tally}

    def proof(self, page: ManifestPage) -> Extensions | msgspec.UnsetType:
        """Give what all the parts add up to, unless one of them is older than the proof."""
        if any(part.digest_sum is None for part in page.parts):
            return UNSET
        names = {PartKind.ERROR: self._guide.problems}
        totals = completeness.add_up(
            (
                names.get(part.key.kind, part.key.kind.value),
                self._group(part),
                completeness.part_tally(part),
            )
            for part in page.parts
        )
        if not self._guide.lists_extensions:
            return {completeness.KEY: {"algorithm": completeness.ALGORITHM, **totals}}
        return [
            _extension(
                completeness.KEY,
                [
                    {"url": "list", "valueCode": kind},
                    {"url": "type", "valueCode": resource_type},
                    *_members(tally),
                ],
            )
            for kind, types in totals.items()
            for resource_type, tally in types.items()
        ]

    def _group(self, part: Part) -> str:
        """Give under which type a part counts: that which heads its blocks where it has any."""
        if part.key.kind is PartKind.OUTPUT and self._organized_by is not None:
            return self._organized_by
        return part.manifest_type


def _members(tally: completeness.Tally) -> list[dict[str, Any]]:
    return [
        {"url": "count", "valueDecimal": tally.count},
        {"url": "bytes", "valueDecimal": tally.bytes},
        {"url": "digest", "valueString": tally.digest},
    ]


def _extension(url: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"url": url, "extension": parts}
