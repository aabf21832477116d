"""The door of batch and transaction Bundles."""

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import uuid4

import msgspec
from litestar import Response, post
from litestar.handlers import HTTPRouteHandler

from helios_core.data_providers import (
    Applied,
    DataProvider,
    Delete,
    Outcome,
    Put,
    SupportsWrites,
)
from helios_core.errors import (
    HeliosError,
    InvalidRequest,
    InvalidResource,
    RequestError,
    UnsupportedParameter,
)
from helios_core.fhir.bundles import Bundle, Entry, parse_bundle
from helios_core.fhir.instants import format_instant
from helios_core.fhir.references import rewrite
from helios_core.fhir.resources import parse_resource
from helios_core.http.answers import (
    BundleAnswer,
    BundleEntry,
    EntryResponse,
    bundle_answer,
    content_of,
    etag_of,
    found,
    raw,
)
from helios_core.http.guards import (
    Caller,
    Guard,
    Incoming,
    body_of,
    checked_type,
    parameters_of,
)
from helios_core.http.outcomes import outcome_of, reason_of, status_of
from helios_core.http.resources import if_match_of

ORDER: Final = ("DELETE", "POST", "PUT", "GET")
"""In which order the entries of a transaction take effect (FHIR R4, http.html#trules)."""
PLACES: Final = {"POST": 1, "PUT": 2, "DELETE": 2, "GET": 2}
"""How many segments the URL of a request has, by method: the type, and the id."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One entry, understood."""

    index: int
    method: str
    resource_type: str
    id: str
    entry: Entry


class Bundles:
    """Applies Bundles: a batch entry by entry, a transaction as a whole or not at all."""

    def __init__(self, provider: DataProvider, writer: SupportsWrites, guard: Guard) -> None:
        self._provider = provider
        self._writer = writer
        self._guard = guard

    def routes(self) -> list[HTTPRouteHandler]:
        """Give the door of Bundles."""
        return [post("/", status_code=200)(self.apply)]

    async def apply(self, request: Incoming) -> Response[bytes]:
        """Apply a Bundle and tell what became of every entry."""
        caller = self._guard.admit(request)
        parameters_of(request)
        bundle = parse_bundle(await body_of(request))
        match bundle.type:
            case "transaction":
                entries = await self._transaction(caller, bundle)
            case "batch":
                entries = [
                    await self._alone(caller, index, entry)
                    for index, entry in enumerate(bundle.entries)
                ]
            case _:
                raise InvalidResource(
                    f"Bundle.type is {bundle.type}; a Bundle to apply is a batch or a transaction."
                )
        answer = BundleAnswer(type=f"{bundle.type}-response", entry=tuple(entries))
        return bundle_answer(caller, answer)

    async def _transaction(self, caller: Caller, bundle: Bundle) -> list[BundleEntry]:
        steps = [step_of(caller, index, entry) for index, entry in enumerate(bundle.entries)]
        _check_once(steps)
        steps.sort(key=lambda step: ORDER.index(step.method))
        places = {
            step.entry.full_url: f"{step.resource_type}/{step.id}"
            for step in steps
            if step.entry.full_url is not None and step.entry.resource is not None
        }
        writing = [step for step in steps if step.method != "GET"]
        changes = [change_of(caller, step, places) for step in writing]
        applied = await self._writer.write(caller.tenant, caller.fhir_version, changes)
        answers = {
            step.index: _written(caller, step, done)
            for step, done in zip(writing, applied, strict=True)
        }
        for step in steps[len(writing) :]:
            answers[step.index] = await self._read(caller, step)
        return [answers[index] for index in range(len(steps))]

    async def _alone(self, caller: Caller, index: int, entry: Entry) -> BundleEntry:
        """Apply one entry of a batch; what is wrong with it concerns no other."""
        try:
            step = step_of(caller, index, entry)
            if step.method == "GET":
                return await self._read(caller, step)
            change = change_of(caller, step, None)
            [applied] = await self._writer.write(caller.tenant, caller.fhir_version, [change])
            return _written(caller, step, applied)
        except HeliosError as error:
            status = status_of(error)
            return BundleEntry(
                response=EntryResponse(
                    status=f"{status} {reason_of(status)}", outcome=raw(outcome_of(error))
                )
            )

    async def _read(self, caller: Caller, step: Step) -> BundleEntry:
        stored = found(
            await self._provider.get(
                caller.tenant, caller.fhir_version, step.resource_type, step.id
            )
        )
        return BundleEntry(
            resource=raw(content_of(stored)),
            response=EntryResponse(
                status="200 OK",
                etag=etag_of(stored.version_id),
                last_modified=format_instant(stored.last_updated),
            ),
        )


