"""
Patient/[id]/$everything: the record of a patient (FHIR R4, patient-operation-everything.html).

A record has the resources in the patient's compartment, and resources to which these refer. A
resource that several patients share is in it only if an export for this patient would show it, see
`subject_paths`.
"""

import re
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Any, Final

import msgspec

from helios_core.errors import InvalidParameter, InvalidResource, UnsupportedParameter
from helios_core.fhir.compartments import patients_at, subject_paths
from helios_core.fhir.dates import date_bounds
from helios_core.fhir.definitions import load_definitions
from helios_core.fhir.instants import format_instant, parse_instant
from helios_core.fhir.references import decode_links, split_reference
from helios_core.fhir.search import Filter, compile_query
from helios_core.fhir.search.filters import (
    Condition,
    all_conditions,
    any_condition,
    make_filter,
)
from helios_core.fhir.search.parameters import CompiledParameter, compiled_parameters
from helios_core.fhir.strict_json import compact_json, explain_fault, object_members
from helios_core.interactions.callers import Caller, Interaction, authorize, may
from helios_core.interactions.chains import search_all
from helios_core.interactions.compartments import (
    Compartment,
    TypesPage,
    TypesQuery,
    compartment_condition,
    compartment_types,
    parse_compartment,
    search_types,
)
from helios_core.interactions.includes import MAX_INCLUDED
from helios_core.interactions.parameters import Pairs, parse_count, single_value
from helios_core.interactions.read import require_content, require_found
from helios_core.interactions.search import INCOMPLETE, Remark
from helios_core.storage.data_provider import (
    PAGE_BYTES,
    DataProvider,
    SearchQuery,
    StoredVersion,
    SupportsSearch,
)
from helios_core.storage.resource_keys import TypeKey
from helios_core.storage.threads import compute

EVERYTHING: Final = "$everything"
EVERYTHING_PARAMETERS: Final = ("_since", "_type", "_count", "start", "end", "_after")
PATIENT: Final = "Patient"
GROUP: Final = "Group"
"""Never shown: it would reveal its other members."""
BINARY: Final = "Binary"
IDS_PER_QUERY: Final = 200

_VALUE: Final = re.compile(r"value[A-Z][A-Za-z0-9]{1,30}")
_NOT_CARE: Final = frozenset({"_lastUpdated", "birthdate", "death-date"})
"""Search parameters of type date that do not say when care took place."""
_PARAMETERS: Final = msgspec.json.Decoder(list[dict[str, Any]])


