"""The rules of transactions: order, one change per resource, references between entries."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from helios_core.errors import InvalidRequest, InvalidResource
from helios_core.fhir.bundles import ParsedEntry
from helios_core.fhir.references import (
    conditional_references,
    replace_conditional,
    replace_temporary,
)
from helios_core.interactions.callers import Interaction
from helios_core.interactions.changes import ChangeRequest, CompletedChange, ResolvedChange
from helios_core.interactions.entries import InteractionRequest

ORDER: Final = (Interaction.DELETE, Interaction.CREATE, Interaction.UPDATE)
"""The order in which the changes of a transaction are written (FHIR R4, http.html#trules)."""


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """The changes that a transaction requests; entries are known by their index, from 0."""

    changes: Mapping[int, ChangeRequest]
    full_urls: Mapping[str, int]
    """The entries with a resource to store, by fullUrl."""
    conditional_references: Mapping[str, int]
    """The references that are searches, each with an entry that has it."""

    @property
    def conditional(self) -> bool:
        """Whether anything depends on what a search finds."""
        return bool(self.conditional_references) or any(
            change.criteria is not None for change in self.changes.values()
        )


class ResolvedReferences(msgspec.Struct, frozen=True, kw_only=True):
    """What references in the entries of a transaction are replaced by: `Type/id`."""

    temporary: Mapping[str, str]
    """By the fullUrl of an entry."""
    conditional: Mapping[str, str]
    """By a reference that is a search."""


def collect_changes(
    entries: Sequence[ParsedEntry], requests: Sequence[InteractionRequest]
) -> Transaction:
    """Return the changes among the requests of entries, with what their references may mean."""
    changes = {
        index: request
        for index, request in enumerate(requests)
        if isinstance(request, ChangeRequest)
    }
    return Transaction(
        changes=changes,
        full_urls={
            entry.full_url: index
            for index, entry in enumerate(entries)
            if entry.full_url is not None and index in changes and changes[index].body
        },
        conditional_references={
            reference: index
            for index, change in changes.items()
            for reference in conditional_references(change.body)
        },
    )


def rewrite_references(change: ResolvedChange, references: ResolvedReferences) -> ResolvedChange:
    """
    Return a change with real references in place of temporary and conditional ones.

    Raises:
        InvalidResource: A temporary reference is the fullUrl of no entry.
    """
    body, unresolved = replace_temporary(change.request.body, references.temporary)
    if unresolved:
        raise InvalidResource(
            f"{len(unresolved)} temporary references (urn:) are the fullUrl of no entry with a "
            "resource; send what they refer to in the same transaction."
        )
    request = msgspec.structs.replace(
        change.request, body=replace_conditional(body, references.conditional)
    )
    return msgspec.structs.replace(change, request=request)


def check_distinct_targets(changes: Mapping[int, ResolvedChange | CompletedChange]) -> None:
    """
    Raise unless a transaction changes each resource once (FHIR R4, http.html#trules).

    Raises:
        InvalidRequest: Two entries change one resource, or would create it on one condition.
    """
    pending = [
        (index, change) for index, change in changes.items() if isinstance(change, ResolvedChange)
    ]
    _check_distinct(((change.resource_type, change.id), index) for index, change in pending)
    _check_distinct(
        ((change.resource_type, *sorted(change.request.criteria or ())), index)
        for index, change in pending
        if change.version_id == 0
    )


def _check_distinct(targets: Iterable[tuple[object, int]]) -> None:
    seen = dict[object, int]()
    for target, index in targets:
        first = seen.setdefault(target, index)
        if first != index:
            raise InvalidRequest(
                f"entries {first} and {index} change the same resource; a transaction may do "
                "that once."
            )
