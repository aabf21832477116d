"""Limit a kick-off to what the scopes of its client allow (TR-79, TR-80)."""

from collections.abc import Iterable

from helios_core.errors import Forbidden
from helios_core.export.kickoff.request import KickoffRequest
from helios_core.fhir.search import compile_query
from helios_core.model.exports import TypeConstraint, TypeFilter
from helios_core.model.scopes import EXPORT_LETTERS, scopes_of
from helios_core.storage.file_authorizer import lacking, require_letters
from helios_core.storage.permitted_reads import usable


def allowed_types(kickoff: KickoffRequest, types: Iterable[str]) -> tuple[str, ...]:
    """Return the types of which at least some resources may be exported."""
    return tuple(name for name in types if not kickoff.grant(name).is_nothing)


def require_types(kickoff: KickoffRequest, types: Iterable[str]) -> None:
    """
    Check that something may be exported of every type that the client requests by name.

    Raises:
        Forbidden: Nothing of a type may be exported; the message names the scope that is missing.
    """
    for name in types:
        if kickoff.grant(name).is_nothing:
            raise Forbidden(_reason(kickoff, name))


def require_some(kickoff: KickoffRequest, types: Iterable[str]) -> tuple[str, ...]:
    """
    Return the types of which something may be exported, if the client requests none by name.

    Raises:
        Forbidden: There is no such type.
    """
    allowed = allowed_types(kickoff, types)
    if not allowed:
        raise Forbidden(
            "The scopes of the access token allow no type of this export; an export of a type "
            "needs read and search on it, as in system/Patient.rs."
        )
    return allowed


def lookup_types(kickoff: KickoffRequest, filters: Iterable[TypeFilter]) -> tuple[str, ...]:
    """
    Return the types that are searched for the chains and `_has` of filters.

    Raises:
        Forbidden: There are some, and the client is limited to groups: such a search reads the
            resources of all patients.
    """
    types = dict[str, None]()
    for query in filters:
        compiled = compile_query(kickoff.fhir_version, query.resource_type, query.pairs)
        types |= dict.fromkeys(lookup.resource_type for lookup in compiled.lookups)
    if types and kickoff.principal is not None and kickoff.principal.groups is not None:
        raise Forbidden(
            "The client is limited to groups, and the chains and _has of _typeFilter search the "
            "resources of others, too; send filters without them."
        )
    return tuple(types)


def constraints(kickoff: KickoffRequest, types: Iterable[str]) -> tuple[TypeConstraint, ...]:
    """Return the limits that the scopes set on types, to be stored in the job."""
    return tuple(
        TypeConstraint(resource_type=name, any_of=clause)
        for name in dict.fromkeys(types)
        for clause in kickoff.grant(name).clauses
    )


def require_reading(kickoff: KickoffRequest, resource_type: str) -> tuple[TypeConstraint, ...]:
    """
    Return the limits on a type that is read for an export without being exported.

    Raises:
        Forbidden: Nothing of the type may be read.
    """
    if kickoff.principal is None:
        return ()
    require_letters(kickoff.principal, resource_type, "r")
    granted = scopes_of(kickoff.principal.scopes).grant(resource_type, "r")
    clauses = usable(kickoff.fhir_version, resource_type, granted).clauses
    return tuple(TypeConstraint(resource_type=resource_type, any_of=clause) for clause in clauses)


def _reason(kickoff: KickoffRequest, resource_type: str) -> str:
    words = kickoff.principal.scopes if kickoff.principal else ()
    if missing := scopes_of(words).missing(resource_type, EXPORT_LETTERS):
        return lacking(resource_type, missing)
    return (
        f"{resource_type} may not be exported with this access token, or only by a search that "
        "this server cannot evaluate; request another scope."
    )