class RecordSelection(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a record that is requested."""

    types: frozenset[str] | None = None
    """Only resources of these types; None for all."""
    since: str | None = None
    """Only resources that changed after this instant; None for all."""
    start: str | None = None
    """The first date of care, inclusive, as sent."""
    end: str | None = None
    """The last date of care, inclusive, as sent."""


class EverythingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request for one page of the record of a patient."""

    patient: Compartment
    query: TypesQuery
    selection: RecordSelection


class EverythingPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the record of a patient, with the resources to which it refers."""

    request: EverythingRequest
    page: TypesPage
    included: Sequence[StoredVersion]
    remarks: Sequence[Remark]


def parameter_pairs(body: bytes) -> list[tuple[str, str]]:
    """
    Return the names and values of a Parameters resource; an empty body has none.

    Raises:
        InvalidResource: The body is not a Parameters resource.
        InvalidParameter: A parameter has no name, or not exactly one string or integer.
    """
    if not body.strip():
        return []
    members = object_members(compact_json(body))
    if bytes(members.get("resourceType", b"")) != b'"Parameters"':
        raise InvalidResource("the body is not a Parameters resource")
    try:
        parameters = _PARAMETERS.decode(members.get("parameter", b"[]"))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        shape = "Parameters.parameter must be an array of objects"
        raise InvalidResource(explain_fault(body, error, shape)) from error
    return [_pair(parameter) for parameter in parameters]


def _pair(parameter: Mapping[str, Any]) -> tuple[str, str]:
    values = [value for key, value in parameter.items() if _VALUE.fullmatch(key)]
    match parameter.get("name"), values:
        case str(name), [str() | int() as value] if not isinstance(value, bool):
            return name, str(value)
    raise InvalidParameter("a parameter has no name, or not one value of a primitive type")


def parse_everything(caller: Caller, patient_id: str, pairs: Pairs) -> EverythingRequest:
    """
    Parse a request for the record of a patient.

    Raises:
        InvalidParameter: A value is malformed, or occurs more than once.
        UnsupportedParameter: A parameter is not supported.
    """
    if unknown := sorted({name for name, _ in pairs if name not in EVERYTHING_PARAMETERS}):
        names = ", ".join(repr(name[:64]) for name in unknown)
        supported = ", ".join(EVERYTHING_PARAMETERS)
        raise UnsupportedParameter(f"{EVERYTHING}: {names} not supported; supported: {supported}.")
    patient = parse_compartment(caller, PATIENT, patient_id)
    selection = RecordSelection(
        types=_parse_types(caller, pairs),
        since=_parse_since(pairs),
        start=_parse_date(pairs, "start"),
        end=_parse_date(pairs, "end"),
    )
    count = parse_count(pairs)
    kept = [pair for pair in pairs if pair[0] not in ("_count", "_after")]
    query = TypesQuery(
        path=f"{patient.path}/{EVERYTHING}",
        parameters=(*kept, ("_count", str(count))),
        filters=tuple(
            _filter(caller, patient, name, selection)
            for name in compartment_types(caller, PATIENT)
            if name != GROUP
            and (selection.types is None or name in selection.types)
            and compartment_condition(caller, patient, name) is not None
        ),
        count=count,
        after=single_value(pairs, "_after"),
    )
    return EverythingRequest(patient=patient, query=query, selection=selection)


def _parse_types(caller: Caller, pairs: Pairs) -> frozenset[str] | None:
    values = [value for name, value in pairs if name == "_type"]
    types = [name.strip() for value in values for name in value.split(",")]
    if unknown := [name for name in types if name not in _types(caller)]:
        raise InvalidParameter(
            f"_type: {unknown[0][:64]!r} is not a resource type of FHIR {caller.fhir_version}."
        )
    return frozenset(types) if types else None


def _types(caller: Caller) -> frozenset[str]:
    return load_definitions(caller.fhir_version).types


def _parse_since(pairs: Pairs) -> str | None:
    text = single_value(pairs, "_since")
    try:
        return None if text is None else format_instant(parse_instant(text))
    except InvalidParameter as error:
        raise InvalidParameter(f"_since: {error}") from error


def _parse_date(pairs: Pairs, name: str) -> str | None:
    text = single_value(pairs, name)
    try:
        if text is not None:
            date_bounds(text)
    except InvalidParameter as error:
        raise InvalidParameter(f"{name}: {error}") from error
    return text


def _filter(
    caller: Caller, patient: Compartment, resource_type: str, selection: RecordSelection
) -> Filter:
    """Return the filter of the resources of a type that are in a patient's record."""
    if resource_type == PATIENT:
        conditions = [_condition(caller, PATIENT, [("_id", patient.id)])]
    else:
        applicable = (
            compartment_condition(caller, patient, resource_type),
            _only_about(caller, patient, resource_type),
            _within_period(caller, resource_type, selection),
        )
        conditions = [condition for condition in applicable if condition is not None]
    if selection.since is not None:
        conditions.append(_condition(caller, resource_type, _changed_after(selection)))
    return make_filter(resource_type, all_conditions(conditions))


def _condition(caller: Caller, resource_type: str, pairs: Pairs) -> Condition:
    query = compile_query(caller.fhir_version, resource_type, pairs, base_urls=(caller.base,))
    return query.condition


def _changed_after(selection: RecordSelection) -> list[tuple[str, str]]:
    return [] if selection.since is None else [("_lastUpdated", f"gt{selection.since}")]


def _only_about(caller: Caller, patient: Compartment, resource_type: str) -> Condition | None:
    """Return the condition that no subject of a resource is another patient."""
    paths = subject_paths(caller.fhir_version, resource_type)
    if not paths:
        return None
    return Condition(
        test=lambda resource: patients_at(resource, paths, (caller.base,)) <= {patient.id},
        elements=frozenset(path[0] for path in paths),
    )


def _within_period(
    caller: Caller, resource_type: str, selection: RecordSelection
) -> Condition | None:
    """Return the condition that care took place within the period, or has no date."""
    sent = (("ge", selection.start), ("le", selection.end))
    bounds = [f"{sign}{text}" for sign, text in sent if text is not None]
    codes = [
        parameter.code
        for parameter in compiled_parameters(caller.fhir_version, resource_type).values()
        if isinstance(parameter, CompiledParameter)
        and parameter.type == "date"
        and parameter.code not in _NOT_CARE
    ]
    if not bounds or not codes:
        return None
    within = [
        _condition(caller, resource_type, [(code, bound) for bound in bounds]) for code in codes
    ]
    undated = _condition(caller, resource_type, [(f"{code}:missing", "true") for code in codes])
    return any_condition([*within, undated])


class Everything:
    """Collects records of patients."""

    def __init__(
        self, provider: DataProvider, searched: SupportsSearch, referenced_types: Collection[str]
    ) -> None:
        """Search `searched`; `referenced_types` are included if a record refers to them."""
        self._provider = provider
        self._searched = searched
        self._referenced_types = frozenset({*referenced_types, BINARY})

    async def page(self, caller: Caller, request: EverythingRequest) -> EverythingPage:
        """
        Return a page of a record, of the types that the client may read.

        Raises:
            Forbidden: The client may not read Patients, or a type that it named.
            ResourceNotFound: There is no such patient.
            ResourceDeleted: The patient was deleted.
            InvalidParameter: `_after` does not come from a page of this record.
        """
        referenced = self._types_to_include(caller, request)
        for resource_type in sorted({PATIENT, *(request.selection.types or ())}):
            authorize(caller, Interaction.OPERATION, resource_type)
        key = TypeKey.of(caller, PATIENT).resource(request.patient.id)
        require_content(require_found(await self._provider.get(key)))
        page = await search_types(self._searched, caller, request.query, Interaction.OPERATION)
        included, truncated = await self._included(caller, request, page, referenced)
        remarks = [Remark(code="incomplete", text=INCOMPLETE)] if truncated else []
        return EverythingPage(request=request, page=page, included=included, remarks=remarks)

    def _types_to_include(self, caller: Caller, request: EverythingRequest) -> frozenset[str]:
        in_compartment = load_definitions(caller.fhir_version).compartment_types(PATIENT)
        known = (self._referenced_types & _types(caller)) - in_compartment
        types = frozenset(name for name in known if may(caller, Interaction.OPERATION, name))
        return types if request.selection.types is None else types & request.selection.types

    async def _included(
        self, caller: Caller, request: EverythingRequest, page: TypesPage, types: frozenset[str]
    ) -> tuple[list[StoredVersion], bool]:
        """Return the resources to which the matches refer, and whether some were left out."""
        size = sum(len(match.content or b"") for match in page.matches)
        ids = await compute(size, _referenced_ids, caller, page.matches, types)
        included, included_bytes = list[StoredVersion](), 0
        for resource_type, type_ids in ids.items():
            referenced = self._fetch(caller, resource_type, type_ids, request.selection)
            async with aclosing(referenced) as resources:
                async for stored in resources:
                    if resource_type == BINARY:
                        size = len(stored.content or b"")
                        if await compute(size, _is_of_another, caller, stored, request.patient):
                            continue
                    if len(included) == MAX_INCLUDED or included_bytes >= PAGE_BYTES:
                        return included, True
                    included.append(stored)
                    included_bytes += len(stored.content or b"")
        return included, False

    async def _fetch(
        self, caller: Caller, resource_type: str, ids: Collection[str], selection: RecordSelection
    ) -> AsyncGenerator[StoredVersion]:
        remaining = iter(ids)
        while batch := list(islice(remaining, IDS_PER_QUERY)):
            pairs = [("_id", ",".join(batch)), *_changed_after(selection)]
            query = SearchQuery(
                filter=make_filter(resource_type, _condition(caller, resource_type, pairs))
            )
            async with aclosing(search_all(self._searched, caller, query)) as resources:
                async for stored in resources:
                    yield stored


def _referenced_ids(
    caller: Caller, matches: Sequence[StoredVersion], types: frozenset[str]
) -> dict[str, dict[str, None]]:
    """Return the ids of this server to which resources refer, by type, each once."""
    ids: dict[str, dict[str, None]] = {name: {} for name in sorted(types)}
    for match in matches:
        for key, text in _links(decode_links(match.content or b"{}")):
            target = split_reference(text, (caller.base,))
            # Only an attachment refers to a resource, a Binary, by its `url`.
            if target and target[0] in ids and (key == "reference" or target[0] == BINARY):
                ids[target[0]][target[1]] = None
    return ids


def _links(resource: object) -> Iterator[tuple[str, str]]:
    """Yield the names and values of elements that may be links, in no particular order."""
    waiting = [resource]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            for key, value in node.items():
                if isinstance(value, str):
                    if key in ("reference", "url"):
                        yield key, value
                else:
                    waiting.append(value)


def _is_of_another(caller: Caller, stored: StoredVersion, patient: Compartment) -> bool:
    """Return whether the `securityContext` of a Binary is another patient."""
    context = decode_links(stored.content or b"{}").get("securityContext")
    text = context.get("reference") if isinstance(context, dict) else None
    target = split_reference(text, (caller.base,)) if isinstance(text, str) else None
    return target is not None and target[0] == PATIENT and target[1] != patient.id
