"""The door of listing: the resources of a type in pages, narrowed by id and time of change."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from urllib.parse import urlencode

from litestar import Response, route
from litestar.handlers import HTTPRouteHandler

from helios_core.data_providers import Bound, Page, Query, StoredVersion, SupportsSearch
from helios_core.errors import InvalidParameter, UnsupportedParameter
from helios_core.fhir.dates import span
from helios_core.http.answers import (
    BundleAnswer,
    BundleEntry,
    EntrySearch,
    Link,
    address,
    bundle_answer,
    raw,
)
from helios_core.http.guards import READ, Caller, Guard, Incoming, parameters_of, type_of
from helios_core.http.paging import count_of, single
from helios_core.http.resources import paths

PARAMETERS: Final = ("_id", "_lastUpdated", "_count", "_after")
STEP: Final = timedelta(microseconds=1)
"""The precision of every stored instant."""


class Searching:
    """Finds current resources."""

    def __init__(self, provider: SupportsSearch, guard: Guard) -> None:
        self._provider = provider
        self._guard = guard

    def routes(self) -> list[HTTPRouteHandler]:
        """Give the door of listing."""
        return [route(paths(), http_method=READ, status_code=200)(self.search)]

    async def search(self, request: Incoming) -> Response[bytes]:
        """Give a page of resources that match."""
        caller = self._guard.admit(request)
        resource_type = type_of(request, caller)
        given = parameters_of(request, PARAMETERS)
        count = count_of(given)
        page = await self._provider.search(
            caller.tenant,
            caller.fhir_version,
            query_for(resource_type, given),
            count=count,
            after=single(given, "_after"),
        )
        where = f"{caller.base}/{resource_type}"
        return bundle_answer(
            caller,
            BundleAnswer(
                type="searchset",
                total=page.total,
                link=_links(where, given, page),
                entry=tuple(_entry(caller, stored) for stored in page.resources),
            ),
        )


def query_for(resource_type: str, given: Sequence[tuple[str, str]]) -> Query:
    """
    Give the meaning of search parameters.

    Raises:
        InvalidParameter: A value cannot mean anything.
        UnsupportedParameter: A value's prefix is not served.
    """
    return Query(
        resource_type=resource_type,
        ids=tuple(tuple(value.split(",")) for name, value in given if name == "_id"),
        last_updated=tuple(bound_of(value) for name, value in given if name == "_lastUpdated"),
    )


def bound_of(value: str) -> Bound:
    """
    Give the instants a `_lastUpdated` allows (FHIR R4, search.html#prefix and #date).

    A stored instant is a point, so `sa` says the same as `gt`, and `eb` the same as `lt`.

    Raises:
        InvalidParameter: It is not a date or dateTime behind a prefix.
        UnsupportedParameter: The prefix is ne or ap, or there are alternatives.
    """
    prefix, text = (value[:2], value[2:]) if value[:1].isalpha() else ("eq", value)
    if prefix in ("ne", "ap") or "," in text:
        raise UnsupportedParameter(
            "_lastUpdated: the prefixes ne and ap and lists of values are not served; use eq, gt, "
            "ge, lt, le, sa or eb, once or twice."
        )
    try:
        low, high = span(text)
        match prefix:
            case "eq":
                return Bound(low=low, high=high)
            case "ge":
                return Bound(low=low)
            case "le":
                return Bound(high=high)
            case "gt" | "sa":
                return Bound(low=high + STEP)
            case "lt" | "eb":
                return Bound(high=low - STEP)
    except (InvalidParameter, OverflowError) as error:
        raise InvalidParameter(f"_lastUpdated: {error}") from error
    raise InvalidParameter("_lastUpdated: the prefix is not one of eq, gt, ge, lt, le, sa and eb.")


def _links(where: str, given: Sequence[tuple[str, str]], page: Page) -> tuple[Link, ...]:
    """Give the address of this page, without what was ignored, and of the next one."""
    here = Link("self", f"{where}?{urlencode(given)}" if given else where)
    if page.next is None:
        return (here,)
    following = [pair for pair in given if pair[0] != "_after"] + [("_after", page.next)]
    return (here, Link("next", f"{where}?{urlencode(following)}"))


def _entry(caller: Caller, stored: StoredVersion) -> BundleEntry:
    return BundleEntry(
        full_url=address(caller, stored.resource_type, stored.id),
        resource=raw(stored.content),
        search=EntrySearch(),
    )
