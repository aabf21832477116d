"""Create, update and delete one resource, on a condition or not (FHIR R4, http.html#create)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import uuid4

import msgspec

from helios_core.fhir.resources import Resource, parse_resource
from helios_core.interactions.callers import Caller, Interaction, authorize
from helios_core.interactions.conditions import Conditions, require_same_version
from helios_core.interactions.parameters import Pairs
from helios_core.storage.data_provider import (
    AppliedChange,
    ChangeResult,
    Delete,
    Put,
    StoredVersion,
    SupportsWrites,
)


class ChangeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A create, update or delete that a client requests, alone or as an entry of a Bundle."""

    interaction: Literal[Interaction.CREATE, Interaction.UPDATE, Interaction.DELETE]
    resource_type: str
    id: str = ""
    """The resource to update or delete; empty for a create, and where there are criteria."""
    criteria: Pairs | None = None
    """The search that says which resource is meant; None without a condition."""
    body: bytes = b""
    """The resource to store, not checked yet; empty for a delete."""
    if_match: int | None = None
    """The version that must be current; None for any."""


class ResolvedChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change whose resource is known."""

    request: ChangeRequest
    id: str
    version_id: int | None = None
    """The version that the condition found there, 0 for none; None without a condition."""

    @property
    def resource_type(self) -> str:
        """The type of the resource."""
        return self.request.resource_type


class CompletedChange(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a change, and the version that is current now."""

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

        A conditional create that matches a resource leaves it as it is (UNCHANGED), a conditional
        delete that matches nothing is done already (ABSENT).

        Raises:
            ResourceNotFound: There is no such type.
            InvalidResource: The body is not a resource of that type and id.
            InvalidRequest: The criteria are empty or not supported.
            MultipleMatches: More than one resource matches the criteria.
            ResourceExists: None matches, but there is one with the body's id.
            VersionConflict: `if_match` is not the current version, or others kept changing what
                the criteria match.
        """
        authorize(caller, request.interaction, request.resource_type)
        if request.criteria is None:
            return await self._apply(caller, request)
        if request.interaction is Interaction.CREATE:
            _parse_body(caller, request, str(uuid4()))  # is invalid whatever the criteria match
        return await self._conditions.retry_on_conflict(
            caller, lambda: self._apply(caller, request)
        )

    async def _apply(self, caller: Caller, request: ChangeRequest) -> CompletedChange:
        resolved = await self.resolve(caller, request)
        if isinstance(resolved, CompletedChange):
            return resolved
        [completed] = await self.write(caller, [to_change(caller, resolved)])
        return completed

    async def resolve(
        self, caller: Caller, request: ChangeRequest
    ) -> ResolvedChange | CompletedChange:
        """
        Find the resource that a change is about; the criteria may leave nothing to do.

        Raises:
            InvalidRequest: The criteria are empty or not supported.
            MultipleMatches: More than one resource matches the criteria.
            ResourceExists: None matches, but there is one with the body's id.
        """
        if request.criteria is None:
            created = request.interaction is Interaction.CREATE
            return ResolvedChange(request=request, id=str(uuid4()) if created else request.id)
        match request.interaction:
            case Interaction.CREATE:
                return await self._resolve_create(caller, request, request.criteria)
            case Interaction.UPDATE:
                resource_id, version_id = await self._conditions.resolve_update(
                    caller, request.resource_type, request.criteria, request.body
                )
                return ResolvedChange(request=request, id=resource_id, version_id=version_id)
            case Interaction.DELETE:
                return await self._resolve_delete(caller, request, request.criteria)

    async def _resolve_create(
        self, caller: Caller, request: ChangeRequest, criteria: Pairs
    ) -> ResolvedChange | CompletedChange:
        match = await self._conditions.match_or_vacancy(caller, request.resource_type, criteria)
        if isinstance(match, StoredVersion):
            return CompletedChange(
                outcome=ChangeResult.UNCHANGED,
                resource_type=match.resource_type,
                id=match.id,
                version_id=match.version_id,
                last_updated=match.last_updated,
                stored=match.content,
            )
        return ResolvedChange(request=request, id=match.id, version_id=match.version_id)

    async def _resolve_delete(
        self, caller: Caller, request: ChangeRequest, criteria: Pairs
    ) -> ResolvedChange | CompletedChange:
        match = await self._conditions.match(caller, request.resource_type, criteria)
        if match is None:
            return CompletedChange(
                outcome=ChangeResult.ABSENT, resource_type=request.resource_type
            )
        return ResolvedChange(request=request, id=match.id, version_id=match.version_id)

    async def write(
        self, caller: Caller, changes: Sequence[Put | Delete]
    ) -> list[CompletedChange]:
        """
        Write changes in their order, all or none.

        Raises:
            VersionConflict: The version of a resource is not the one that must be current.
        """
        applied = await self._writer.write(caller.tenant, caller.fhir_version, changes)
        return [_completed(*pair) for pair in zip(changes, applied, strict=True)]


def to_change(caller: Caller, resolved: ResolvedChange) -> Put | Delete:
    """
    Return what a change writes.

    Raises:
        InvalidResource: The body is not a resource of the requested type and id.
        VersionConflict: `if_match` is not the version of what matches the criteria.
    """
    request, if_match = resolved.request, resolved.request.if_match
    if resolved.version_id is not None:
        if_match = require_same_version(resolved.version_id, if_match)
    if request.interaction is Interaction.DELETE:
        return Delete(resource_type=request.resource_type, id=resolved.id, if_match=if_match)
    return Put(resource=_parse_body(caller, request, resolved.id), if_match=if_match)


def _parse_body(caller: Caller, request: ChangeRequest, resource_id: str) -> Resource:
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
