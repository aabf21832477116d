"""The patients and resources that an export contains, as of its transaction time."""

from datetime import datetime, timedelta

import msgspec
import xxhash

from helios_core.export.filters import resolve_filters
from helios_core.export.groups import GroupMembers, Membership, first_stamp, last_stamp
from helios_core.fhir.instants import to_stamp
from helios_core.model.exports import Cohort, ExportRequest, ExportView, Level, Shard, ShardPurpose
from helios_core.storage.data_provider import DataProvider

_MICROSECOND = timedelta(microseconds=1)


async def resolve_view(
    provider: DataProvider, request: ExportRequest, transaction_time: datetime
) -> ExportView:
    """
    Return the view of an export, with its cohort and filters resolved as of the transaction time.

    The same request at the same instant always has the same view, so that a worker can resolve it
    again long after the kick-off.

    Raises:
        ResourceNotFound: The group, or a group nested in it, does not exist.
        InvalidRequest: One of these groups cannot be read.
        UnsupportedParameter: One of these groups is not a group of patients, or does not list its
            members.
    """
    view = await resolve_unfiltered_view(provider, request, transaction_time)
    filters, gaps = await resolve_filters(provider, request, transaction_time)
    return msgspec.structs.replace(view, filters=filters, gaps=gaps)


async def resolve_unfiltered_view(
    provider: DataProvider, request: ExportRequest, transaction_time: datetime
) -> ExportView:
    """
    Return the view without its filters, which take long to resolve and are not needed to plan.

    Raises:
        RequestError: As `resolve_view` does.
    """
    view = ExportView(request=request, transaction_time=transaction_time)
    named = None if request.patients is None else frozenset(request.patients)
    key = _cohort_key(request, transaction_time)
    if request.level is Level.GROUP:
        return await _group_view(provider, view, named, key)
    if named is None:
        return view
    return msgspec.structs.replace(
        view, cohort=Cohort(key=key, patients=named), groups=frozenset[str]()
    )


def newcomers_view(view: ExportView) -> ExportView | None:
    """
    Return the view of the resources of newcomers that have not changed since `since`.

    Return None if there are no newcomers or their older data is not exported. Together with the
    view it shows all resources of newcomers, and none of them twice.
    """
    request = view.request
    if view.newcomers is None or request.since is None or not request.include_newly_added:
        return None
    before = msgspec.structs.replace(request, since=None, until=request.since + _MICROSECOND)
    return msgspec.structs.replace(view, request=before, cohort=view.newcomers, newcomers=None)


def shard_view(view: ExportView, shard: Shard) -> ExportView:
    """Return the view that a shard is a part of."""
    older = newcomers_view(view) if shard.purpose is ShardPurpose.OLDER else None
    return older or view


async def _group_view(
    provider: DataProvider, view: ExportView, named: frozenset[str] | None, key: str
) -> ExportView:
    """Return the view of the members of a Group, or of the `named` ones among them."""
    request, at = view.request, view.transaction_time
    group = GroupMembers(provider, request)
    since, include = request.since, request.include_newly_added
    if since is None or since >= at:
        now = await group.resolve(at)
        members, newcomers, before = frozenset(now.joined), frozenset[str](), None
    else:
        # A start of less precision than `since` is read in the client's favour: if older data of
        # newcomers is exported, the member is a newcomer; if newcomers are left out, it is not.
        rounding = last_stamp if include else first_stamp
        now = await group.resolve(at, rounding=rounding)
        before = await group.resolve_earlier(since)
        members, newcomers = _with_newcomers(now, before, since, include=include)
    if named is not None:
        members, newcomers = members & named, newcomers & named
    return msgspec.structs.replace(
        view,
        cohort=Cohort(key=key, patients=members),
        newcomers=Cohort(key=f"{key}/newcomers", patients=newcomers) if newcomers else None,
        groups=now.groups,
        former_groups=before.groups if before else frozenset[str](),
        left_out=(*now.left_out, *await group.not_stored(members, at)),
    )


def _cohort_key(request: ExportRequest, at: datetime) -> str:
    patients = xxhash.xxh3_128_hexdigest("\n".join(request.patients or ()).encode())
    group = f"{request.tenant}/{request.fhir_version}/{request.group_id}"
    since = "" if request.since is None else request.since.isoformat()
    # Which versions of the Group a client may see decides who is a newcomer.
    limits = xxhash.xxh3_128_hexdigest(msgspec.json.encode(request.constraints))
    return f"{group}/{at.isoformat()}/{patients}/{since}/{request.include_newly_added}/{limits}"


def _with_newcomers(
    now: Membership, before: Membership | None, since: datetime, *, include: bool
) -> tuple[frozenset[str], frozenset[str]]:
    """Return the members whose data is exported, and those who joined after `since`."""
    members = frozenset(now.joined)
    newcomers = {patient for patient, stamp in now.joined.items() if stamp > to_stamp(since)}
    if before is not None:
        newcomers |= members - frozenset(before.joined)
    elif include:
        newcomers |= members
    return members if include else members - newcomers, frozenset(newcomers)
