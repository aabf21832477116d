"""Searches and bulk requests whose responses are complete, or else raise an error."""

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
    Return the named parts of each hit of a search.

    Raises:
        BackendUnavailable: Not every shard was searched.
    """
    path = [*_COMPLETE, *(f"hits.hits.{part}" for part in parts)]
    found = await _search(client, index, filter_path=path, track_total_hits=False, **search)
    return found.hits


async def total_of(client: AsyncElasticsearch, index: str, query: dict[str, Any]) -> int:
    """
    Return how many documents a query finds.

    Raises:
        BackendUnavailable: Not every shard was searched.
    """
    path = [*_COMPLETE, "hits.total.value"]
    options = {"filter_path": path, "track_total_hits": True, "size": 0}
    found = await _search(client, index, query=query, **options)
    if found.total is None:
        raise incomplete("it lacks a total")
    return found.total.value


async def refresh(client: AsyncElasticsearch, index: str) -> None:
    """
    Make every document that is stored visible to searches from now on.

    Raises:
        BackendUnavailable: Not every copy of the index was refreshed.
    """
    with translated():
        response = await client.indices.refresh(index=index)
        failed = msgspec.convert(response.body, _Refreshed).shards.failed
    if failed:
        raise incomplete("not every copy of an index shows what was stored")


async def bulk(
    client: AsyncElasticsearch, index: str, lines: bytes, operations: int, *, fine: frozenset[int]
) -> None:
    """
    Send a bulk request of `operations` operations to an index that exists.

    `fine` are the status codes that count as success.

    Raises:
        BackendUnavailable: An operation failed, or the response does not cover all of them.
    """
    with translated():
        response = await client.bulk(
            index=index,
            operations=cast("Sequence[Any]", [lines]),  # encoded already
            # Otherwise a missing index would be created without its mapping.
            require_alias=True,
            filter_path=["items.*.status", "items.*.error.type"],
        )
        items = msgspec.convert(response.body, _Done).items
    if len(items) != operations:
        raise incomplete("it does not cover all operations of a bulk request")
    outcomes = {(result.status, result.error.type) for item in items for result in item.values()}
    if refused := {outcome for outcome in outcomes if outcome[0] not in fine}:
        raise not_stored(refused)


async def _search(client: AsyncElasticsearch, index: str, **search: Any) -> _Hits:  # noqa: ANN401
    with translated():
        response = await client.search(index=index, allow_partial_search_results=False, **search)
        found = msgspec.convert(response.body, _Found)
    if found.timed_out or found.shards.failed:
        raise incomplete("a part of an index could not be searched")
    return found.hits
