"""Read a kick-off: the meaning of a call, as far as that goes without looking into a store."""

from collections.abc import Callable

from helios_core.errors import InvalidParameter, InvalidRequest, UnsupportedParameter
from helios_core.exports import Associated, ExportRequest
from helios_core.fhir.references import bases
from helios_core.kickoff.calls import Call, given_in
from helios_core.kickoff.catalogue import OUTPUT_FORMATS, served
from helios_core.kickoff.choices import associated, organizer
from helios_core.kickoff.coverage import Coverage
from helios_core.kickoff.parameters import PRESENTATION, Handling, Preferences, preferences
from helios_core.kickoff.selections import Selections
from helios_core.kickoff.values import Values


def read_request(call: Call) -> ExportRequest:
    """
    Give the meaning of a call, checked as far as that goes without looking into a store.

    Raises:
        InvalidRequest: The call is malformed, or `Prefer: respond-async` is missing.
        InvalidParameter: A parameter's value cannot mean anything.
        UnsupportedParameter: A parameter or value is not served, and must not be ignored.
    """
    prefer = preferences(call.prefer)
    if not prefer.respond_async:
        raise InvalidRequest(
            "The header Prefer: respond-async is missing; an export is always asynchronous."
        )
    return _Reading(call, prefer).request()


class _Reading:
    """One pass over the parameters of one call."""

    def __init__(self, call: Call, prefer: Preferences) -> None:
        self._call = call
        self._guide = call.policy.guide
        self._prefer = prefer
        self._ignored = list[str]()
        self._values = Values(given_in(call), guide=self._guide)
        self._coverage = Coverage(call, self._values, decline=self._decline, omit=self._omit)

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
        selections = Selections(
            call.fhir_version, types, base_urls=bases(call.base_url), decline=self._decline
        )
        organize_by = organizer(values.single("organizeOutputBy"), self._decline)
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
        known = {each.name for each in served(self._guide)}
        for name in self._values:
            if name not in known and name not in PRESENTATION:
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

    def _associated(self, organize_by: str | None) -> Associated | None:
        chosen = associated(self._values.listed("includeAssociatedData"), self._decline)
        if chosen is None or organize_by is None:
            return chosen
        self._decline(
            "includeAssociatedData cannot be combined with organizeOutputBy, since Provenance "
            "has no place in the blocks; leave one of them out.",
            kind=UnsupportedParameter,
        )
        return None
