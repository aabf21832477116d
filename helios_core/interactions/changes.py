"""Create, update, patch and delete one resource, on a condition or not (FHIR R4, http.html)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypeAlias
from uuid import uuid4

import msgspec

from helios_core.fhir.resources import Resource, parse_resource
from helios_core.interactions.callers import Caller, Interaction, authorize
from helios_core.interactions.conditions import Conditions, Vacancy, require_same_version
from helios_core.interactions.parameters import Pairs
from helios_core.interactions.patches import Patch
from helios_core.interactions.read import require_content, require_found
from helios_core.storage.data_provider import (
    AppliedChange,
    ChangeResult,
    Delete,
    Put,
    StoredVersion,
    SupportsWrites,
)
from helios_core.storage.threads import LARGE_BYTES, compute

ChangeInteraction: TypeAlias = Literal[
    Interaction.CREATE, Interaction.UPDATE, Interaction.PATCH, Interaction.DELETE
]


class ChangeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A change that a client requests, alone or as an entry of a Bundle."""

    interaction: ChangeInteraction
    resource_type: str
    id: str = ""
    """The resource to change; empty for a create and with criteria."""
    criteria: Pairs | None = None
    """The search that finds the resource to change; None without a condition."""
    body: bytes = b""
    """The resource to store, not checked yet; empty for a delete and a patch."""
    patch: Patch | None = None
    """What a patch does to the resource; None for other changes."""
    if_match: int | None = None
    """The version that must be current; None for any."""
    only_create: bool = False
    """Whether an update must not find a resource (`If-None-Match: *`)."""

    @property
    def conditional(self) -> bool:
        """Whether the change depends on what is stored, so that a conflict is worth a retry."""
        return self.criteria is not None or self.patch is not None or self.only_create


class ResolvedChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change whose target is known."""

    request: ChangeRequest
    """The request; for a patch, its body is the patched resource."""
    id: str
    version_id: int | None = None
    """The version that the condition or the patch found, 0 for none; None without either."""
    creates: bool = False
    """Whether nothing matched the condition, so that a resource is created."""
    patched: bytes = b""
    """The resource to which a patch was applied; empty for other changes."""

    @property
    def resource_type(self) -> str:
        """The type of the resource."""
        return self.request.resource_type


class CompletedChange(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a change, and the version that is current now."""

    outcome: ChangeResult
    resource_type: str
    id: str = ""
    """Empty if a conditional delete matched nothing."""
    version_id: int = 0
    """0 if there is no version."""
    last_updated: datetime | None = None
    """None if there is no version."""
    stored: Resource | bytes | None = None
    """What is stored now; None after a delete."""

    def content(self) -> bytes | None:
        """Return the resource as it is stored now, None after a delete."""
        if isinstance(self.stored, Resource) and self.last_updated is not None:
            return self.stored.stamped(self.version_id, self.last_updated)
        return self.stored if isinstance(self.stored, bytes) else None


class Changes:
    """Makes changes of single resources."""

    def __init__(self, writer: SupportsWrites, conditions: Conditions) -> None:
        self._writer = writer
        self._conditions = conditions

    async def apply(self, caller: Caller, request: ChangeRequest) -> CompletedChange:
        """
        Make one change.

        A conditional create that matches a resource changes nothing (UNCHANGED), nor does a
        conditional delete that matches nothing (ABSENT).

        Raises:
            ResourceNotFound: There is no such type.
            InvalidResource: The body is not a resource of that type and id.
            InvalidRequest: The criteria are empty or not supported.
            MultipleMatches: More than one resource matches the criteria.
            ResourceExists: None matches, but there is one with the body's id.
            ResourceNotFound: There is no resource to patch.
            PatchFailed: The patch cannot be applied to the resource.
            VersionConflict: `if_match` is not the current version, or others kept changing what
                the criteria match.
        """
        authorize(caller, request.interaction, request.resource_type)
        if not request.conditional:
            return await self._apply(caller, request)
        if request.interaction is Interaction.CREATE:
            # An invalid body is an error whatever the criteria match.
            await compute(len(request.body), parse_body, caller, request, str(uuid4()))
        return await self._conditions.retry_on_conflict(
            caller, lambda: self._apply(caller, request)
        )

    async def _apply(self, caller: Caller, request: ChangeRequest) -> CompletedChange:
        resolved = await self.resolve(caller, request)
        if isinstance(resolved, CompletedChange):
            return resolved
        change = await compute(len(resolved.request.body), to_change, caller, resolved)
        [completed] = await self.write(caller, [change])
        return completed

    async def resolve(
        self, caller: Caller, request: ChangeRequest, conditions: Conditions | None = None
    ) -> ResolvedChange | CompletedChange:
        """
        Find the target of a change, or return its result if the criteria leave nothing to do.

        `conditions` replace the usual ones, to search another state than the stored one.

        Raises:
            InvalidRequest: The criteria are empty or not supported.
            MultipleMatches: More than one resource matches the criteria.
            ResourceExists: None matches, but there is one with the body's id.
            ResourceNotFound: There is no resource to patch.
            PatchFailed: The patch cannot be applied to the resource.
        """
        conditions = conditions or self._conditions
        if request.patch is not None:
            return await _resolve_patch(caller, request, request.patch, conditions)
        if request.criteria is not None:
            return await _resolve_condition(caller, request, request.criteria, conditions)
        vacancy = None
        if request.only_create:
            vacancy = await conditions.require_vacant(caller, request.resource_type, request.id)
        created = request.interaction is Interaction.CREATE
        resource_id = str(uuid4()) if created else request.id
        return ResolvedChange(request=request, id=resource_id, version_id=vacancy)

    async def write(
        self, caller: Caller, changes: Sequence[Put | Delete]
    ) -> list[CompletedChange]:
        """
        Write changes in their order, all or none.

        Raises:
            VersionConflict: The `if_match` of a change is not the current version.
        """
        applied = await self._writer.write(caller.tenant, caller.fhir_version, changes)
        return [_completed(*pair) for pair in zip(changes, applied, strict=True)]


