"""The filters of an export: compile them, resolve their lookups, and read what they match."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import datetime

import structlog

from helios_core.export.disclosure import Disclosure, disclosure
from helios_core.fhir.references import base_urls
from helios_core.fhir.search import Filter, Lookup, any_filter, compile_query
from helios_core.model.exports import ExportRequest, ExportView, Level, Shard
from helios_core.storage.data_provider import (
    WHOLE_TYPE,
    Batch,
    Damaged,
    DataProvider,
    SupportsHistory,
    SupportsPrefilter,
)
from helios_core.storage.integrity import DECODE_ERRORS, damaged_json
from helios_core.storage.resource_keys import TypeKey
from helios_core.storage.threads import compute

log = structlog.stdlib.get_logger()

BATCH_BYTES = 4 * 1024 * 1024
"""Maximum bytes of a batch that is read to resolve a lookup, unless one resource is larger."""


def compile_filters(request: ExportRequest, now: datetime) -> dict[str, Filter]:
    """
    Return the filter of each filtered type; `now` is the instant that relative dates refer to.

    Raises:
        InvalidParameter: A search value is not valid.
        UnsupportedParameter: A query uses a feature that is not supported.
    """
    filters_by_type = defaultdict[str, list[Filter]](list)
    for query in request.filters:
        filters_by_type[query.resource_type].append(
            compile_query(
                request.fhir_version,
                query.resource_type,
                query.pairs,
                base_urls=base_urls(request.base_url),
                now=now,
            )
        )
    return {name: any_filter(filters) for name, filters in filters_by_type.items()}


async def resolve_filters(
    provider: DataProvider, request: ExportRequest, at: datetime
) -> tuple[dict[str, Filter], tuple[str, ...]]:
    """
    Return the filters with their lookups resolved as of an instant, and a sentence for each gap.

    A gap is a damaged resource that a lookup could not take into account. The ids that a lookup
    finds are kept in memory.
    """
    size = sum(len(value) for query in request.filters for _, value in query.pairs)
    filters = await compute(size, compile_filters, request, at)
    lookups = {lookup.key: lookup for f in filters.values() for lookup in f.lookups}
    ids_by_key = dict[str, frozenset[str]]()
    gaps = list[str]()
    for key, lookup in lookups.items():
        resolved_lookup = lookup.resolved(ids_by_key)
        ids_by_key[key], damaged = await _resolve_lookup(provider, request, resolved_lookup, at)
        gaps += map(_gap, damaged)
    resolved = {
        resource_type: filter_.resolved(ids_by_key) for resource_type, filter_ in filters.items()
    }
    return resolved, tuple(dict.fromkeys(gaps))


def read_filtered(
    provider: DataProvider,
    view: ExportView,
    shard: Shard,
    *,
    filter_: Filter | None,
    batch_bytes: int,
) -> AsyncIterator[Batch]:
    """
    Read all resources of a shard that match a filter, and as few others as possible.

    Without an index for the filter the whole shard is read.
    """
    prefilter = None if filter_ is None else filter_.prefilter()
    if prefilter is not None and isinstance(provider, SupportsPrefilter):
        return provider.read_candidates(view, shard, prefilter, batch_bytes=batch_bytes)
    return provider.read(view, shard, batch_bytes=batch_bytes)


async def matching_deletions(
    provider: DataProvider,
    view: ExportView,
    resource_type: str,
    filter_: Filter | None,
    ids: Sequence[str],
) -> Sequence[str]:
    """
    Return the deleted ids whose last content matched a filter and may have been exported.

    Without history the last content is unknown. If it matters, no id is returned, because the
    client may never have received that resource.
    """
    limit = disclosure(view, resource_type)
    if limit is not None and limit.ids is not None:
        ids, limit = [i for i in ids if i in limit.deleted_ids], None
    if filter_ is None and limit is None:
        return ids
    contents = await last_contents(provider, view, resource_type, ids)
    return [i for i, content in contents.items() if _matches(filter_, limit, content)]


async def last_contents(
    provider: DataProvider, view: ExportView, resource_type: str, ids: Sequence[str]
) -> dict[str, bytes]:
    """Return the last content of deleted resources by id; ids without known content are absent."""
    if not isinstance(provider, SupportsHistory):
        return {}
    contents = dict[str, bytes]()
    for id_ in ids:
        key = TypeKey.of(view.request, resource_type).resource(id_)
        deletion = await provider.get(key, at=view.transaction_time)
        if deletion is None:
            continue
        last = await provider.get_version(key, deletion.version_id - 1)
        if last is not None and last.content is not None:
            contents[id_] = last.content
    return contents


def _matches(filter_: Filter | None, limit: Disclosure | None, content: bytes) -> bool:
    with suppress(*DECODE_ERRORS):
        return (filter_ is None or filter_.matches(content)) and (
            limit is None or limit.allows(content)
        )
    return False


async def _resolve_lookup(
    provider: DataProvider, request: ExportRequest, lookup: Lookup, at: datetime
) -> tuple[frozenset[str], list[Damaged]]:
    """Return the ids that a lookup finds, and the resources it could not read."""
    everything = _whole_type_request(request, lookup.resource_type)
    view = ExportView(request=everything, transaction_time=at)
    ids = set[str]()
    damaged = list[Damaged]()
    for shard in await provider.plan(view, shard_bytes=WHOLE_TYPE):
        batches = read_filtered(
            provider, view, shard, filter_=lookup.filter, batch_bytes=BATCH_BYTES
        )
        async for batch in batches:
            batch_ids, unreadable = await asyncio.to_thread(_ids_in, lookup, batch.lines)
            ids |= batch_ids
            damaged += [*batch.damaged, *unreadable]
    log.info("lookup.resolved", type=lookup.resource_type, found=len(ids), damaged=len(damaged))
    return frozenset(ids), damaged


def _whole_type_request(request: ExportRequest, resource_type: str) -> ExportRequest:
    return ExportRequest(
        tenant=request.tenant,
        url="",
        base_url=request.base_url,
        fhir_version=request.fhir_version,
        level=Level.SYSTEM,
        types=(resource_type,),
    )


def _ids_in(lookup: Lookup, lines: Sequence[bytes]) -> tuple[set[str], list[Damaged]]:
    ids = set[str]()
    damaged = list[Damaged]()
    for line in lines:
        try:
            ids |= lookup.ids_in(line)
        except DECODE_ERRORS:
            damaged.append(damaged_json(lookup.resource_type, line))
    return ids, damaged


def _gap(damaged: Damaged) -> str:
    return (
        f"{damaged.resource_type}/{damaged.id} cannot be read, so a filter that depends on it may "
        f"have left resources out: {damaged.reason}"
    )
