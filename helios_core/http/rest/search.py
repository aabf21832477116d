"""The doors of searches: the resources of a type that match, in pages."""

from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import urlencode

from litestar import Response, post, route
from litestar.handlers import HTTPRouteHandler

from helios_core.fhir.outcomes import outcome_line
from helios_core.fhir.preferences import Handling, preferences
from helios_core.fhir.subsetting import keep_elements
from helios_core.http.callers import Guard
from helios_core.http.requests import READ, Incoming, form_of, query_of, type_of
from helios_core.http.responses import (
    BundleAnswer,
    BundleEntry,
    EntrySearch,
    Link,
    Mode,
    address,
    bundle_answer,
    raw,
)
from helios_core.http.rest.crud import paths
from helios_core.interactions.callers import Caller
from helios_core.interactions.chains import answered
from helios_core.interactions.includes import MOST, included
from helios_core.interactions.search import Asked, Total, understood
from helios_core.storage.data_provider import Page, Query, StoredVersion, SupportsSearch

CUT: Final = (
    f"This page includes {MOST} resources, or as many bytes as it may; there are more that "
    "_include or _revinclude ask for. Ask for smaller pages with _count, or for the rest in "
    "searches of its own."
)


class Searching:
    """Finds current resources."""

    def __init__(self, provider: SupportsSearch, guard: Guard) -> None:
        self._provider = provider
        self._guard = guard

    def routes(self) -> list[HTTPRouteHandler]:
        """Give the doors of searching, by address and by form."""
        return [
            route(paths(), http_method=READ, status_code=200)(self.search),
            post(paths("/_search"), status_code=200)(self.search_by_form),
        ]

    async def search(self, request: Incoming) -> Response[bytes]:
        """Give a page of resources that match."""
        return await self._answer(request, query_of(request))

    async def search_by_form(self, request: Incoming) -> Response[bytes]:
        """Give a page of resources that match; address and form count together."""
        return await self._answer(request, query_of(request) + await form_of(request))

    async def _answer(
        self, request: Incoming, pairs: Sequence[tuple[str, str]]
    ) -> Response[bytes]:
        caller = self._guard.admit(request)
        handling = preferences(request.headers.getall("prefer", [])).handling
        asked = understood(
            caller, type_of(request, caller), pairs, lenient=handling is Handling.LENIENT
        )
        return bundle_answer(caller, await self.searchset(caller, asked))

    async def searchset(self, caller: Caller, asked: Asked) -> BundleAnswer:
        """Give the answer to a search."""
        query = Query(
            filter=await answered(self._provider, caller, asked.filter),
            order=asked.order,
            total=asked.only_total or asked.total in (Total.ACCURATE, Total.ESTIMATE),
        )
        page = await self._provider.search(
            caller.tenant,
            caller.fhir_version,
            query,
            count=1 if asked.only_total else asked.count,
            after=None if asked.only_total else asked.after,
        )
        entries = () if asked.only_total else await self._entries(caller, asked, page)
        return BundleAnswer(
            type="searchset",
            total=_total(asked, page),
            link=tuple(_links(caller, asked, page)),
            entry=(*entries, *(_remark(text, "not-supported") for text in asked.ignored)),
        )

    async def _entries(self, caller: Caller, asked: Asked, page: Page) -> tuple[BundleEntry, ...]:
        beside, cut = await included(self._provider, caller, asked.includes, page.resources)
        return (
            *(_entry(caller, asked, each, "match") for each in page.resources),
            *(_entry(caller, asked, each, "include") for each in beside),
            *([_remark(CUT, "incomplete")] if cut else []),
        )


def _total(asked: Asked, page: Page) -> int | None:
    """Give the number of all matches where it was asked for, or where it is seen anyway."""
    if page.total is not None or asked.total is Total.NONE:
        return page.total
    return len(page.resources) if asked.after is None and page.next is None else None


def _links(caller: Caller, asked: Asked, page: Page) -> Iterator[Link]:
    """Give the address of this page, without what was ignored, and of its neighbours."""
    where = f"{caller.base}/{asked.resource_type}"

    def link(relation: str, after: str | None) -> Link:
        pairs = [*asked.given, *([] if after is None else [("_after", after)])]
        return Link(relation, f"{where}?{urlencode(pairs)}" if pairs else where)

    yield link("self", asked.after)
    if asked.only_total:
        return
    yield link("first", None)
    if page.next is not None:
        yield link("next", page.next)


def _entry(caller: Caller, asked: Asked, stored: StoredVersion, mode: Mode) -> BundleEntry:
    content = stored.content or b""
    wanted = asked.elements.get(stored.resource_type)
    if wanted is not None:
        content = keep_elements(caller.fhir_version, stored.resource_type, wanted)(content)[0]
    return BundleEntry(
        full_url=address(caller, stored.resource_type, stored.id),
        resource=raw(content),
        search=EntrySearch(mode),
    )


def _remark(text: str, code: str) -> BundleEntry:
    """Give an entry that says how the answer differs from what was asked."""
    outcome = outcome_line("warning", code, text)
    return BundleEntry(resource=raw(outcome), search=EntrySearch("outcome"))
