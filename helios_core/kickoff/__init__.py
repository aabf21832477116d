"""Accept an export: check what is asked, resolve it, plan it, store the job."""

import re
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec
import structlog

from helios_core.cohorts import unfiltered_view_of
from helios_core.errors import InvalidParameter, InvalidRequest, UnsupportedParameter
from helios_core.exports import Associated, ExportRequest, ExportView, Level, Shard
from helios_core.fhir.bulk_data import CURRENT, Guide
from helios_core.fhir.instants import parse_instant
from helios_core.fhir.references import bases, split_reference
from helios_core.fhir.search import split_type_filter
from helios_core.fhir.versions import FHIRVersion, table
from helios_core.jobs import Job
from helios_core.kickoff.choices import associated, context_types, organizer
from helios_core.kickoff.parameters import (
    PRESENTATION,
    Given,
    Handling,
    Preferences,
    from_body,
    preferences,
)
from helios_core.kickoff.planning import plan
from helios_core.kickoff.selections import Selections
from helios_core.plugins import Backends

log = structlog.stdlib.get_logger()

JOB_ID_BYTES = 16
"""128 random bits: nobody guesses the id of somebody else's export."""

OUTPUT_FORMATS = frozenset({"application/fhir+ndjson", "application/ndjson", "ndjson"})
"""The spellings of the one format there is (Bulk Data 2.0.0, Query Parameters)."""

ERRORS_ONLY = "OperationOutcome"
"""The type of a shard that has nothing to read, but something to report."""

SIZE = re.compile(r"0*[1-9]\d{0,17}", re.ASCII)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator decided about every export."""

    include_newly_added: bool = True
    """Whether with `_since` members who joined later bring their older data."""
    referenced_types: tuple[str, ...] = ()
    """Types that exports of patients bring where something refers to them."""
    guide: Guide = CURRENT
    """The version of the guide that is spoken."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A kick-off as it came in through the door, not yet looked at."""

    tenant: str
    fhir_version: FHIRVersion
    level: Level
    group_id: str | None = None
    url: str
    """The absolute URL with query, exactly as the client sent it."""
    query: Sequence[tuple[str, str]] = ()
    """Decoded name and value pairs of the query string, in order, repeats kept."""
    body: bytes | None = None
    """The Parameters resource of a POST, None for a GET."""
    prefer: Sequence[str] = ()
    """The values of the Prefer header lines."""
    owner: str | None = None
    base_url: str = ""
    """The server's public base URL; a patient may be named by an absolute URL below it."""
    policy: Policy = Policy()


async def accept(backends: Backends, call: Call, *, max_active: int, shard_bytes: int) -> Job:
    """
    Turn a call into a stored job with its shards (Bulk Data 2.0.0, Bulk Data Kick-off Request).

    Raises:
        InvalidRequest: The call is malformed, or `Prefer: respond-async` is missing.
        InvalidParameter: A parameter's value cannot mean anything.
        UnsupportedParameter: A parameter or value is not served, and must not be ignored.
        ResourceNotFound: The group does not exist.
        TooManyExports: The tenant's cap of active exports is reached.
        BackendUnavailable: The store cannot answer now.
    """
    request = read_request(call)
    transaction_time = await backends.provider.transaction_time()
    shards = await planned(backends, request, transaction_time, shard_bytes=shard_bytes)
    job = await backends.jobs.add(
        Job(
            id=secrets.token_hex(JOB_ID_BYTES),
            request=request,
            transaction_time=transaction_time,
            owner=call.owner,
        ),
        shards,
        max_active=max_active,
    )
    log.info("job.accepted", job_id=job.id, export_level=request.level, shards=len(shards))
    backends.announce(job)
    return job


