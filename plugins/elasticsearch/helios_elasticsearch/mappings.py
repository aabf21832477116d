"""The indices: how they are named, and the fixed number of fields that each has."""

from typing import Any

import msgspec
from elasticsearch import AsyncElasticsearch, BadRequestError

from helios_core.fhir import MAX_VALUE_ORDERS, FHIRVersion
from helios_elasticsearch.errors import kind_of, translated
from helios_elasticsearch.settings import ElasticsearchSettings

LAYOUT = 2
"""Incremented when a mapping changes; indices of another layout are not looked at."""

MAX_VALUES = 65_536
"""How many terms or ids one query may have (index.max_terms_count)."""

MAX_HITS = 10_000
"""How many entries one answer may have (index.max_result_window)."""

_ONLY_READ = {"type": "keyword", "index": False, "doc_values": False}

_COMMON = {"auto_expand_replicas": "0-1"}


def all_aliases(settings: ElasticsearchSettings) -> str:
    """Return the pattern of the names by which indices are addressed."""
    return f"{settings.prefix}-{LAYOUT}-*"


def state_alias(settings: ElasticsearchSettings) -> str:
    """Return the name by which the states of all datasets are addressed."""
    return f"{settings.prefix}-{LAYOUT}-state"


def state_index() -> dict[str, Any]:
    """Return settings and mappings of the states."""
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
    """Return a name by which entries of a FHIR version are addressed; `*` matches them all."""
    return f"{settings.prefix}-{LAYOUT}-{version.value.lower()}-{suffix}"


def entries_index(settings: ElasticsearchSettings) -> dict[str, Any]:
    """Return settings and mappings of the entries of one FHIR version."""
    return {
        "settings": {
            **_COMMON,
            "number_of_shards": settings.shards,
            # Whoever applies entries refreshes.
            "refresh_interval": "-1",
            "max_terms_count": MAX_VALUES,
            "max_result_window": MAX_HITS,
            # Pages by id end where they are full: nothing behind them is looked at.
            "sort.field": ["collection", "id"],
            "sort.order": ["asc", "asc"],
        },
        "mappings": {
            "dynamic": "strict",
            "properties": {
                # The build and the type, of every entry and of those that are no deletions.
                "collection": {"type": "keyword"},
                "live": {"type": "keyword"},
                "id": {"type": "keyword"},
                "version": {"type": "long", "index": False},
                "updated": {"type": "long"},
                # Postings of keywords are intersected faster than trees of numbers.
                "terms": {"type": "keyword", "doc_values": False},
                # Two numbers of 64 bits, a group and an instant, make one of the 128 of IPv6.
                "spans": {"type": "ip_range"},
                "starts": {"type": "ip", "doc_values": False},
                "values": {"properties": _values()},
            },
        },
    }


def value_field(number: int) -> str:
    """Return the field of what comes first in one order of values, for either direction."""
    return f"first{number}"


def end_field(number: int, *, descending: bool) -> str:
    """Return the field of what comes second in one order of values, for one direction."""
    return f"{'greatest' if descending else 'least'}{number}"


def _values() -> dict[str, Any]:
    """Return the fields of all orders: what comes first lets pages skip what is behind them."""
    fields = dict[str, Any]()
    for number in range(MAX_VALUE_ORDERS):
        fields[value_field(number)] = {"type": "long"}
        for descending in (False, True):
            fields[end_field(number, descending=descending)] = {"type": "long", "index": False}
    return fields


async def aliases(client: AsyncElasticsearch, pattern: str) -> list[str]:
    """Return the aliases that a pattern with `*` matches, in alphabetical order."""
    with translated():
        answer = await client.indices.get_alias(name=pattern)
        found = msgspec.convert(answer.body, dict[str, _Aliases])
    return sorted(name for index in found.values() for name in index.aliases)


async def create_index(client: AsyncElasticsearch, alias: str, body: dict[str, Any]) -> None:
    """Create an index under an alias, unless it is there."""
    with translated():
        try:
            answer = await client.indices.create(
                index=f"{alias}-index", aliases={alias: {}}, **body
            )
        except BadRequestError as error:
            if kind_of(error) != "resource_already_exists_exception":
                raise
        else:
            msgspec.convert(answer.body, _Created)


class _Aliases(msgspec.Struct, frozen=True):
    aliases: dict[str, Any]


class _Created(msgspec.Struct, frozen=True):
    index: str
