"""The filters of an export: compiled, told what they must know, and used to read less."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import datetime

import structlog

from helios_core.export.transforms import DECODE_ERRORS, damaged_json
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
from helios_core.storage.keys import TypeKey

log = structlog.stdlib.get_logger()

BATCH_BYTES = 4 * 1024 * 1024
"""How much is read at a time to answer a lookup."""


def compile_filters(request: ExportRequest, now: datetime) -> dict[str, Filter]:
    """
    Give by type what its resources must match.

    Raises:
        InvalidParameter: A value of a query cannot mean anything.
        UnsupportedParameter: A query asks for something that does not work here.
    """
    queries = defaultdict[str, list[Filter]](list)
    for each in request.filters:
        queries[each.resource_type].append(
            compile_query(
                request.fhir_version,
                each.resource_type,
                each.pairs,
                base_urls=base_urls(request.base_url),
                now=now,
            )
        )
    return {resource_type: any_filter(filters) for resource_type, filters in queries.items()}


async def resolve_filters(
    provider: DataProvider, request: ExportRequest, at: datetime
) -> tuple[dict[str, Filter], tuple[str, ...]]:
    """
    Give the filters with their lookups answered as of an instant, and what is missing from that.

    An answer is kept in memory: one id for each resource a lookup finds.
    """
    filters = compile_filters(request, at)
    lookups = {lookup.key: lookup for each in filters.values() for lookup in each.lookups}
    answers = dict[str, frozenset[str]]()
    gaps = list[str]()
    for key, lookup in lookups.items():
        answers[key], damaged = await _answer(provider, request, lookup, at)
        gaps += map(_gap, damaged)
    return {
        resource_type: each.resolved(answers) if each.lookups else each
        for resource_type, each in filters.items()
    }, tuple(dict.fromkeys(gaps))


def read_filtered(
    provider: DataProvider,
    view: ExportView,
    shard: Shard,
    *,
    found: Filter | None,
    batch_bytes: int,
) -> AsyncIterator[Batch]:
    """Read of a shard all that a filter lets pass, and as little else as the provider can."""
    prefilter = None if found is None else found.prefilter()
    if prefilter is not None and isinstance(provider, SupportsPrefilter):
        return provider.read_candidates(view, shard, prefilter, batch_bytes=batch_bytes)
    return provider.read(view, shard, batch_bytes=batch_bytes)


async def matching_deletions(
    provider: DataProvider, view: ExportView, found: Filter | None, ids: Sequence[str]
) -> Sequence[str]:
    """
    Give those deleted ids whose last content a filter lets pass; all of them if there is none.

    A provider without history cannot tell, so nothing is named that the client perhaps never saw.
    """
    if found is None:
        return ids
    if not isinstance(provider, SupportsHistory):
        return []
    return [each for each in ids if await _matched(provider, provider, view, found, each)]


async def _matched(
    provider: DataProvider, history: SupportsHistory, view: ExportView, found: Filter, each: str
) -> bool:
    key = TypeKey.of(view.request, found.resource_type).resource(each)
    deletion = await provider.get(key, at=view.transaction_time)
    if deletion is None:
        return False
    last = await history.get_version(key, deletion.version_id - 1)
    if last is None or last.content is None:
        return False
    with suppress(*DECODE_ERRORS):
        return found.matches(last.content)
    return False


async def _answer(
    provider: DataProvider, request: ExportRequest, lookup: Lookup, at: datetime
) -> tuple[frozenset[str], list[Damaged]]:
    view = ExportView(request=_everything(request, lookup.resource_type), transaction_time=at)
    ids = set[str]()
    damaged = list[Damaged]()
    for shard in await provider.plan(view, shard_bytes=WHOLE_TYPE):
        batches = read_filtered(
            provider, view, shard, found=lookup.filter, batch_bytes=BATCH_BYTES
        )
        async for batch in batches:
            found, undecoded = await asyncio.to_thread(_ids_in, lookup, batch.lines)
            ids |= found
            damaged += [*batch.damaged, *undecoded]
    log.info("lookup.answered", type=lookup.resource_type, found=len(ids), damaged=len(damaged))
    return frozenset(ids), damaged


def _everything(request: ExportRequest, resource_type: str) -> ExportRequest:
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
        f"{damaged.resource_type}/{damaged.id} cannot be read, so a filter that looks at it may "
        f"have left resources out: {damaged.reason}"
    )
