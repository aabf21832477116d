"""Searches and their responses, which are complete or refused."""

from collections.abc import Sequence
from typing import Any, cast

import msgspec
from elasticsearch import AsyncElasticsearch

from helios_elasticsearch.errors import incomplete, not_stored, translated


class _Shards(msgspec.Struct, frozen=True):
    failed: int


class _Total(msgspec.Struct, frozen=True):
    value: int


class _Hits(msgspec.Struct, frozen=True):
    hits: Sequence[Any] = ()
    total: _Total | None = None


class _Found(msgspec.Struct, frozen=True):
    timed_out: bool
    shards: _Shards = msgspec.field(name="_shards")
    hits: _Hits = _Hits()


class _Refreshed(msgspec.Struct, frozen=True):
    shards: _Shards = msgspec.field(name="_shards")


class _Refusal(msgspec.Struct, frozen=True):
    type: str


class _Outcome(msgspec.Struct, frozen=True):
    status: int
    error: _Refusal = _Refusal("")


class _Done(msgspec.Struct, frozen=True):
    items: Sequence[dict[str, _Outcome]]


_COMPLETE = ["timed_out", "_shards.failed"]


async def hits_of(
    client: AsyncElasticsearch,
    index: str,
    *,
    parts: Sequence[str],
    **search: Any,  # noqa: ANN401 - as the client has them
) -> Sequence[Any]:
    """
    Return these parts of the hits of a search.

    Raises:
        BackendUnavailable: It could not search everything.
    """
    path = [*_COMPLETE, *(f"hits.hits.{part}" for part in parts)]
    found = await _search(client, index, filter_path=path, track_total_hits=False, **search)
    return found.hits


async def total_of(client: AsyncElasticsearch, index: str, query: dict[str, Any]) -> int:
    """
    Return how many documents a query finds.

    Raises:
        BackendUnavailable: It could not search everything.
    """
    path = [*_COMPLETE, "hits.total.value"]
    options = {"filter_path": path, "track_total_hits": True, "size": 0}
    found = await _search(client, index, query=query, **options)
    if found.total is None:
        raise incomplete("it lacks a total")
    return found.total.value


async def refresh(client: AsyncElasticsearch, index: str) -> None:
    """
    Make what was stored visible to every search from now on.

    Raises:
        BackendUnavailable: Not every copy of the index shows it.
    """
    with translated():
        answer = await client.indices.refresh(index=index)
        failed = msgspec.convert(answer.body, _Refreshed).shards.failed
    if failed:
        raise incomplete("not every copy of an index shows what was stored")


async def bulk(
    client: AsyncElasticsearch, index: str, lines: bytes, operations: int, *, fine: frozenset[int]
) -> None:
    """
    Do operations on an index, which must be there.

    `fine` are the status codes of operations whose purpose is achieved.

    Raises:
        BackendUnavailable: One was refused, or it does not say what became of all.
    """
    with translated():
        answer = await client.bulk(
            index=index,
            operations=cast("Sequence[Any]", [lines]),  # what is encoded passes as it is
            # Otherwise an index that is gone would be made again without its mapping.
            require_alias=True,
            filter_path=["items.*.status", "items.*.error.type"],
        )
        items = msgspec.convert(answer.body, _Done).items
    if len(items) != operations:
        raise incomplete("it does not say what became of all entries")
    outcomes = {(each.status, each.error.type) for item in items for each in item.values()}
    if refused := {outcome for outcome in outcomes if outcome[0] not in fine}:
        raise not_stored(refused)


async def _search(client: AsyncElasticsearch, index: str, **search: Any) -> _Hits:  # noqa: ANN401
    with translated():
        answer = await client.search(index=index, allow_partial_search_results=False, **search)
        found = msgspec.convert(answer.body, _Found)
    if found.timed_out or found.shards.failed:
        raise incomplete("a part of an index could not be searched")
    return found.hits