def step_of(caller: Caller, index: int, entry: Entry) -> Step:
    """
    Give the meaning of an entry's request.

    Raises:
        InvalidRequest: Its URL is not what its method needs.
        UnsupportedParameter: It is conditional, or a search.
        ResourceNotFound: Its type does not exist.
    """
    method, url = entry.method or "", entry.url or ""
    if method not in PLACES or "?" in url or entry.conditions:
        raise UnsupportedParameter(
            f"entry {index}: conditions, searches and PATCH are not served in a Bundle; use POST, "
            "PUT, DELETE and GET by id."
        )
    segments = url.removeprefix(caller.base).strip("/").split("/")
    if len(segments) != PLACES[method]:
        form = "[type]" if PLACES[method] == 1 else "[type]/[id]"
        raise InvalidRequest(f"entry {index}: the URL of a {method} is {form}.")
    return Step(
        index=index,
        method=method,
        resource_type=checked_type(segments[0], caller.fhir_version),
        id=segments[1] if len(segments) > 1 else str(uuid4()),
        entry=entry,
    )


def change_of(caller: Caller, step: Step, places: Mapping[str, str] | None) -> Put | Delete:
    """
    Give the change an entry asks for, its temporary references replaced by real ones.

    `places` goes from the fullUrl of each entry to `Type/id`; None leaves references alone, as in
    a batch, whose entries must not refer to each other.

    Raises:
        RequestError: The entry is at fault, and the message says which.
    """
    try:
        if_match = if_match_of(step.entry.if_match)
        if step.method == "DELETE":
            return Delete(resource_type=step.resource_type, id=step.id, if_match=if_match)
        body = step.entry.resource or b""
        if places is not None:
            body = _resolved(body, places)
        resource = parse_resource(
            body,
            caller.fhir_version,
            resource_type=step.resource_type,
            resource_id=step.id if step.method == "PUT" else None,
            assigned_id=step.id if step.method == "POST" else None,
            base_urls=(caller.base,),
        )
    except RequestError as error:
        raise type(error)(f"entry {step.index}: {error}") from error
    return Put(resource=resource, if_match=if_match)


def _resolved(body: bytes, places: Mapping[str, str]) -> bytes:
    body, unresolved = rewrite(body, places)
    if unresolved:
        raise InvalidResource(
            f"{len(unresolved)} temporary references (urn:) are the fullUrl of no entry with a "
            "resource; send what they mean in the same transaction."
        )
    return body


def _check_once(steps: Sequence[Step]) -> None:
    """Refuse a transaction that changes one resource twice (FHIR R4, http.html#trules)."""
    seen = dict[tuple[str, str], int]()
    for step in steps:
        if step.method == "GET":
            continue
        first = seen.setdefault((step.resource_type, step.id), step.index)
        if first != step.index:
            raise InvalidRequest(
                f"entries {first} and {step.index} change the same resource; a transaction may do "
                "that once."
            )


def _written(caller: Caller, step: Step, applied: Applied) -> BundleEntry:
    etag = etag_of(applied.version_id) if applied.version_id else None
    instant = None if applied.last_updated is None else format_instant(applied.last_updated)
    if step.method == "DELETE":
        return BundleEntry(
            response=EntryResponse(status="204 No Content", etag=etag, last_modified=instant)
        )
    where = f"{step.resource_type}/{step.id}/_history/{applied.version_id}"
    created = applied.outcome is Outcome.CREATED
    return BundleEntry(
        response=EntryResponse(
            status="201 Created" if created else "200 OK",
            location=f"{caller.base}/{where}",
            etag=etag,
            last_modified=instant,
        )
    )
