"""The door of batch and transaction Bundles."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import msgspec
from litestar import Response, post
from litestar.handlers import HTTPRouteHandler

from helios_core.errors import HeliosError, InvalidResource
from helios_core.fhir.bundles import ParsedBundle, ParsedEntry, parse_bundle
from helios_core.fhir.instants import format_instant
from helios_core.fhir.references import conditional_references
from helios_core.http.callers import Guard
from helios_core.http.errors import outcome_for, reason_phrase, status_for
from helios_core.http.requests import HTTPRequest, json_body, query_parameters
from helios_core.http.responses import (
    BundleEntry,
    BundleResource,
    EntryResponse,
    bundle_response,
    raw_json,
    require_content,
    require_found,
    version_etag,
)
from helios_core.http.rest.search import SearchRoutes
from helios_core.interactions.callers import Caller, parse_pairs
from helios_core.interactions.conditions import Conditions
from helios_core.interactions.transactions import (
    ParsedRequest,
    ResolvedReferences,
    check_distinct_targets,
    naming_entry,
    parse_request,
    require_search,
    resolve_request,
    to_change,
)
from helios_core.storage.data_provider import (
    AppliedChange,
    ChangeResult,
    DataProvider,
    StoredVersion,
    SupportsWrites,
)
from helios_core.storage.keys import TypeKey

T = TypeVar("T")

ORDER: Final = ("DELETE", "POST", "PUT", "GET")
"""In which order the entries of a transaction take effect (FHIR R4, http.html#trules)."""


class BundleRoutes:
    """Applies Bundles: a batch entry by entry, a transaction as a whole or not at all."""

    def __init__(
        self,
        provider: DataProvider,
        writer: SupportsWrites,
        guard: Guard,
        *,
        conditions: Conditions | None,
        searching: SearchRoutes | None,
    ) -> None:
        self._provider = provider
        self._writer = writer
        self._guard = guard
        self._conditions = conditions
        self._searching = searching

    def routes(self) -> list[HTTPRouteHandler]:
        """Give the door of Bundles."""
        return [post("/", status_code=200)(self.apply)]

    async def apply(self, request: HTTPRequest) -> Response[bytes]:
        """Apply a Bundle and tell what became of every entry."""
        caller = self._guard.admit(request)
        query_parameters(request)
        bundle = parse_bundle(await json_body(request))
        match bundle.type:
            case "transaction":
                entries = await self._transaction(caller, bundle)
            case "batch":
                entries = [
                    await self._entry(caller, index, entry)
                    for index, entry in enumerate(bundle.entries)
                ]
            case _:
                raise InvalidResource(
                    f"Bundle.type is {bundle.type}; a Bundle to apply is a batch or a transaction."
                )
        answer = BundleResource(type=f"{bundle.type}-response", entry=tuple(entries))
        return bundle_response(caller, answer)

    async def _transaction(self, caller: Caller, bundle: ParsedBundle) -> list[BundleEntry]:
        steps = [parse_request(caller, index, entry) for index, entry in enumerate(bundle.entries)]
        references = find_conditional_references(steps)
        conditional = bool(references) or any(step.conditional for step in steps)
        changed = await self._exactly(
            caller, partial(self._change, caller, steps, references), conditional=conditional
        )
        answers = {step.index: _written(caller, step, done) for step, done in changed if done}
        for step, done in changed:
            if done is None:
                answers[step.index] = await self._told(caller, step)
        return [answers[index] for index in range(len(steps))]

    async def _change(
        self,
        caller: Caller,
        steps: Sequence[ParsedRequest],
        references: Mapping[str, ParsedRequest],
    ) -> list[tuple[ParsedRequest, AppliedChange | None]]:
        """Settle the steps of a transaction and make its changes; give what became of each."""
        steps = [await resolve_request(caller, step, self._conditions) for step in steps]
        check_distinct_targets(steps)
        places = ResolvedReferences(
            temporary=temporary_references(steps),
            conditional=await self._conditional_places(caller, references),
        )
        steps = sorted(steps, key=lambda step: ORDER.index(step.method))
        changes = [to_change(caller, step, places) for step in steps if step.changing]
        applied = iter(await self._writer.write(caller.tenant, caller.fhir_version, changes))
        return [(step, next(applied) if step.changing else None) for step in steps]

    async def _exactly(
        self, caller: Caller, change: Callable[[], Awaitable[T]], *, conditional: bool
    ) -> T:
        """Keep other conditional changes out while one is settled and made."""
        if self._conditions is None or not conditional:
            return await change()
        return await self._conditions.exactly(caller, change)

    async def _conditional_places(
        self, caller: Caller, references: Mapping[str, ParsedRequest]
    ) -> dict[str, str]:
        """
        Give what references that are searches mean (FHIR R4, http.html#trules).

        Raises:
            RequestError: One of them finds nothing, or more than one resource.
        """
        places: dict[str, str] = {}
        for reference, step in references.items():
            resource_type, _, query = reference.partition("?")
            with naming_entry(step):
                criteria = parse_pairs(query, "A conditional reference")
                match = await require_search(self._conditions).match(
                    caller, resource_type, criteria
                )
                if match is None:
                    raise InvalidResource(
                        f"a conditional reference finds no {resource_type}; store it first, or "
                        "refer to it by a urn:uuid in the same transaction."
                    )
            places[reference] = f"{resource_type}/{match.id}"
        return places

    async def _entry(self, caller: Caller, index: int, entry: ParsedEntry) -> BundleEntry:
        """Apply one entry of a batch; what is wrong with it concerns no other."""
        try:
            step = parse_request(caller, index, entry)
            alone = partial(self._alone, caller, step)
            return await self._exactly(caller, alone, conditional=step.conditional)
        except HeliosError as error:
            return _failed(error)

    async def _alone(self, caller: Caller, step: ParsedRequest) -> BundleEntry:
        step = await resolve_request(caller, step, self._conditions)
        if not step.changing:
            return await self._unchanged(caller, step)
        change = to_change(caller, step, None)
        [applied] = await self._writer.write(caller.tenant, caller.fhir_version, [change])
        return _written(caller, step, applied)

    async def _told(self, caller: Caller, step: ParsedRequest) -> BundleEntry:
        """Answer an entry of a transaction that is done: what cannot be read fails alone."""
        try:
            return await self._unchanged(caller, step)
        except HeliosError as error:
            return _failed(error)

    async def _unchanged(self, caller: Caller, step: ParsedRequest) -> BundleEntry:
        """Answer an entry that reads, or whose condition leaves nothing to change."""
        if step.method == "DELETE":
            return BundleEntry(response=EntryResponse(status="204 No Content"))
        if step.match is not None:
            return BundleEntry(response=_response(caller, step.match))
        if step.search is not None and self._searching is not None:
            searchset = await self._searching.searchset(caller, step.search)
            return BundleEntry(
                resource=raw_json(msgspec.json.encode(searchset)),
                response=EntryResponse(status="200 OK"),
            )
        return await self._read(caller, step)

    async def _read(self, caller: Caller, step: ParsedRequest) -> BundleEntry:
        stored = require_found(
            await self._provider.get(TypeKey.of(caller, step.resource_type).resource(step.id))
        )
        return BundleEntry(
            resource=raw_json(require_content(stored)),
            response=EntryResponse(
                status="200 OK",
                etag=version_etag(stored.version_id),
                last_modified=format_instant(stored.last_updated),
            ),
        )


def find_conditional_references(steps: Sequence[ParsedRequest]) -> dict[str, ParsedRequest]:
    """Give the references that are searches, each with an entry that has it."""
    return {
        reference: step
        for step in steps
        if step.method in ("POST", "PUT")
        for reference in conditional_references(step.entry.resource or b"")
    }


def temporary_references(steps: Sequence[ParsedRequest]) -> dict[str, str]:
    """Give what the fullUrl of every entry with a resource stands for."""
    return {
        step.entry.full_url: f"{step.resource_type}/{step.id}"
        for step in steps
        if step.entry.full_url is not None and step.entry.resource is not None
    }


def _failed(error: HeliosError) -> BundleEntry:
    status = status_for(error)
    return BundleEntry(
        response=EntryResponse(
            status=f"{status} {reason_phrase(status)}", outcome=raw_json(outcome_for(error))
        )
    )


def _response(caller: Caller, match: StoredVersion) -> EntryResponse:
    where = f"{match.resource_type}/{match.id}/_history/{match.version_id}"
    return EntryResponse(
        status="200 OK",
        location=f"{caller.base}/{where}",
        etag=version_etag(match.version_id),
        last_modified=format_instant(match.last_updated),
    )


def _written(caller: Caller, step: ParsedRequest, applied: AppliedChange) -> BundleEntry:
    etag = version_etag(applied.version_id) if applied.version_id else None
    instant = None if applied.last_updated is None else format_instant(applied.last_updated)
    if step.method == "DELETE":
        return BundleEntry(
            response=EntryResponse(status="204 No Content", etag=etag, last_modified=instant)
        )
    where = f"{step.resource_type}/{step.id}/_history/{applied.version_id}"
    created = applied.outcome is ChangeResult.CREATED
    return BundleEntry(
        response=EntryResponse(
            status="201 Created" if created else "200 OK",
            location=f"{caller.base}/{where}",
            etag=etag,
            last_modified=instant,
        )
    )
