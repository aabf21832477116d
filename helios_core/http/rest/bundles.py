"""The route of batch and transaction Bundles."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeAlias

import msgspec
from litestar import Response, post
from litestar.handlers import HTTPRouteHandler
from msgspec import structs

from helios_core.errors import HeliosError, InvalidResource, TooCostly
from helios_core.fhir.bundles import ParsedEntry, parse_bundle
from helios_core.fhir.instants import format_instant
from helios_core.fhir.outcomes import outcome_line
from helios_core.fhir.preferences import ReturnPreference
from helios_core.http.callers import Guard
from helios_core.http.errors import outcome_for, reason_phrase, status_for
from helios_core.http.ranges import is_not_modified
from helios_core.http.requests import (
    HTTPRequest,
    json_body,
    preferred_return,
    query_parameters,
    watch_connection,
)
from helios_core.http.responses import (
    BundleEntry,
    BundleResource,
    EntryResponse,
    raw_json,
    resource_response,
    resource_url,
    version_etag,
)
from helios_core.http.rest.compartments import everything_bundle, types_bundle
from helios_core.http.rest.crud import change_outcome
from helios_core.http.rest.history import history_bundle
from helios_core.http.rest.search import searchset
from helios_core.interactions.bundles import (
    Bundles,
    CompartmentResult,
    EntryResult,
    HistoryResult,
    ResponseBudget,
    TypesResult,
)
from helios_core.interactions.callers import Caller
from helios_core.interactions.changes import CompletedChange
from helios_core.interactions.entries import MetadataRequest
from helios_core.interactions.everything import EverythingPage
from helios_core.interactions.read import require_content
from helios_core.interactions.search import SearchResult
from helios_core.storage.data_provider import ChangeResult, StoredVersion
from helios_core.storage.threads import compute

_PageResult: TypeAlias = (
    SearchResult | CompartmentResult | TypesResult | EverythingPage | HistoryResult
)
"""The results of entries whose resource is a Bundle."""


class BundleLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The maximum size of a batch or transaction, and of its response."""

    entries: int
    response_bytes: int


class BundleRoutes:
    """Performs batches and transactions."""

    def __init__(
        self,
        bundles: Bundles,
        guard: Guard,
        *,
        limits: BundleLimits,
        metadata: Callable[[Caller], Awaitable[bytes]],
    ) -> None:
        self._bundles = bundles
        self._guard = guard
        self._limits = limits
        self._metadata = metadata

    def routes(self) -> list[HTTPRouteHandler]:
        """Return the route of Bundles."""
        return [post("/", status_code=200)(self.perform)]

    async def perform(self, request: HTTPRequest) -> Response[bytes]:
        """Perform the entries of a Bundle, and return a Bundle with the result of each."""
        caller = self._guard.admit(request)
        query_parameters(request)
        preferred = preferred_return(request)
        body = await json_body(request)
        bundle = await compute(len(body), parse_bundle, body, max_entries=self._limits.entries)
        budget = ResponseBudget(self._limits.response_bytes)
        match bundle.type:
            case "transaction":
                results = self._bundles.transaction(caller, bundle.entries, budget)
            case "batch":
                results = self._bundles.batch(caller, bundle.entries, budget)
            case _:
                raise InvalidResource(
                    f"Bundle.type is {bundle.type}; send a batch or a transaction."
                )
        entries = list[bytes]()
        identified = set[str]()
        async with watch_connection(request, budget.abandoned), aclosing(results):
            async for result in results:
                index = len(entries)
                entry = await self._entry(caller, bundle.entries[index], result, preferred)
                entry = _identified(entry, identified)
                encoded = msgspec.json.encode(entry)
                if entry.resource is not None and not budget.take(len(encoded)):
                    encoded = msgspec.json.encode(_too_large(entry, budget.exceeded(), result))
                entries.append(encoded)
        headers = {"Preference-Applied": f"return={preferred}"} if preferred else {}
        return resource_response(
            caller, _bundle(f"{bundle.type}-response", entries), headers=headers
        )

    async def _entry(
        self,
        caller: Caller,
        entry: ParsedEntry,
        result: EntryResult,
        preferred: ReturnPreference | None,
    ) -> BundleEntry:
        if isinstance(result, MetadataRequest):
            rendered = _with_resource(await self._metadata(caller))
        elif isinstance(result, CompletedChange):
            return _change_entry(caller, result, preferred)
        elif isinstance(result, StoredVersion):
            rendered = _read_entry(caller, entry, result)
        else:
            rendered = _other_entry(caller, result)
        # A HEAD is a GET without the body (RFC 9110, section 9.3.2).
        return structs.replace(rendered, resource=None) if entry.method == "HEAD" else rendered


