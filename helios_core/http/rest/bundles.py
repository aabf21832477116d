"""The route of batch and transaction Bundles."""

from collections.abc import Sequence
from typing import Final

import msgspec
from litestar import Response, post
from litestar.handlers import HTTPRouteHandler

from helios_core.errors import HeliosError, InvalidResource
from helios_core.fhir.bundles import parse_bundle
from helios_core.fhir.instants import format_instant
from helios_core.http.callers import Guard
from helios_core.http.errors import outcome_for, reason_phrase, status_for
from helios_core.http.requests import HTTPRequest, json_body, query_parameters
from helios_core.http.responses import (
    BundleEntry,
    BundleResource,
    EntryResponse,
    bundle_response,
    raw_json,
    resource_url,
    version_etag,
)
from helios_core.http.rest.search import searchset
from helios_core.interactions.bundles import Bundles, EntryResult
from helios_core.interactions.callers import Caller
from helios_core.interactions.changes import CompletedChange
from helios_core.interactions.search import SearchResult
from helios_core.storage.data_provider import ChangeResult, StoredVersion
from helios_core.storage.threads import compute

MAX_ENTRIES: Final = 10_000
"""Entries of a batch or transaction; each takes about a millisecond."""


class BundleRoutes:
    """Performs batches and transactions."""

    def __init__(self, bundles: Bundles, guard: Guard) -> None:
        self._bundles = bundles
        self._guard = guard

    def routes(self) -> list[HTTPRouteHandler]:
        """Return the route of Bundles."""
        return [post("/", status_code=200)(self.perform)]

    async def perform(self, request: HTTPRequest) -> Response[bytes]:
        """Perform a Bundle's entries and return a Bundle with what became of each."""
        caller = self._guard.admit(request)
        query_parameters(request)
        body = await json_body(request)
        bundle = await compute(len(body), parse_bundle, body, max_entries=MAX_ENTRIES)
        match bundle.type:
            case "transaction":
                results = await self._bundles.transaction(caller, bundle.entries)
            case "batch":
                results = await self._bundles.batch(caller, bundle.entries)
            case _:
                raise InvalidResource(
                    f"Bundle.type is {bundle.type}; send a batch or a transaction."
                )
        return await compute(len(body), _response, caller, bundle.type, results)


def _response(caller: Caller, bundle_type: str, results: Sequence[EntryResult]) -> Response[bytes]:
    entries = tuple(_entry(caller, result) for result in results)
    return bundle_response(caller, BundleResource(type=f"{bundle_type}-response", entry=entries))


def _entry(caller: Caller, result: EntryResult) -> BundleEntry:
    match result:
        case HeliosError():
            return BundleEntry(response=_error_response(result))
        case CompletedChange():
            return BundleEntry(response=_change_response(caller, result))
        case SearchResult():
            return BundleEntry(
                resource=raw_json(msgspec.json.encode(searchset(caller, result))),
                response=EntryResponse(status="200 OK"),
            )
        case StoredVersion():
            return BundleEntry(
                resource=raw_json(result.content),
                response=EntryResponse(
                    status="200 OK",
                    etag=version_etag(result.version_id),
                    last_modified=format_instant(result.last_updated),
                ),
            )


def _error_response(error: HeliosError) -> EntryResponse:
    status = status_for(error)
    return EntryResponse(
        status=f"{status} {reason_phrase(status)}", outcome=raw_json(outcome_for(error))
    )


def _change_response(caller: Caller, completed: CompletedChange) -> EntryResponse:
    etag = version_etag(completed.version_id) if completed.version_id else None
    instant = completed.last_updated
    last_modified = None if instant is None else format_instant(instant)
    if completed.outcome in (ChangeResult.DELETED, ChangeResult.ABSENT):
        return EntryResponse(status="204 No Content", etag=etag, last_modified=last_modified)
    location = resource_url(caller, completed.resource_type, completed.id)
    return EntryResponse(
        status="201 Created" if completed.outcome is ChangeResult.CREATED else "200 OK",
        location=f"{location}/_history/{completed.version_id}",
        etag=etag,
        last_modified=last_modified,
    )