async def _resolve_condition(
    caller: Caller, request: ChangeRequest, criteria: Pairs, conditions: Conditions
) -> ResolvedChange | CompletedChange:
    match request.interaction:
        case Interaction.CREATE:
            return await _resolve_create(caller, request, criteria, conditions)
        case Interaction.DELETE:
            return await _resolve_delete(caller, request, criteria, conditions)
    target = await conditions.resolve_update(caller, request.resource_type, criteria, request.body)
    return ResolvedChange(
        request=request,
        id=target.id,
        version_id=target.version_id,
        creates=isinstance(target, Vacancy),
    )


async def _resolve_create(
    caller: Caller, request: ChangeRequest, criteria: Pairs, conditions: Conditions
) -> ResolvedChange | CompletedChange:
    match = await conditions.match_or_vacancy(caller, request.resource_type, criteria)
    if isinstance(match, StoredVersion):
        return CompletedChange(
            outcome=ChangeResult.UNCHANGED,
            resource_type=match.resource_type,
            id=match.id,
            version_id=match.version_id,
            last_updated=match.last_updated,
            stored=match.content,
        )
    return ResolvedChange(request=request, id=match.id, version_id=match.version_id, creates=True)


async def _resolve_delete(
    caller: Caller, request: ChangeRequest, criteria: Pairs, conditions: Conditions
) -> ResolvedChange | CompletedChange:
    match = await conditions.match(caller, request.resource_type, criteria)
    if match is None:
        return CompletedChange(outcome=ChangeResult.ABSENT, resource_type=request.resource_type)
    return ResolvedChange(request=request, id=match.id, version_id=match.version_id)


async def _resolve_patch(
    caller: Caller, request: ChangeRequest, patch: Patch, conditions: Conditions
) -> ResolvedChange:
    if request.criteria is None:
        stored = await conditions.read(caller, request.resource_type, request.id)
    else:
        stored = await conditions.match(caller, request.resource_type, request.criteria)
    stored = require_found(stored)
    content = require_content(stored)
    require_same_version(stored.version_id, request.if_match)
    # Each operation of the patch may examine the whole resource.
    patched = await compute(LARGE_BYTES, patch.apply, content, caller.fhir_version)
    return ResolvedChange(
        request=msgspec.structs.replace(request, body=patched),
        id=stored.id,
        version_id=stored.version_id,
        patched=content,
    )


def to_change(
    caller: Caller, resolved: ResolvedChange, parsed: Resource | None = None
) -> Put | Delete:
    """
    Return what a change writes; `parsed` is its body if that has been parsed already.

    Raises:
        InvalidResource: The body is not a resource of the requested type and id.
        VersionConflict: `if_match` is not the version of what matches the criteria.
    """
    request, if_match = resolved.request, resolved.request.if_match
    if resolved.version_id is not None:
        if_match = require_same_version(resolved.version_id, if_match)
    if request.interaction is Interaction.DELETE:
        return Delete(resource_type=request.resource_type, id=resolved.id, if_match=if_match)
    resource = parsed or parse_body(caller, request, resolved.id)
    return Put(resource=resource, if_match=if_match)


def parse_body(caller: Caller, request: ChangeRequest, resource_id: str) -> Resource:
    """
    Return the resource that a change stores under an id.

    Raises:
        InvalidResource: The body is not a resource of the requested type and id.
    """
    created = request.interaction is Interaction.CREATE
    return parse_resource(
        request.body,
        caller.fhir_version,
        resource_type=request.resource_type,
        resource_id=None if created else resource_id,
        assigned_id=resource_id if created else None,
        base_urls=(caller.base,),
    )


def _completed(change: Put | Delete, applied: AppliedChange) -> CompletedChange:
    target = change.resource if isinstance(change, Put) else change
    return CompletedChange(
        outcome=applied.outcome,
        resource_type=target.resource_type,
        id=target.id,
        version_id=applied.version_id,
        last_updated=applied.last_updated,
        stored=target if isinstance(target, Resource) else None,
    )
