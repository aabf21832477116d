"""Whom and what an export shows, resolved as of its transaction time."""

from datetime import datetime, timedelta

import msgspec
import xxhash

from helios_core.data_providers import DataProvider
from helios_core.exports import Cohort, ExportRequest, ExportView, Level, Purpose, Shard
from helios_core.filters import resolved_filters
from helios_core.groups import Groups, earliest, latest

_MICROSECOND = timedelta(microseconds=1)


async def view_of(
    provider: DataProvider, request: ExportRequest, transaction_time: datetime
) -> ExportView:
    """
    Give what an export shows, with its cohort and filters resolved as of the transaction time.

    The same request at the same instant always gives the same view, so a worker can resolve it
    again long after the kick-off.

    Raises:
        ResourceNotFound: The group, or a group nested in it, does not exist.
        UnsupportedParameter: The group is not one of patients.
    """
    view = await unfiltered_view_of(provider, request, transaction_time)
    filters, gaps = await resolved_filters(provider, request, transaction_time)
    return msgspec.structs.replace(view, filters=filters, gaps=gaps)


async def unfiltered_view_of(
    provider: DataProvider, request: ExportRequest, transaction_time: datetime
) -> ExportView:
    """Give the view without its filters, which may take long to resolve: enough to plan."""
    cohort, newcomers = await _cohorts(provider, request, transaction_time)
    return ExportView(
        request=request, transaction_time=transaction_time, cohort=cohort, newcomers=newcomers
    )


def older_view(view: ExportView) -> ExportView | None:
    """
    Give what newcomers bring from before `since`; None if nobody does.

    Together with the view it shows every resource of theirs, and none twice: what changed after
    `since` is in the view, and the rest is here.
    """
    request = view.request
    if view.newcomers is None or request.since is None or not request.include_newly_added:
        return None
    before = msgspec.structs.replace(request, since=None, until=request.since + _MICROSECOND)
    return msgspec.structs.replace(view, request=before, cohort=view.newcomers, newcomers=None)


def view_for(view: ExportView, shard: Shard) -> ExportView:
    """Give what of an export a shard is about."""
    older = older_view(view) if shard.purpose is Purpose.OLDER else None
    return older or view


async def _cohorts(
    provider: DataProvider, request: ExportRequest, at: datetime
) -> tuple[Cohort | None, Cohort | None]:
    named = None if request.patients is None else frozenset(request.patients)
    if request.level is not Level.GROUP:
        cohort = None if named is None else Cohort(key=_key(request, at), patients=named)
        return cohort, None
    members, newcomers = await _members(Groups(provider, request), request, at)
    if named is not None:
        members, newcomers = members & named, newcomers & named
    key = _key(request, at)
    return (
        Cohort(key=key, patients=members),
        Cohort(key=f"{key}/newcomers", patients=newcomers) if newcomers else None,
    )


def _key(request: ExportRequest, at: datetime) -> str:
    narrowed = xxhash.xxh3_128_hexdigest("\n".join(request.patients or ()).encode())
    group = f"{request.tenant}/{request.fhir_version}/{request.group_id}"
    since = "" if request.since is None else request.since.isoformat()
    return f"{group}/{at.isoformat()}/{narrowed}/{since}/{request.include_newly_added}"


async def _members(
    groups: Groups, request: ExportRequest, at: datetime
) -> tuple[frozenset[str], frozenset[str]]:
    """Give whose data is shown, and who joined after `since`."""
    since, include = request.since, request.include_newly_added
    if since is None or since >= at:
        return frozenset(await groups.joined(at)), frozenset()
    # In doubt a member brings older data, and in doubt nobody is left out.
    joined = await groups.joined(at, edge=latest if include else earliest)
    members = frozenset(joined)
    newcomers = {patient for patient, instant in joined.items() if instant > since}
    before = await groups.members_before(since)
    if before is not None:
        newcomers |= members - before
    elif include:
        newcomers |= members
    return members if include else members - newcomers, frozenset(newcomers)
