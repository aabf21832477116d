"""Tell what an export would be, without starting one."""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

import msgspec
import structlog

from helios_core.errors import InvalidRequest
from helios_core.export.kickoff.accept import plan_shards
from helios_core.export.kickoff.parameters import KickoffRequest, ParameterValues, given_parameters
from helios_core.export.kickoff.parsing import parse_kickoff
from helios_core.fhir.preferences import parse_preferences
from helios_core.model.exports import ExportRequest, Shard
from helios_core.storage.backends import Backends

log = structlog.stdlib.get_logger()

RECENT = 5
"""How many of the latest exports tell how fast exports are."""


class TypeEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """About how much there is of one type."""

    resources: int
    bytes: int
    """Bytes of NDJSON."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What would become of a call; nothing is estimated of one that would be refused."""

    refused: Sequence[str] = ()
    """Why it would be refused, one sentence per reason."""
    ignored: Sequence[str] = ()
    """One sentence per parameter that would be ignored."""
    remarks: Sequence[str] = ()
    """One sentence per thing that makes the export smaller than the numbers say."""
    types: Mapping[str, TypeEstimate] = {}
    files: int = 0
    duration: timedelta | None = None
    """How long exports of that size took of late; None where there were none."""


class FileLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Where files are cut."""

    bytes: int
    rows: int | None = None


def is_dry_run(call: KickoffRequest) -> bool:
    """
    Whether a call is one for an estimate.

    Raises:
        InvalidRequest: The body cannot be read, or `_dryRun` is neither true nor false.
    """
    return ParameterValues(given_parameters(call), guide=call.policy.guide).flag("_dryRun")


async def estimate(backends: Backends, call: KickoffRequest, *, limits: FileLimits) -> Estimate:
    """
    Check a call as a kick-off would, and give what it would bring; nothing is stored.

    What a `_typeFilter` or `_elements` leaves out is not estimated: the numbers are those of what
    is looked at.

    Raises:
        ResourceNotFound: The group does not exist.
        BackendUnavailable: The store cannot answer now.
    """
    if refused := tuple(_refusals(call)):
        return Estimate(refused=refused)
    request = parse_kickoff(call)
    now = await backends.data_provider.transaction_time()
    try:
        shards = await plan_shards(backends, request, now, shard_bytes=limits.bytes)
    except InvalidRequest as error:
        return Estimate(refused=(str(error),))
    resources = sum(shard.resources for shard in shards)
    log.info("export.estimated", export_level=request.level, shards=len(shards))
    return Estimate(
        ignored=request.ignored,
        remarks=tuple(_remarks(request)),
        types=_amounts(shards),
        files=sum(_files(shard, request, limits) for shard in shards) + bool(request.ignored),
        duration=await _duration(backends, call.tenant, resources),
    )


def _refusals(call: KickoffRequest) -> Iterator[str]:
    """Tell every reason for which a call would be refused, each once."""
    reasons = dict[str, None]()
    for each in (call, *_apart(call)):
        try:
            parse_kickoff(each)
        except InvalidRequest as error:
            reasons[str(error)] = None
    yield from reasons


def _apart(call: KickoffRequest) -> Iterator[KickoffRequest]:
    """Give calls with one parameter each, so that one refusal does not hide the next."""
    try:
        prefer = parse_preferences(call.prefer)
    except InvalidRequest:
        return  # it is told of the call as a whole
    if not prefer.respond_async:
        call = msgspec.structs.replace(call, prefer=[*call.prefer, "respond-async"])
        yield call
    for name in dict.fromkeys(given.name for given in given_parameters(call)):
        query = [pair for pair in call.query if pair[0] == name]
        body = None if call.body is None else _only(name, call.body)
        yield msgspec.structs.replace(call, query=query, body=body)


def _only(name: str, body: bytes) -> bytes:
    parameters = msgspec.json.decode(body)
    entries = [each for each in parameters.get("parameter", ()) if each["name"] == name]
    return msgspec.json.encode({"resourceType": "Parameters", "parameter": entries})


def _remarks(request: ExportRequest) -> Iterator[str]:
    if request.filters:
        types = ", ".join(sorted({each.resource_type for each in request.filters}))
        yield (
            f"_typeFilter is not counted in: of {types} there will be as many resources as match, "
            "not more than the number given."
        )
    if request.elements:
        yield "_elements is not counted in: there will be fewer bytes than the number given."


def _amounts(shards: Sequence[Shard]) -> dict[str, TypeEstimate]:
    amounts = dict[str, TypeEstimate]()
    for shard in shards:
        if shard.resources:
            so_far = amounts.get(shard.resource_type, TypeEstimate(resources=0, bytes=0))
            amounts[shard.resource_type] = TypeEstimate(
                resources=so_far.resources + shard.resources, bytes=so_far.bytes + shard.bytes
            )
    return amounts


def _files(shard: Shard, request: ExportRequest, limits: FileLimits) -> int:
    if not shard.resources:
        return 0
    size = min(limits.bytes, request.max_part_bytes or limits.bytes)
    by_rows = 1 if limits.rows is None else math.ceil(shard.resources / limits.rows)
    return max(1, math.ceil(shard.bytes / size), by_rows)


async def _duration(backends: Backends, tenant: str, resources: int) -> timedelta | None:
    """Give how long so many resources take at the rate of the tenant's latest exports."""
    done, taken = 0, timedelta()
    for job in await backends.job_store.recent(tenant, limit=RECENT):
        if job.created_at is not None and job.completed_at is not None:
            done += (await backends.job_store.progress(tenant, job.id)).resources_done
            taken += job.completed_at - job.created_at
    return taken * (resources / done) if done else None