async def planned(
    backends: Backends, request: ExportRequest, transaction_time: datetime, *, shard_bytes: int
) -> list[Shard]:
    """
    Give the shards of what is asked for at an instant.

    Raises:
        InvalidParameter: As in `accept`; so are ResourceNotFound and BackendUnavailable.
    """
    view = await unfiltered_view_of(backends.provider, request, transaction_time)
    await _check_patients(backends, view)
    shards = await plan(backends.provider, view, shard_bytes=shard_bytes)
    if not shards and request.ignored:  # somebody has to write the error file
        return [Shard(number=0, resource_type=ERRORS_ONLY, ordinal=1)]
    return shards


async def _check_patients(backends: Backends, view: ExportView) -> None:
    """Refuse patients that do not exist or are no members, without repeating who they are."""
    request, cohort = view.request, view.cohort
    if request.patients is None or cohort is None:
        return
    named = request.patients
    members = cohort.patients | (view.newcomers.patients if view.newcomers else frozenset())
    if outsiders := [number for number, p in enumerate(named, 1) if p not in members]:
        raise InvalidParameter(
            f"{len(outsiders)} of {len(named)} patient values name no member of "
            f"Group/{request.group_id}, the first being number {outsiders[0]}; name members only."
        )
    missing = await backends.provider.missing(
        request.tenant, request.fhir_version, "Patient", named, at=view.transaction_time
    )
    if missing:
        first = next(number for number, p in enumerate(named, 1) if p in missing)
        raise InvalidParameter(
            f"{len(missing)} of {len(named)} patient values name no Patient stored here, the "
            f"first being number {first}; leave them out."
        )


def read_request(call: Call) -> ExportRequest:
    """
    Give the meaning of a call, checked as far as that goes without looking into a store.

    Raises:
        InvalidRequest: As in `accept`; so are InvalidParameter and UnsupportedParameter.
    """
    prefer = preferences(call.prefer)
    if not prefer.respond_async:
        raise InvalidRequest(
            "The header Prefer: respond-async is missing; an export is always asynchronous."
        )
    return _Reading(call, prefer).request()


def given_in(call: Call) -> list[Given]:
    """
    Give the parameters of a call, those of the query string first.

    Raises:
        InvalidRequest: The body is not a Parameters resource; so is InvalidParameter.
    """
    given = [Given(name, value) for name, value in call.query]
    return given if call.body is None else given + from_body(call.body)


def flag(given: Sequence[Given], name: str) -> bool:
    """
    Give the value of a boolean parameter, false where it is not given.

    Raises:
        InvalidParameter: It is given twice, or is neither true nor false.
    """
    values = [each.value for each in given if each.name == name]
    if len(values) > 1:
        raise InvalidParameter(f"{name} is given {len(values)} times; give it once.")
    if values and values[0] not in ("true", "false"):
        raise InvalidParameter(f"{name} is neither true nor false; send one of them.")
    return values == ["true"]


