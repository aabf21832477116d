"""
Transforms of outgoing resources: the contract of one, and what it declares of itself.

The core applies them to every line of an export and, unless a transform says otherwise, to every
resource that is read over REST. A resource that cannot be transformed does not leave the server.
"""

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import msgspec

from helios_core.storage.resource_keys import ResourceKey, TypeKey


class Coding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A code of a code system (FHIR R4, Coding), for `meta.security` or `meta.tag`."""

    system: str
    code: str
    display: str | None = None


class RestReads(StrEnum):
    """What a server with a transform does about resources that are read over REST."""

    TRANSFORMED = "transformed"
    """They are transformed as well. Resources cannot be changed over REST."""
    WITHHELD = "withheld"
    """There are none: the server offers exports only."""
    UNTOUCHED = "untouched"
    """They are read, searched and changed as they are stored; only exports are transformed."""


class TransformEffect(msgspec.Struct, frozen=True, kw_only=True):
    """What a transform does to resources; the core enforces it."""

    types: frozenset[str] | None = None
    """The types it is called for. All other types leave as they are; None is every type."""
    changes: bool = True
    """Whether what leaves may differ from what is stored; if not, the stored bytes leave."""
    drops: bool = True
    """Whether it keeps some resources back entirely, by returning None."""
    security: tuple[Coding, ...] = ()
    """Added by the core to `meta.security` of every resource of its types that leaves."""
    tags: tuple[Coding, ...] = ()
    """Added likewise to `meta.tag`. A transform that changes resources adds at least one code."""
    conceals: bool = True
    """
    Whether queries must not reveal what it removes.

    Filters are evaluated on resources as they are stored. So if this is true, `_typeFilter` and
    searches over REST are refused.
    """
    rest: RestReads = RestReads.TRANSFORMED


class Transform(ABC):
    """
    Changes or drops resources on their way out.

    T1  The result depends on the resource and its key alone: every process and every attempt at a
        shard gets the same.
    T2  Any resource of its types is accepted, with whatever FHIR allows in it: mandatory elements
        only, extensions of primitive values, contained resources, unknown elements.
    T3  The result is of the same type, and has the same id unless the transform can rename.
    T4  It drops and changes resources only if its effect says so.
    T5  It is called in several threads at once, and keeps nothing of one resource for the next.
    T6  Nothing of a resource gets into logs or onto standard output.
    T7  A new id is valid, reveals nothing of the old one, and no two resources of a type get
        the same.
    T8  What it is meant to remove is removed, wherever in the resource it stands.
    """

    @abstractmethod
    def apply(self, resource: dict[str, Any], key: TypeKey) -> dict[str, Any] | None:
        """
        Return a resource as it leaves the server, or None to drop it.

        The resource is decoded JSON, numbers with a fraction as `Decimal`, and the transform's own
        to change. This is called in a thread. A resource for which it raises is reported as
        one that could not be exported; the message is not repeated anywhere.
        """


@runtime_checkable
class SupportsRenaming(Protocol):
    """
    The transform gives resources other ids.

    Then the ids of deletions and of the headers of organized output are renamed too, error files
    name none, the parameter `patient` is refused, and resources cannot be read over REST.
    """

    def rename(self, key: ResourceKey) -> str:
        """Return the id under which a resource leaves (T1, T5, T7)."""
        ...
