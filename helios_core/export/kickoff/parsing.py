"""Read a kick-off: the meaning of a call, as far as that goes without looking into a store."""

from collections.abc import Callable, Collection, Sequence

from helios_core.errors import InvalidParameter, InvalidRequest, UnsupportedParameter
from helios_core.export.kickoff.definitions import ORGANIZERS, OUTPUT_FORMATS, served_parameters
from helios_core.export.kickoff.parameters import (
    Decline,
    KickoffRequest,
    ParameterValues,
    given_parameters,
)
from helios_core.export.kickoff.type_filters import FilterParser
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.preferences import (
    PRESENTATION_PARAMETERS,
    Handling,
    Preferences,
    parse_preferences,
)
from helios_core.fhir.references import base_urls, split_reference
from helios_core.model.exports import AssociatedData, ExportRequest, Level

NEVER_CONTEXT = frozenset({"Binary", "Patient"})
"""Types that are never added because something refers to them: they are somebody's data."""


def parse_associated(values: Sequence[str], decline: Decline) -> AssociatedData | None:
    """Give the widest of the choices of includeAssociatedData, None if there is none."""
    known = set[AssociatedData]()
    for value in values:
        try:
            known.add(AssociatedData(value))
        except ValueError:
            decline(
                f"includeAssociatedData: {value[:64]!r} is unknown; known are "
                f"{' and '.join(AssociatedData)}.",
                kind=InvalidParameter,
            )
    return AssociatedData.RELEVANT if AssociatedData.RELEVANT in known else next(iter(known), None)


def parse_organizer(value: str | None, decline: Decline) -> str | None:
    """Give the type that organizeOutputBy names, None if the output is not to be organized."""
    named = None if value is None else value.strip()
    if named is None or named in ORGANIZERS:
        return named
    decline(
        f"organizeOutputBy: output cannot be organized by {named[:64]!r}; it can be by "
        f"{', '.join(ORGANIZERS)}.",
        kind=InvalidParameter,
    )
    return None


def referenced_types(policy: Sequence[str], possible: Collection[str]) -> tuple[str, ...]:
    """Give those types of the operator's choice that are added when something refers to them."""
    wanted = (each for each in policy if each in possible and each not in NEVER_CONTEXT)
    return tuple(dict.fromkeys(wanted))


def parse_kickoff(call: KickoffRequest) -> ExportRequest:
    """
    Give the meaning of a call, checked as far as that goes without looking into a store.

    Raises:
        InvalidRequest: The call is malformed, or `Prefer: respond-async` is missing.
        InvalidParameter: A parameter's value cannot mean anything.
        UnsupportedParameter: A parameter or value is not served, and must not be ignored.
    """
    prefer = parse_preferences(call.prefer)
    if not prefer.respond_async:
        raise InvalidRequest(
            "The header Prefer: respond-async is missing; an export is always asynchronous."
        )
    return _Reading(call, prefer).request()


class _Reading:
    """One pass over the parameters of one call."""

    def __init__(self, call: KickoffRequest, prefer: Preferences) -> None:
        self._call = call
        self._guide = call.policy.guide
        self._prefer = prefer
        self._ignored = list[str]()
        self._values = ParameterValues(given_parameters(call), guide=self._guide)
        self._coverage = TypeParser(call, self._values, decline=self._decline, omit=self._omit)

    def request(self) -> ExportRequest:
        call, values = self._call, self._values
        self._check_names()
        self._check_format()
        since = values.instant("_since", round_up=False)
        until = values.instant("_until", round_up=True)
        if since is not None and until is not None and since >= until:
            raise InvalidParameter(
                "_since is not before _until, so nothing can lie between; swap or widen them."
            )
        types = self._coverage.types()
        selections = FilterParser(
            call.fhir_version, types, base_urls=base_urls(call.base_url), decline=self._decline
        )
        organize_by = parse_organizer(values.single("organizeOutputBy"), self._decline)
        selection = selections.type_filters(values.type_filters())
        elements = values.listed("_elements") if values.of("_elements") else None
        return ExportRequest(
            tenant=call.tenant,
            url=call.url,
            base_url=call.base_url,
            fhir_version=call.fhir_version,
            level=call.level,
            group_id=call.group_id,
            types=tuple(each for each in types if each not in selection.withheld),
            since=since,
            until=until,
            patients=self._coverage.patients(),
            filters=selection.filters,
            elements=selections.elements(elements),
            associated=self._associated(organize_by),
            organize_by=organize_by,
            referenced_types=() if organize_by else self._coverage.context_types(),
            partial_manifests=values.flag("allowPartialManifests"),
            separate_status=self._prefer.separate_status,
            max_part_bytes=self._max_part_bytes(),
            include_newly_added=call.policy.include_newly_added,
            ignored=tuple(self._ignored),
        )

    def _decline(self, reason: str, *, kind: Callable[[str], Exception]) -> None:
        """Ignore under handling=lenient and say so in an error file; refuse otherwise."""
        if self._prefer.handling is not Handling.LENIENT:
            raise kind(reason)
        self._ignored.append(reason)

    def _omit(self, reason: str, *, kind: Callable[[str], Exception]) -> None:
        """Ignore and say so in an error file, but refuse under handling=strict."""
        if self._prefer.handling is Handling.STRICT:
            raise kind(reason)
        self._ignored.append(reason)

    def _check_names(self) -> None:
        self._values.flag("_dryRun")  # what is misspelt must not start an export
        known = {each.name for each in served_parameters(self._guide)}
        for name in self._values:
            if name not in known and name not in PRESENTATION_PARAMETERS:
                self._decline(
                    f"The parameter {name[:64]!r} is unknown; known are "
                    f"{', '.join(sorted(known))}.",
                    kind=UnsupportedParameter,
                )

    def _check_format(self) -> None:
        value = self._values.single("_outputFormat")
        # A plus sign sent unescaped arrives as a space (WHATWG URL, urlencoded parsing).
        if value is not None and value.strip().replace(" ", "+") not in OUTPUT_FORMATS:
            raise UnsupportedParameter(
                "The _outputFormat is not served; ask for application/fhir+ndjson."
            )

    def _max_part_bytes(self) -> int | None:
        """The largest file that is wanted (Bulk Data 4.0.0-ballot, _maximumFileSize)."""
        smallest = self._values.size("_minimumFileSize")
        largest = self._values.size("_maximumFileSize")
        if smallest is not None and largest is not None and smallest >= largest:
            raise InvalidParameter(
                "_maximumFileSize is not above _minimumFileSize; widen or swap them."
            )
        if smallest is not None:
            self._omit(
                "_minimumFileSize: files may be smaller where a range of the data ends.",
                kind=UnsupportedParameter,
            )
        return largest

    def _associated(self, organize_by: str | None) -> AssociatedData | None:
        chosen = parse_associated(self._values.listed("includeAssociatedData"), self._decline)
        if chosen is None or organize_by is None:
            return chosen
        self._decline(
            "includeAssociatedData cannot be combined with organizeOutputBy, since Provenance "
            "has no place in the blocks; leave one of them out.",
            kind=UnsupportedParameter,
        )
        return None