class _Reading:
    """One pass over the parameters of one call."""

    def __init__(self, call: Call, prefer: Preferences) -> None:
        self._call = call
        self._guide = call.policy.guide
        self._prefer = prefer
        self._handling = prefer.handling
        self._ignored = list[str]()
        self._given = given_in(call)

    def request(self) -> ExportRequest:
        self._check_names()
        self._check_format()
        since = self._instant("_since", round_up=False)
        until = self._instant("_until", round_up=True)
        if since is not None and until is not None and since >= until:
            raise InvalidParameter(
                "_since is not before _until, so nothing can lie between; swap or widen them."
            )
        types = self._types()
        selections = Selections(
            self._call.fhir_version,
            types,
            base_urls=bases(self._call.base_url),
            decline=self._decline,
        )
        organize_by = organizer(self._single("organizeOutputBy"), self._decline)
        selection = selections.type_filters(self._type_filters())
        return ExportRequest(
            tenant=self._call.tenant,
            url=self._call.url,
            base_url=self._call.base_url,
            fhir_version=self._call.fhir_version,
            level=self._call.level,
            group_id=self._call.group_id,
            types=tuple(each for each in types if each not in selection.withheld),
            since=since,
            until=until,
            patients=self._patients(),
            filters=selection.filters,
            elements=selections.elements(self._given_list("_elements")),
            associated=self._associated(organize_by),
            organize_by=organize_by,
            referenced_types=() if organize_by else self._context_types(),
            partial_manifests=flag(self._given, "allowPartialManifests"),
            separate_status=self._prefer.separate_status,
            max_part_bytes=self._max_part_bytes(),
            include_newly_added=self._call.policy.include_newly_added,
            ignored=tuple(self._ignored),
        )

    def _values(self, name: str) -> list[str]:
        return [given.value for given in self._given if given.name == name]

    def _listed(self, name: str) -> list[str]:
        """The values of a list, repeats joined, blanks and doubles dropped."""
        if not self._guide.comma_lists and any("," in value for value in self._values(name)):
            raise InvalidParameter(f"{name} has a comma in it; repeat it for each value.")
        values = [v.strip() for value in self._values(name) for v in value.split(",")]
        return list(dict.fromkeys(v for v in values if v))

    def _type_filters(self) -> list[str]:
        values = self._values("_typeFilter")
        joined = any(len(list(split_type_filter(value))) > 1 for value in values)
        if joined and not self._guide.comma_lists:
            raise InvalidParameter("_typeFilter joins queries by a comma; repeat it for each.")
        return values

    def _given_list(self, name: str) -> list[str] | None:
        return self._listed(name) if self._values(name) else None

    def _single(self, name: str) -> str | None:
        values = self._values(name)
        if len(values) > 1:
            raise InvalidParameter(f"{name} is given {len(values)} times; give it once.")
        return values[0] if values else None

    def _decline(self, reason: str, *, kind: Callable[[str], Exception]) -> None:
        """Ignore under handling=lenient and say so in an error file; refuse otherwise."""
        if self._handling is not Handling.LENIENT:
            raise kind(reason)
        self._ignored.append(reason)

    def _check_names(self) -> None:
        flag(self._given, "_dryRun")  # what is misspelt must not start an export
        served = SERVED | self._guide.parameters
        for name in dict.fromkeys(given.name for given in self._given):
            if name in served or name in PRESENTATION:
                continue
            self._decline(
                f"The parameter {name[:64]!r} is unknown; known are {', '.join(sorted(served))}.",
                kind=UnsupportedParameter,
            )

    def _check_format(self) -> None:
        value = self._single("_outputFormat")
        # A plus sign sent unescaped arrives as a space (WHATWG URL, urlencoded parsing).
        if value is not None and value.strip().replace(" ", "+") not in OUTPUT_FORMATS:
            raise UnsupportedParameter(
                "The _outputFormat is not served; ask for application/fhir+ndjson."
            )

    def _max_part_bytes(self) -> int | None:
        """The largest file that is wanted (Bulk Data 4.0.0-ballot, _maximumFileSize)."""
        smallest, largest = self._size("_minimumFileSize"), self._size("_maximumFileSize")
        if smallest is not None and largest is not None and smallest >= largest:
            raise InvalidParameter(
                "_maximumFileSize is not above _minimumFileSize; widen or swap them."
            )
        if smallest is not None:
            reason = "_minimumFileSize: files may be smaller where a range of the data ends."
            if self._handling is Handling.STRICT:
                raise UnsupportedParameter(reason)
            self._ignored.append(reason)
        return largest

    def _size(self, name: str) -> int | None:
        value = self._single(name) if name in self._guide.parameters else None
        if value is None:
            return None
        if not SIZE.fullmatch(value):
            raise InvalidParameter(f"{name} is not a whole number of bytes from 1; send one.")
        return int(value)

    def _instant(self, name: str, *, round_up: bool) -> datetime | None:
        value = self._single(name)
        if value is None:
            return None
        try:
            return parse_instant(value.strip(), round_up=round_up)
        except InvalidParameter as error:
            raise InvalidParameter(f"{name}: {error}") from error

    def _types(self) -> tuple[str, ...]:
        definitions = table(self._call.fhir_version)
        if self._call.level is Level.SYSTEM:
            possible = definitions.types
        else:
            possible = definitions.compartment_types("Patient") | {"Patient"}
        if not self._values("_type"):
            return tuple(sorted(possible))
        asked = self._listed("_type")
        if not asked:
            raise InvalidParameter("_type names no resource type; name some, or leave it out.")
        unknown = [name for name in asked if name not in definitions.types]
        for name in unknown:
            self._decline(self._unknown_type(name), kind=InvalidParameter)
        known = [name for name in asked if name not in unknown]
        return self._within(known, possible)

    def _context_types(self) -> tuple[str, ...]:
        """Types beside those of the compartments; a `_type` limits them too (B2-P-09)."""
        if self._call.level is Level.SYSTEM:
            return ()
        possible = self._listed("_type") or table(self._call.fhir_version).types
        return context_types(self._call.policy.referenced_types, possible)

    def _associated(self, organize_by: str | None) -> Associated | None:
        chosen = associated(self._listed("includeAssociatedData"), self._decline)
        if chosen is None or organize_by is None:
            return chosen
        self._decline(
            "includeAssociatedData cannot be combined with organizeOutputBy, since Provenance "
            "has no place in the blocks; leave one of them out.",
            kind=UnsupportedParameter,
        )
        return None

    def _unknown_type(self, name: str) -> str:
        version = self._call.fhir_version
        elsewhere = [str(v) for v in FHIRVersion if v is not version and name in table(v).types]
        hint = f"; it is one of {', '.join(elsewhere)}" if elsewhere else ""
        return f"_type: {name[:64]!r} is not a resource type of FHIR {version}{hint}."

    def _within(self, known: Sequence[str], possible: frozenset[str]) -> tuple[str, ...]:
        """Leave out types that this level can never show, as long as something remains."""
        shown = possible.union(self._context_types())
        outside = [name for name in known if name not in shown]
        reason = (
            f"_type: {', '.join(outside or known)} belongs to no patient's compartment, so a "
            f"{self._call.level} export cannot show it; use the system level for it."
        )
        inside = tuple(name for name in known if name in possible)
        if not inside:
            raise InvalidParameter(reason if known else "_type names no type that can be shown.")
        if outside and self._handling is Handling.STRICT:
            raise InvalidParameter(reason)
        if outside:
            self._ignored.append(reason)
        return inside

    def _patients(self) -> tuple[str, ...] | None:
        if not any(given.name == "patient" for given in self._given):
            return None
        if self._call.body is None:
            raise InvalidParameter("patient cannot be sent by GET; send it in a POST.")
        if self._call.level is Level.SYSTEM:
            raise InvalidParameter("patient has no meaning at system level; leave it out.")
        asked = self._listed("patient")
        if not asked:
            raise InvalidParameter("patient names nobody; name some patients, or leave it out.")
        ids = (self._patient_id(number, value) for number, value in enumerate(asked, 1))
        return tuple(dict.fromkeys(ids))

    def _patient_id(self, number: int, value: str) -> str:
        if "/" not in value:
            value = f"Patient/{value}"
        named = split_reference(value, bases(self._call.base_url))
        if named is None or named[0] != "Patient":
            raise InvalidParameter(
                f"patient value number {number} is not a reference to a Patient of this server; "
                "send Patient/[id]."
            )
        return named[1]


SERVED = frozenset(
    {
        "_dryRun",
        "_elements",
        "_outputFormat",
        "_since",
        "_type",
        "_typeFilter",
        "_until",
        "allowPartialManifests",
        "includeAssociatedData",
        "organizeOutputBy",
        "patient",
    }
)
"""The parameters of the guide that are served, and `_dryRun`."""
