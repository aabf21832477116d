"""Parse a kick-off: what its parameters mean, checked as far as possible without the data."""

from collections.abc import Callable, Sequence
from datetime import datetime

from msgspec.structs import replace

from helios_core.errors import InvalidParameter, InvalidRequest, UnsupportedParameter
from helios_core.export.kickoff import permissions
from helios_core.export.kickoff.parameters import ORGANIZERS, OUTPUT_FORMATS, kickoff_parameters
from helios_core.export.kickoff.planning import deciding_types
from helios_core.export.kickoff.request import KickoffRequest, ParameterValues, sent_parameters
from helios_core.export.kickoff.type_filters import TypeFilterParser
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.elements import json_names
from helios_core.fhir.preferences import (
    PRESENTATION_PARAMETERS,
    Handling,
    Preferences,
    parse_preferences,
)
from helios_core.fhir.references import base_urls, split_reference
from helios_core.model.exports import AssociatedData, ExportRequest, Level

PROVENANCE = "Provenance"
NEVER_REFERENCED = frozenset({"Binary", "Patient"})
"""Types of patient data, which are not added to an export when its output refers to them."""


def parse_kickoff(kickoff: KickoffRequest) -> ExportRequest:
    """
    Return the parsed request of a kick-off, checked as far as possible without the data.

    Raises:
        InvalidRequest: The request is malformed, or `Prefer: respond-async` is missing.
        InvalidParameter: A parameter's value is not valid.
        UnsupportedParameter: A parameter or value is not supported, and must not be ignored.
        Forbidden: The scopes of the client do not allow a type that it requests by name, or they
            allow no type at all.
    """
    preferences = parse_preferences(kickoff.prefer)
    if not preferences.respond_async:
        raise InvalidRequest(
            "The header Prefer: respond-async is missing; an export is always asynchronous."
        )
    return _Parser(kickoff, preferences).parse()


