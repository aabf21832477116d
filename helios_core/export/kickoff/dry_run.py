"""Estimate an export without starting it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

import msgspec
import structlog

from helios_core.errors import InvalidRequest
from helios_core.export.kickoff.accept import authorize, plan_shards
from helios_core.export.kickoff.parsing import parse_kickoff
from helios_core.export.kickoff.request import KickoffRequest, ParameterValues, sent_parameters
from helios_core.fhir.compartments import subject_paths
from helios_core.fhir.preferences import parse_preferences
from helios_core.model.exports import ExportRequest, Shard
from helios_core.model.jobs import JobQuery, JobStatus
from helios_core.storage.backends import Backends
from helios_core.storage.threads import compute

log = structlog.stdlib.get_logger()

RECENT_JOBS = 5
"""The number of latest exports from which the duration is estimated."""


class TypeEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """The estimated amount of data of one type."""

    resources: int
    bytes: int
    """Bytes of NDJSON."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a kick-off would export; if it would be refused, only `refused` is set."""

    refused: Sequence[str] = ()
    """Why it would be refused, one sentence per reason."""
    ignored: Sequence[str] = ()
    """One sentence per parameter that would be ignored."""
    remarks: Sequence[str] = ()
    """One sentence per reason why the export can be smaller than estimated, or lacks members."""
    types: Mapping[str, TypeEstimate] = {}
    files: int = 0
    duration: timedelta | None = None
    """The expected duration at the rate of recent exports; None if there were none."""


class FileLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The maximum size of a file."""

    bytes: int
    rows: int | None = None


def is_dry_run(kickoff: KickoffRequest) -> bool:
    """
    Return whether a kick-off requests an estimate.

    Raises:
        InvalidRequest: The body cannot be parsed, or `_dryRun` is neither true nor false.
    """
    return ParameterValues(sent_parameters(kickoff), guide=kickoff.policy.guide).flag("_dryRun")


async def estimate(backends: Backends, kickoff: KickoffRequest, *, limits: FileLimits) -> Estimate:
    """
    Check a kick-off and estimate what it would export, without storing anything.

    The effect of `_typeFilter` and `_elements` is not estimated: the numbers include what these
    would leave out.

    Raises:
        Forbidden: The client may not export this.
        ResourceNotFound: The group does not exist.
        BackendUnavailable: A backend cannot be used at the moment.
    """
    await authorize(kickoff)
    if refused := await compute(kickoff.size, _refusals, kickoff):
        return Estimate(refused=refused)
    request = await compute(kickoff.size, parse_kickoff, kickoff)
    now = await backends.data_provider.transaction_time()
    try:
        view, shards = await plan_shards(backends, request, now, shard_bytes=limits.bytes)
    except InvalidRequest as error:
        return Estimate(refused=(str(error),))
    resources = sum(shard.resources for shard in shards)
    log.info("export.estimated", export_level=request.level, shards=len(shards))
    return Estimate(
        ignored=request.ignored,
        remarks=(*_remarks(request), *view.left_out),
        types=_types(shards),
        files=sum(_files(shard, request, limits) for shard in shards)
        + bool(request.ignored or view.left_out),
        duration=await _duration(backends, kickoff, resources),
    )


def _refusals(kickoff: KickoffRequest) -> tuple[str, ...]:
    """Return every reason for which a kick-off would be refused, each once."""
    reasons = dict[str, None]()
    for attempt in (kickoff, *_single_parameter_kickoffs(kickoff)):
        try:
            parse_kickoff(attempt)
        except InvalidRequest as error:
            reasons[str(error)] = None
    return tuple(reasons)


def _single_parameter_kickoffs(kickoff: KickoffRequest) -> Iterator[KickoffRequest]:
    """Yield kick-offs with one parameter each, so that one refusal does not hide another."""
    try:
        preferences = parse_preferences(kickoff.prefer)
    except InvalidRequest:
        return  # parsing the whole kick-off reports it
    if not preferences.respond_async:
        prefer = [*kickoff.prefer, "respond-async"]
        kickoff = msgspec.structs.replace(kickoff, prefer=prefer)
        yield kickoff
    for name in dict.fromkeys(parameter.name for parameter in sent_parameters(kickoff)):
        query = [pair for pair in kickoff.query if pair[0] == name]
        body = None if kickoff.body is None else _only(name, kickoff.body)
        yield msgspec.structs.replace(kickoff, query=query, body=body)


def _only(name: str, body: bytes) -> bytes:
    """Return a Parameters resource with only the entries of one parameter."""
    parameters = msgspec.json.decode(body)
    entries = [entry for entry in parameters.get("parameter", ()) if entry["name"] == name]
    return msgspec.json.encode({"resourceType": "Parameters", "parameter": entries})


def _remarks(request: ExportRequest) -> Iterator[str]:
    if request.filters:
        types = ", ".join(sorted({query.resource_type for query in request.filters}))
        yield (
            f"_typeFilter is not taken into account: of {types}, only the matching resources will "
            "be exported, at most the number estimated."
        )
    if request.elements:
        yield "_elements is not taken into account: there will be fewer bytes than estimated."
    if request.patients is not None:
        types = ", ".join(t for t in request.types if subject_paths(request.fhir_version, t))
        if types:
            yield (
                f"Resources of type {types} that are also about patients outside of the list in "
                "patient are counted in the estimate, but will be left out."
            )
    if limited := sorted({c.resource_type for c in request.constraints} & {*request.types}):
        yield (
            f"{', '.join(limited)} is not estimated, because the scopes of the access token are "
            "limited to a part of it."
        )
    if request.transforms:
        yield (
            "What plugins change and leave out is not taken into account: there may be fewer "
            "resources and bytes than estimated."
        )


def _types(shards: Sequence[Shard]) -> dict[str, TypeEstimate]:
    types = dict[str, TypeEstimate]()
    for shard in shards:
        if shard.resources:
            so_far = types.get(shard.resource_type, TypeEstimate(resources=0, bytes=0))
            types[shard.resource_type] = TypeEstimate(
                resources=so_far.resources + shard.resources, bytes=so_far.bytes + shard.bytes
            )
    return types


def _files(shard: Shard, request: ExportRequest, limits: FileLimits) -> int:
    if not shard.resources:
        return 0
    size = min(limits.bytes, request.max_part_bytes or limits.bytes)
    by_rows = 1 if limits.rows is None else math.ceil(shard.resources / limits.rows)
    return max(1, math.ceil(shard.bytes / size), by_rows)


async def _duration(
    backends: Backends, kickoff: KickoffRequest, resources: int
) -> timedelta | None:
    """
    Return how long this many resources take at the rate of the latest exports.

    Only the client's own exports count, since it must not learn of others. On an open server, all
    exports of the tenant count.
    """
    query = JobQuery(
        tenant=kickoff.tenant,
        owner=kickoff.principal.owner if kickoff.principal else None,
        statuses=frozenset({JobStatus.COMPLETE}),
    )
    done, elapsed = 0, timedelta()
    for job in await backends.job_store.jobs(query, limit=RECENT_JOBS):
        if job.completed_at is not None:
            done += job.progress.resources_done
            elapsed += job.completed_at - job.created_at
    return elapsed * (resources / done) if done else None
