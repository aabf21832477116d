"""Accept a kick-off: parse it, check it against the data, plan its shards and store its job."""

import secrets
from datetime import datetime

import structlog

from helios_core.errors import InvalidParameter, TooManyExports
from helios_core.export.cohorts import resolve_unfiltered_view
from helios_core.export.kickoff.parsing import parse_kickoff
from helios_core.export.kickoff.planning import plan_export
from helios_core.export.kickoff.request import KickoffRequest
from helios_core.export.oversight import NO_WORKER, is_workforce_missing
from helios_core.export.pipeline.organized_output import ERRORS_ONLY
from helios_core.model.exports import ExportRequest, ExportView, Shard
from helios_core.model.jobs import Job
from helios_core.storage.backends import Backends
from helios_core.storage.permitted_reads import permitted_backends
from helios_core.storage.resource_keys import TypeKey
from helios_core.storage.threads import compute

log = structlog.stdlib.get_logger()

JOB_ID_BYTES = 16
"""Random bytes of a job id: with 128 bits nobody can guess the id of another export."""


async def accept(
    backends: Backends, kickoff: KickoffRequest, *, max_active: int, shard_bytes: int
) -> Job:
    """
    Store a job with its shards for a kick-off (Bulk Data 2.0.0, Bulk Data Kick-off Request).

    Raises:
        Forbidden: The client may not export this.
        InvalidRequest: The request is malformed, or `Prefer: respond-async` is missing.
        InvalidParameter: A parameter's value is not valid.
        UnsupportedParameter: A parameter or value is not supported, and must not be ignored.
        ResourceNotFound: The group does not exist.
        TooManyExports: The tenant already has `max_active` active exports.
        BackendUnavailable: A backend cannot be used at the moment.
    """
    await authorize(kickoff)
    request = await compute(kickoff.size, parse_kickoff, kickoff)
    transaction_time = await backends.data_provider.transaction_time()
    _, shards = await plan_shards(backends, request, transaction_time, shard_bytes=shard_bytes)
    planned = Job(
        id=secrets.token_hex(JOB_ID_BYTES),
        request=request,
        transaction_time=transaction_time,
        owner=kickoff.principal.owner if kickoff.principal else None,
    )
    try:
        job = await backends.job_store.add(planned, shards, max_active=max_active)
    except TooManyExports as error:
        if await is_workforce_missing(backends.job_store):
            raise TooManyExports(f"{error}; {NO_WORKER}") from error
        raise
    log.info("job.accepted", job_id=job.id, export_level=request.level, shards=len(shards))
    backends.announce(job)
    return job


async def authorize(kickoff: KickoffRequest) -> None:
    """
    Ask the authorizer whether the client may start this export, before any lookup (A1).

    Raises:
        Forbidden: The client may not start it.
    """
    if kickoff.principal is not None:
        await kickoff.authorizer.authorize_export(kickoff.principal, kickoff.intent)


async def plan_shards(
    backends: Backends, request: ExportRequest, transaction_time: datetime, *, shard_bytes: int
) -> tuple[ExportView, list[Shard]]:
    """
    Return the view of a request at an instant, without its filters, and its shards.

    Raises:
        InvalidParameter: A patient is not stored, or is not a member of the group.
        ResourceNotFound: The group does not exist.
        BackendUnavailable: A backend cannot be used at the moment.
    """
    backends = permitted_backends(backends, request, transaction_time)
    view = await resolve_unfiltered_view(backends.data_provider, request, transaction_time)
    await _check_patients(backends, view)
    shards = await plan_export(backends.data_provider, view, shard_bytes=shard_bytes)
    if not shards and (request.ignored or view.left_out or request.constraints):
        # The error file needs a shard. So does an export under limits of scopes: if it were
        # complete at once, that would reveal that nothing of the type is stored at all.
        shards = [Shard(number=0, resource_type=ERRORS_ONLY, ordinal=1)]
    return view, shards


async def _check_patients(backends: Backends, view: ExportView) -> None:
    """Raise InvalidParameter, without ids, for patients that are not stored or not members."""
    request, cohort = view.request, view.cohort
    if request.patients is None or cohort is None:
        return
    patients = request.patients
    members = cohort.patients | (view.newcomers.patients if view.newcomers else frozenset())
    if outsiders := [number for number, p in enumerate(patients, 1) if p not in members]:
        raise InvalidParameter(
            f"{len(outsiders)} of {len(patients)} patient values name no member of "
            f"Group/{request.group_id}, the first being number {outsiders[0]}; name members only."
        )
    missing = await backends.data_provider.missing(
        TypeKey.of(request, "Patient"), patients, at=view.transaction_time
    )
    if missing:
        first = next(number for number, p in enumerate(patients, 1) if p in missing)
        raise InvalidParameter(
            f"{len(missing)} of {len(patients)} patient values name no Patient stored here, the "
            f"first being number {first}; leave them out."
        )