class _Parser:
    """One pass over the parameters of one kick-off, with a method for each of them."""

    def __init__(self, kickoff: KickoffRequest, preferences: Preferences) -> None:
        self._kickoff = kickoff
        self._guide = kickoff.policy.guide
        self._preferences = preferences
        self._definitions = load_definitions(kickoff.fhir_version)
        self._parameters = ParameterValues(sent_parameters(kickoff), guide=self._guide)
        self._ignored = list[str]()

    def parse(self) -> ExportRequest:
        kickoff, parameters = self._kickoff, self._parameters
        self._check_names()
        self._check_output_format()
        since, until = self._since_and_until()
        types = self._types()
        organize_by = self._organize_by()
        type_filters = TypeFilterParser(
            kickoff.fhir_version,
            types,
            base_urls=base_urls(kickoff.base_url),
            decline=self._decline,
            concealed=kickoff.policy.transforms.conceals,
        ).parse(parameters.type_filters())
        associated = self._associated(organize_by)
        permissions.require_types(kickoff, filter(None, (organize_by,)))
        if associated is not None:
            permissions.require_types(kickoff, (PROVENANCE,))
        looked_up = permissions.lookup_types(kickoff, type_filters.filters)
        permissions.require_types(kickoff, looked_up)
        request = ExportRequest(
            tenant=kickoff.tenant,
            url=kickoff.url,
            base_url=kickoff.base_url,
            fhir_version=kickoff.fhir_version,
            level=kickoff.level,
            group_id=kickoff.group_id,
            types=tuple(name for name in types if name not in type_filters.withheld),
            since=since,
            until=until,
            patients=self._patients(),
            filters=type_filters.filters,
            elements=self._elements(types),
            associated=associated,
            organize_by=organize_by,
            referenced_types=() if organize_by else self._referenced_types(),
            partial_manifests=parameters.flag("allowPartialManifests"),
            separate_status=self._preferences.separate_status,
            max_part_bytes=self._max_part_bytes(),
            include_newly_added=kickoff.policy.include_newly_added,
            transforms=kickoff.policy.transforms.names,
            ignored=tuple(self._ignored),
        )
        limited = {*request.output_types, *looked_up}
        constraints = permissions.constraints(kickoff, sorted(limited))
        # Whether a patient or a group is there is told to those only who may know.
        named = {"Patient": request.patients, "Group": request.group_id}
        for name in sorted({name for name, value in named.items() if value} - limited):
            constraints += permissions.require_reading(kickoff, name)
            limited.add(name)
        others = sorted({*deciding_types(request)} - limited)
        constraints += permissions.constraints(kickoff, others)
        return replace(request, constraints=constraints)

    def _decline(self, reason: str, *, error: Callable[[str], Exception]) -> None:
        """Raise an error, or under handling=lenient record that something is ignored."""
        if self._preferences.handling is not Handling.LENIENT:
            raise error(reason)
        self._ignored.append(reason)

    def _omit(self, reason: str, *, error: Callable[[str], Exception]) -> None:
        """Record that something is ignored, or under handling=strict raise an error."""
        if self._preferences.handling is Handling.STRICT:
            raise error(reason)
        self._ignored.append(reason)

    def _check_names(self) -> None:
        self._parameters.flag("_dryRun")  # a misspelt value must not start an export
        supported = {parameter.name for parameter in kickoff_parameters(self._guide)}
        for name in self._parameters.names():
            if name not in supported and name not in PRESENTATION_PARAMETERS:
                self._decline(
                    f"The parameter {name[:64]!r} is unknown; the supported parameters are "
                    f"{', '.join(sorted(supported))}.",
                    error=UnsupportedParameter,
                )

    def _check_output_format(self) -> None:
        value = self._parameters.single("_outputFormat")
        # A plus sign sent unescaped arrives as a space (WHATWG URL, urlencoded parsing).
        if value is not None and value.strip().replace(" ", "+") not in OUTPUT_FORMATS:
            raise UnsupportedParameter(
                "The _outputFormat is not supported; request application/fhir+ndjson."
            )

    def _since_and_until(self) -> tuple[datetime | None, datetime | None]:
        since = self._parameters.instant("_since", round_up=False)
        until = self._parameters.instant("_until", round_up=True)
        if since is not None and until is not None and since >= until:
            raise InvalidParameter(
                "_since is not before _until, so no resource can match; swap or widen them."
            )
        return since, until

    def _types(self) -> tuple[str, ...]:
        """Return the types of `_type`, or all types of the level if it was not sent."""
        if not self._parameters.all("_type"):
            return permissions.require_some(self._kickoff, sorted(self._level_types))
        names = self._parameters.items("_type")
        if not names:
            raise InvalidParameter("_type names no resource type; name one, or leave it out.")
        for name in names:
            if name not in self._definitions.types:
                self._decline(self._unknown_type(name), error=InvalidParameter)
        return self._types_of_level([name for name in names if name in self._definitions.types])

    @property
    def _level_types(self) -> frozenset[str]:
        if self._kickoff.level is Level.SYSTEM:
            return self._definitions.types
        return self._definitions.compartment_types("Patient") | {"Patient"}

    def _unknown_type(self, name: str) -> str:
        version = self._kickoff.fhir_version
        others = [
            str(v) for v in FHIRVersion if v is not version and name in load_definitions(v).types
        ]
        hint = f"; it is one of {', '.join(others)}" if others else ""
        return f"_type: {name[:64]!r} is not a resource type of FHIR {version}{hint}."

    def _types_of_level(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the types that the level can export; others are omitted unless none remains."""
        permissions.require_types(self._kickoff, names)
        available = self._level_types.union(self._referenced_types())
        outside = [name for name in names if name not in available]
        reason = (
            f"_type: {', '.join(outside or names)} is in no patient's compartment, so a "
            f"{self._kickoff.level} export cannot contain it; use the system level for it."
        )
        inside = tuple(name for name in names if name in self._level_types)
        if not inside:
            raise InvalidParameter(
                reason if names else "_type names no type that can be exported."
            )
        if outside:
            self._omit(reason, error=InvalidParameter)
        return inside

    def _referenced_types(self) -> tuple[str, ...]:
        """Return the types to add if the output refers to them; `_type` limits them (B2-P-09)."""
        if self._kickoff.level is Level.SYSTEM:
            return ()
        requested = self._parameters.items("_type") or self._definitions.types
        types = (
            name
            for name in dict.fromkeys(self._kickoff.policy.referenced_types)
            if name in requested and name not in NEVER_REFERENCED
        )
        return permissions.allowed_types(self._kickoff, types)

    def _patients(self) -> tuple[str, ...] | None:
        """Return the ids of `patient`, or None if it was not sent."""
        if not self._parameters.all("patient"):
            return None
        if self._kickoff.body is None:
            raise InvalidParameter("patient cannot be sent by GET; send it in a POST.")
        if self._kickoff.level is Level.SYSTEM:
            raise InvalidParameter("patient is not supported at system level; leave it out.")
        if self._kickoff.policy.transforms.renames:
            raise UnsupportedParameter(
                "patient is not supported here, because patients are exported under other ids; "
                "leave it out."
            )
        references = self._parameters.items("patient")
        if not references:
            raise InvalidParameter("patient names no patient; name one, or leave it out.")
        ids = (self._patient_id(number, text) for number, text in enumerate(references, 1))
        return tuple(dict.fromkeys(ids))

    def _patient_id(self, number: int, text: str) -> str:
        if "/" not in text:
            text = f"Patient/{text}"
        reference = split_reference(text, base_urls(self._kickoff.base_url))
        if reference is None or reference[0] != "Patient":
            raise InvalidParameter(
                f"patient value number {number} is not a reference to a Patient of this server; "
                "send Patient/[id]."
            )
        return reference[1]

    def _elements(self, types: Sequence[str]) -> tuple[str, ...]:
        """Return the valid entries of `_elements`; others are declined, and one must be valid."""
        if not self._parameters.all("_elements"):
            return ()
        elements = list[str]()
        problem = InvalidParameter("_elements names no element; name one, or leave it out.")
        for entry in self._parameters.items("_elements"):
            try:
                self._check_element(entry, types)
            except InvalidParameter as error:
                problem = error
                self._decline(str(error), error=InvalidParameter)
            else:
                elements.append(entry)
        if not elements:  # to ignore them all would export complete resources
            raise problem
        return tuple(elements)

    def _check_element(self, entry: str, types: Sequence[str]) -> None:
        version = self._kickoff.fhir_version
        owner, dot, element = entry.partition(".")
        if not dot:
            owner, element = "", entry
        if "." in element:
            raise InvalidParameter(
                f"_elements: {entry[:64]!r} is nested; only elements at the root of a resource "
                "can be selected, as element or Type.element."
            )
        if dot and owner not in self._definitions.types:
            raise InvalidParameter(
                f"_elements: {owner[:64]!r} is not a resource type of FHIR {version}; send "
                "element or Type.element."
            )
        if not any(json_names(version, name, element) for name in ([owner] if owner else types)):
            raise InvalidParameter(
                f"_elements: {element[:64]!r} is not a root element of "
                f"{owner or 'the exported types'} in FHIR {version}; send element or Type.element."
            )

    def _associated(self, organize_by: str | None) -> AssociatedData | None:
        """Return the widest value of `includeAssociatedData`, or None if there is none."""
        choices = set[AssociatedData]()
        for value in self._parameters.items("includeAssociatedData"):
            try:
                choices.add(AssociatedData(value))
            except ValueError:
                self._decline(
                    f"includeAssociatedData: {value[:64]!r} is unknown; the supported values are "
                    f"{' and '.join(AssociatedData)}.",
                    error=InvalidParameter,
                )
        if not choices:
            return None
        if organize_by is not None:
            self._decline(
                "includeAssociatedData cannot be combined with organizeOutputBy, since Provenance "
                "belongs to no block; leave one of them out.",
                error=UnsupportedParameter,
            )
            return None
        if AssociatedData.RELEVANT in choices:
            return AssociatedData.RELEVANT
        return AssociatedData.LATEST

    def _organize_by(self) -> str | None:
        """Return the type of `organizeOutputBy`, or None if the output is not organized."""
        value = self._parameters.single("organizeOutputBy")
        organizer = None if value is None else value.strip()
        if organizer is None or organizer in ORGANIZERS:
            return organizer
        self._decline(
            f"organizeOutputBy: output cannot be organized by {organizer[:64]!r}; the supported "
            f"types are {', '.join(ORGANIZERS)}.",
            error=InvalidParameter,
        )
        return None

    def _max_part_bytes(self) -> int | None:
        """Return the largest file size allowed (Bulk Data 4.0.0-ballot, _maximumFileSize)."""
        smallest = self._parameters.size("_minimumFileSize")
        largest = self._parameters.size("_maximumFileSize")
        if smallest is not None and largest is not None and smallest >= largest:
            raise InvalidParameter(
                "_maximumFileSize is not above _minimumFileSize; widen or swap them."
            )
        if smallest is not None:
            self._omit(
                "_minimumFileSize: files may be smaller where a range of the data ends.",
                error=UnsupportedParameter,
            )
        return largest
