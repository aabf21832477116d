"""The manifest of an export (Bulk Data 2.0.0, Response - Output Manifest)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from helios_core.errors import PartNotFound
from helios_core.fhir.bulk_data import Guide
from helios_core.fhir.instants import format_instant
from helios_core.http.bulk.file_urls import FileURLs, FileURLSigner
from helios_core.model import completeness
from helios_core.model.jobs import Job
from helios_core.model.parts import Part, PartKey, PartKind

Extensions: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""Extensions of a manifest: members of an object, or FHIR Extensions from version 4 on."""

PARTS_PER_PAGE: Final = 10
"""Maximum number of files on a page of a partial manifest."""


class ManifestFile(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A file in one of the manifest's lists; its members depend on the guide's version."""

    type: str | UnsetType = UNSET
    """Absent if the file holds resources of several types."""
    url: str
    count: int
    continues_in_file: str | UnsetType = UNSET
    """The URL of the file in which the last block of this one continues."""
    file_size: int | UnsetType = UNSET
    """Bytes of NDJSON, before any compression."""
    extension: Extensions | UnsetType = UNSET


class ManifestLink(msgspec.Struct, frozen=True, kw_only=True):
    """The link to the next page of a manifest."""

    relation: str = "next"
    url: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A page of a manifest as it is sent; its members depend on the guide's version."""

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


class ManifestRenderer:
    """Renders manifests as one version of the guide defines them."""

    def __init__(self, guide: Guide, signer: FileURLSigner) -> None:
        self._guide = guide
        self._signer = signer

    async def page(
        self, job: Job, parts: Sequence[Part], number: int, *, base: str
    ) -> bytes | None:
        """
        Return a page of the manifest as JSON, or None while its content is not final.

        Args:
            job: The export.
            parts: All its published parts.
            number: The number of the page, from 1.
            base: The base URL of this server, as the client knows it.

        Raises:
            PartNotFound: The manifest will never have a page of that number.
            BackendUnavailable: The URLs of its files cannot be signed.
        """
        page = _select_page(job, parts, number)
        if page is None:
            return None
        urls = await self._signer.urls(page.keys, base=base)
        renderer = _PageRenderer(self._guide, job, page, urls)
        return msgspec.json.encode(renderer.manifest(base))


class _Page(msgspec.Struct, frozen=True, kw_only=True):
    parts: Sequence[Part]
    next: int | None = None
    """The number of the next page; None if there is none, or none yet."""

    @property
    def keys(self) -> list[PartKey]:
        """The parts whose URLs are on the page, including where its last part continues."""
        keys = [part.key for part in self.parts]
        continued = [_next_key(part.key) for part in self.parts if part.continues]
        return list(dict.fromkeys(keys + continued))


def _select_page(job: Job, parts: Sequence[Part], number: int) -> _Page | None:
    """
    Return the parts of a page, or None while it is not known which parts it will have.

    With `allowPartialManifests`, pages are filled in the order of publication, and a page is
    visible once it is full or the export is complete. As parts are only ever appended, a visible
    page never changes, except that it gets a link to the next page. Without it there is one page,
    visible once the export is complete.
    """
    size = PARTS_PER_PAGE if job.request.partial_manifests else max(len(parts), 1)
    ordered = sorted(parts, key=lambda part: part.published) if size < len(parts) else parts
    on_page = ordered[(number - 1) * size : number * size]
    if job.status.active:
        full = job.request.partial_manifests and len(on_page) == size
        if not full:
            return None
    elif number > 1 and not on_page:
        raise PartNotFound("The manifest has fewer pages; follow the links from its first page.")
    has_next = len(parts) > number * size
    return _Page(parts=on_page, next=number + 1 if has_next else None)


def _next_key(key: PartKey) -> PartKey:
    """Return the key of the next part of the same shard and kind."""
    return msgspec.structs.replace(key, number=key.number + 1)


class _PageRenderer:
    """Renders a page of one job's manifest."""

    def __init__(self, guide: Guide, job: Job, page: _Page, urls: FileURLs) -> None:
        self._guide = guide
        self._job = job
        self._page = page
        self._urls = urls

    def manifest(self, base: str) -> Manifest:
        guide, request, next_page = self._guide, self._job.request, self._page.next
        next_url = f"{base}/export-status/{self._job.id}?page={next_page}"
        return Manifest(
            manifest_type=guide.manifest_type or UNSET,
            transaction_time=format_instant(self._job.transaction_time),
            request=request.url if guide.shows_request else UNSET,
            requires_access_token=self._urls.require_access_token,
            output_format=guide.output_format or UNSET,
            output_organized_by=request.organize_by or UNSET,
            output=self._files(PartKind.OUTPUT),
            deleted=self._files(PartKind.DELETED),
            link=[ManifestLink(url=next_url)] if next_page else UNSET,
            # The extension is the same on every page, so it cannot have totals that are only known
            # at the end; with partial manifests every file has its own tally instead.
            extension=UNSET if request.partial_manifests else self._totals(),
            **{guide.problems: self._files(PartKind.ERROR)},
        )

    def _files(self, kind: PartKind) -> list[ManifestFile]:
        return [self._file(part) for part in self._page.parts if part.key.kind is kind]

    def _file(self, part: Part) -> ManifestFile:
        urls = self._urls.by_key
        return ManifestFile(
            type=part.manifest_type if self._has_type(part.key.kind) else UNSET,
            url=urls[part.key],
            count=part.count,
            continues_in_file=urls[_next_key(part.key)] if part.continues else UNSET,
            file_size=part.plain_size if self._guide.shows_sizes else UNSET,
            extension=self._tally(part) if self._job.request.partial_manifests else UNSET,
        )

    def _has_type(self, kind: PartKind) -> bool:
        if kind is PartKind.OUTPUT:
            return self._job.request.organize_by is None
        return self._guide.typed_problems

    def _tally(self, part: Part) -> Extensions | UnsetType:
        """Return the completeness of one part, unless it was stored before digests were kept."""
        if part.digest_sum is None:
            return UNSET
        tally = completeness.part_tally(part)
        if self._guide.lists_extensions:
            return [_extension(completeness.KEY, _tally_extensions(tally))]
        return {completeness.KEY: tally}

    def _totals(self) -> Extensions | UnsetType:
        """Return the completeness of all parts, unless one was stored before digests were kept."""
        if any(part.digest_sum is None for part in self._page.parts):
            return UNSET
        totals = completeness.add_up(
            (self._list_name(part), self._total_type(part), completeness.part_tally(part))
            for part in self._page.parts
        )
        if not self._guide.lists_extensions:
            return {completeness.KEY: {"algorithm": completeness.ALGORITHM, **totals}}
        return [
            _extension(
                completeness.KEY,
                [
                    {"url": "list", "valueCode": list_name},
                    {"url": "type", "valueCode": resource_type},
                    *_tally_extensions(tally),
                ],
            )
            for list_name, types in totals.items()
            for resource_type, tally in types.items()
        ]

    def _list_name(self, part: Part) -> str:
        """Return the member of the manifest that lists a part."""
        kind = part.key.kind
        return self._guide.problems if kind is PartKind.ERROR else kind.value

    def _total_type(self, part: Part) -> str:
        """Return the type to which a part counts: that of its block headers, if it has blocks."""
        if part.key.kind is PartKind.OUTPUT and self._job.request.organize_by is not None:
            return self._job.request.organize_by
        return part.manifest_type


def _tally_extensions(tally: completeness.Tally) -> list[dict[str, Any]]:
    return [
        {"url": "count", "valueDecimal": tally.count},
        {"url": "bytes", "valueDecimal": tally.bytes},
        {"url": "digest", "valueString": tally.digest},
    ]


def _extension(url: str, extensions: list[dict[str, Any]]) -> dict[str, Any]:
    return {"url": url, "extension": extensions}