def _identified(entry: BundleEntry, identified: set[str]) -> BundleEntry:
    """Return an entry, without its fullUrl if it has no resource or the fullUrl is a repeat."""
    if entry.full_url is None:
        return entry
    if entry.resource is None or entry.full_url in identified:
        # Links to it would have several targets (FHIR R4, bundle.html, bdl-7 and references).
        return structs.replace(entry, full_url=None)
    identified.add(entry.full_url)
    return entry


def _bundle(type_: str, entries: Sequence[bytes]) -> bytes:
    """Return a Bundle of encoded entries; an empty list is omitted, as FHIR's JSON demands."""
    head = f'{{"resourceType":"Bundle","type":"{type_}"'.encode()
    if not entries:
        return head + b"}"
    return b"".join((head, b',"entry":[', b",".join(entries), b"]}"))


def _with_resource(content: bytes) -> BundleEntry:
    return BundleEntry(resource=raw_json(content), response=EntryResponse(status="200 OK"))


def _read_entry(caller: Caller, entry: ParsedEntry, stored: StoredVersion) -> BundleEntry:
    etag = version_etag(stored.version_id)
    known = entry.if_none_match is not None and is_not_modified([entry.if_none_match], etag)
    return BundleEntry(
        full_url=resource_url(caller, stored.resource_type, stored.id),
        resource=None if known else raw_json(require_content(stored)),
        response=EntryResponse(
            status="304 Not Modified" if known else "200 OK",
            etag=etag,
            last_modified=format_instant(stored.last_updated),
        ),
    )


def _other_entry(caller: Caller, result: HeliosError | _PageResult) -> BundleEntry:
    if isinstance(result, HeliosError):
        return BundleEntry(response=_error_response(result))
    return _with_resource(msgspec.json.encode(_page_bundle(caller, result)))


def _page_bundle(caller: Caller, result: _PageResult) -> BundleResource:
    match result:
        case SearchResult():
            return searchset(caller, result)
        case CompartmentResult(request=request, result=search_result):
            return searchset(caller, search_result, path=request.path)
        case TypesResult(request=query, page=types_page):
            return types_bundle(caller, query, types_page)
        case EverythingPage():
            return everything_bundle(caller, result)
        case HistoryResult(request=history, page=page):
            return history_bundle(caller, history.path, history.query, page)


def _too_large(entry: BundleEntry, error: TooCostly, result: EntryResult) -> BundleEntry:
    """Return an entry without its resource, for which the response has no room."""
    if isinstance(result, CompletedChange) and entry.response is not None:
        # The change is already stored, so it is not reported as an error.
        outcome = outcome_line("warning", error.code, str(error))
        response = structs.replace(entry.response, outcome=raw_json(outcome))
        return BundleEntry(response=response)
    return BundleEntry(response=_error_response(error))


def _error_response(error: HeliosError) -> EntryResponse:
    status = status_for(error)
    return EntryResponse(
        status=f"{status} {reason_phrase(status)}", outcome=raw_json(outcome_for(error))
    )


def _change_entry(
    caller: Caller, completed: CompletedChange, preferred: ReturnPreference | None
) -> BundleEntry:
    """Return the entry of a change; it has the resource only if the client prefers that."""
    response = _change_response(caller, completed)
    match preferred:
        case ReturnPreference.REPRESENTATION:
            return BundleEntry(
                full_url=resource_url(caller, completed.resource_type, completed.id),
                resource=raw_json(completed.content()),
                response=response,
            )
        case ReturnPreference.OPERATION_OUTCOME:
            outcome = raw_json(change_outcome(completed))
            return BundleEntry(response=structs.replace(response, outcome=outcome))
    return BundleEntry(response=response)


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