class TypeParser:
    """Reads `_type` and `patient`, and declines what the level cannot show."""

    def __init__(
        self, call: KickoffRequest, values: ParameterValues, *, decline: Decline, omit: Decline
    ) -> None:
        self._call = call
        self._values = values
        self._decline = decline
        self._omit = omit

    def types(self) -> tuple[str, ...]:
        """
        Give the types to export; all that the level can show where none is named.

        Raises:
            InvalidParameter: None of those named can be exported.
        """
        definitions = load_definitions(self._call.fhir_version)
        if self._call.level is Level.SYSTEM:
            possible = definitions.types
        else:
            possible = definitions.compartment_types("Patient") | {"Patient"}
        if not self._values.of("_type"):
            return tuple(sorted(possible))
        asked = self._values.listed("_type")
        if not asked:
            raise InvalidParameter("_type names no resource type; name some, or leave it out.")
        unknown = [name for name in asked if name not in definitions.types]
        for name in unknown:
            self._decline(self._unknown_type(name), kind=InvalidParameter)
        known = [name for name in asked if name not in unknown]
        return self._within(known, possible)

    def context_types(self) -> tuple[str, ...]:
        """Give types beside those of the compartments; a `_type` limits them too (B2-P-09)."""
        if self._call.level is Level.SYSTEM:
            return ()
        possible = self._values.listed("_type") or load_definitions(self._call.fhir_version).types
        return referenced_types(self._call.policy.referenced_types, possible)

    def patients(self) -> tuple[str, ...] | None:
        """
        Give the ids of the only patients to export, None where none is named.

        Raises:
            InvalidParameter: Nobody can be named here, or a value names no patient.
        """
        if not self._values.of("patient"):
            return None
        if self._call.body is None:
            raise InvalidParameter("patient cannot be sent by GET; send it in a POST.")
        if self._call.level is Level.SYSTEM:
            raise InvalidParameter("patient has no meaning at system level; leave it out.")
        asked = self._values.listed("patient")
        if not asked:
            raise InvalidParameter("patient names nobody; name some patients, or leave it out.")
        ids = (self._patient_id(number, value) for number, value in enumerate(asked, 1))
        return tuple(dict.fromkeys(ids))

    def _unknown_type(self, name: str) -> str:
        version = self._call.fhir_version
        elsewhere = [
            str(v) for v in FHIRVersion if v is not version and name in load_definitions(v).types
        ]
        hint = f"; it is one of {', '.join(elsewhere)}" if elsewhere else ""
        return f"_type: {name[:64]!r} is not a resource type of FHIR {version}{hint}."

    def _within(self, known: Sequence[str], possible: frozenset[str]) -> tuple[str, ...]:
        """Leave out types that this level can never show, as long as something remains."""
        shown = possible.union(self.context_types())
        outside = [name for name in known if name not in shown]
        reason = (
            f"_type: {', '.join(outside or known)} belongs to no patient's compartment, so a "
            f"{self._call.level} export cannot show it; use the system level for it."
        )
        inside = tuple(name for name in known if name in possible)
        if not inside:
            raise InvalidParameter(reason if known else "_type names no type that can be shown.")
        if outside:
            self._omit(reason, kind=InvalidParameter)
        return inside

    def _patient_id(self, number: int, value: str) -> str:
        if "/" not in value:
            value = f"Patient/{value}"
        named = split_reference(value, base_urls(self._call.base_url))
        if named is None or named[0] != "Patient":
            raise InvalidParameter(
                f"patient value number {number} is not a reference to a Patient of this server; "
                "send Patient/[id]."
            )
        return named[1]
