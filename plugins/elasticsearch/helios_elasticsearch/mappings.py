"""Names, settings and mappings of the indices; each has a fixed number of fields."""

from typing import Any

import msgspec
from elasticsearch import AsyncElasticsearch, BadRequestError

from helios_core.fhir import MAX_VALUE_ORDERS, FHIRVersion
from helios_elasticsearch.errors import kind_of, translated
from helios_elasticsearch.settings import ElasticsearchSettings

LAYOUT = 2
"""Incremented when a mapping changes; indices of another layout are ignored."""

MAX_VALUES = 65_536
"""How many terms or ids one query may have (index.max_terms_count)."""

MAX_HITS = 10_000
"""How many entries one response may have (index.max_result_window)."""

_ONLY_READ = {"type": "keyword", "index": False, "doc_values": False}

_COMMON = {"auto_expand_replicas": "0-1"}


def all_aliases(settings: ElasticsearchSettings) -> str:
    """Return the pattern of all aliases."""
    return f"{settings.prefix}-{LAYOUT}-*"


def state_alias(settings: ElasticsearchSettings) -> str:
    """Return the alias of the index of all states."""
    return f"{settings.prefix}-{LAYOUT}-state"


def state_index() -> dict[str, Any]:
    """Return settings and mappings of the index of all states."""
    return {
        "settings": {**_COMMON, "number_of_shards": 1},
        "mappings": {
            "dynamic": "strict",
            "properties": {
                "tenant": {"type": "keyword"},
                "fhir_version": {"type": "keyword"},
                "epoch": _ONLY_READ,
                "entries": _ONLY_READ,
                "build": _ONLY_READ,
                "note": _ONLY_READ,
                "stale": _ONLY_READ,
                "reached": {"type": "long"},
            },
        },
    }


def entries_alias(settings: ElasticsearchSettings, version: FHIRVersion, suffix: str) -> str:
    """Return an alias of the entries of a FHIR version; the suffix `*` makes a pattern of all."""
    return f"{settings.prefix}-{LAYOUT}-{version.value.lower()}-{suffix}"


def entries_index(settings: ElasticsearchSettings) -> dict[str, Any]:
    """Return settings and mappings of an index of entries."""
    return {
        "settings": {
            **_COMMON,
            "number_of_shards": settings.shards,
            # `apply` refreshes.
            "refresh_interval": "-1",
            "max_terms_count": MAX_VALUES,
            "max_result_window": MAX_HITS,
            # Sorted like a page by id, so that a search can stop at the end of the page.
            "sort.field": ["collection", "id"],
            "sort.order": ["asc", "asc"],
        },
        "mappings": {
            "dynamic": "strict",
            "properties": {
                # Both are build and type; `live` is missing from entries of deleted resources.
                "collection": {"type": "keyword"},
                "live": {"type": "keyword"},
                "id": {"type": "keyword"},
                "version": {"type": "long", "index": False},
                "updated": {"type": "long"},
                # Elasticsearch intersects postings of keywords faster than trees of numbers.
                "terms": {"type": "keyword", "doc_values": False},
                # A group and an instant, 64 bits each, make one IPv6 address of 128 bits.
                "spans": {"type": "ip_range"},
                "starts": {"type": "ip", "doc_values": False},
                "values": {"properties": _values()},
            },
        },
    }


def value_field(number: int) -> str:
    """Return the field of the first sort value of an order, for both directions."""
    return f"first{number}"


def end_field(number: int, *, descending: bool) -> str:
    """Return the field of the second sort value of an order, for one direction."""
    return f"{'greatest' if descending else 'least'}{number}"


def _values() -> dict[str, Any]:
    """Return the fields of all orders; the first value is indexed, so that pages can skip."""
    fields = dict[str, Any]()
    for number in range(MAX_VALUE_ORDERS):
        fields[value_field(number)] = {"type": "long"}
        for descending in (False, True):
            fields[end_field(number, descending=descending)] = {"type": "long", "index": False}
    return fields


async def aliases(client: AsyncElasticsearch, pattern: str) -> list[str]:
    """Return the aliases that a pattern with `*` matches, in alphabetical order."""
    with translated():
        response = await client.indices.get_alias(name=pattern)
        found = msgspec.convert(response.body, dict[str, _Aliases])
    return sorted(name for index in found.values() for name in index.aliases)


async def create_index(client: AsyncElasticsearch, alias: str, body: dict[str, Any]) -> None:
    """Create an index with an alias, unless it exists."""
    with translated():
        try:
            response = await client.indices.create(
                index=f"{alias}-index", aliases={alias: {}}, **body
            )
        except BadRequestError as error:
            if kind_of(error) != "resource_already_exists_exception":
                raise
        else:
            msgspec.convert(response.body, _Created)


class _Aliases(msgspec.Struct, frozen=True):
    aliases: dict[str, Any]


class _Created(msgspec.Struct, frozen=True):
    index: str
