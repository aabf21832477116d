"""Batches and transactions: many interactions in one request (FHIR R4, http.html#transaction)."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias

import msgspec

from helios_core.errors import HeliosError, TooCostly, UnsupportedParameter
from helios_core.fhir.bundles import ParsedEntry
from helios_core.fhir.links import BundleLinks
from helios_core.interactions.callers import Caller, Interaction, authorize
from helios_core.interactions.changes import ChangeRequest, Changes, CompletedChange
from helios_core.interactions.compartments import (
    ALL_TYPES,
    CompartmentSearch,
    TypesPage,
    TypesQuery,
    search_all_types,
    search_compartment,
)
from helios_core.interactions.conditions import Conditions, require_search
from helios_core.interactions.entries import (
    READS,
    HistoryRequest,
    InteractionRequest,
    MetadataRequest,
    ReadRequest,
    naming_entry,
    parse_entry,
)
from helios_core.interactions.everything import (
    EVERYTHING,
    Everything,
    EverythingPage,
    EverythingRequest,
)
from helios_core.interactions.history import (
    HistoryPage,
    history_instance,
    history_system,
    history_type,
)
from helios_core.interactions.read import read, vread
from helios_core.interactions.search import SearchResult, cut, search_type
from helios_core.interactions.search_parameters import ParsedSearch
from helios_core.interactions.transactions import (
    Resolution,
    Transaction,
    check_links,
    collect_changes,
    with_real_links,
)
from helios_core.storage.data_provider import (
    DataProvider,
    StoredVersion,
    SupportsHistory,
    SupportsTypeHistory,
)
from helios_core.storage.threads import LARGE_BYTES, compute


class HistoryResult(msgspec.Struct, frozen=True):
    """A page of versions, and what was requested."""

    request: HistoryRequest
    page: HistoryPage


class CompartmentResult(msgspec.Struct, frozen=True):
    """A page of a search within a compartment, and what was requested."""

    request: CompartmentSearch
    result: SearchResult


class TypesResult(msgspec.Struct, frozen=True):
    """A page of a search of several types, and what was requested."""

    request: TypesQuery
    page: TypesPage


EntryResult: TypeAlias = (
    StoredVersion
    | HistoryResult
    | MetadataRequest
    | SearchResult
    | CompartmentResult
    | TypesResult
    | EverythingPage
    | CompletedChange
    | HeliosError
)
"""The result of an entry: what was read, a change, or the error with which it failed."""


class ResponseBudget:
    """The limit of the bytes that a response may have, and how much of it is used."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.full = False
        """Whether a result did not fit; then nothing more is read."""
        self.abandoned = asyncio.Event()
        """Set when the client has disconnected; then no further entry is performed."""
        self._used = 0

    def take(self, size: int) -> bool:
        """Use `size` bytes of the budget; return False, and use none, if fewer are left."""
        if self._used + size > self.max_bytes:
            self.full = True
            return False
        self._used += size
        return True

    def exceeded(self) -> TooCostly:
        """Return the error for an entry whose result does not fit."""
        return TooCostly(
            f"The response would have more than {self.max_bytes} bytes; request this in another "
            "Bundle or on its own, or have HFS_MAX_BUNDLE_RESPONSE_BYTES raised."
        )


class Bundles:
    """
    Performs what the entries of a batch or a transaction request.

    Results are in the order of the entries. Each is yielded as soon as it is known, so that one
    that the response leaves out need not be kept. They end early if the client disconnects: ten
    thousand searches for nobody would keep the store busy for hours.
    """

    def __init__(
        self,
        provider: DataProvider,
        changes: Changes,
        conditions: Conditions,
        everything: Everything | None = None,
    ) -> None:
        """Take what performs the entries; without `everything`, `$everything` is not supported."""
        self._provider = provider
        self._changes = changes
        self._conditions = conditions
        self._everything = everything

    async def batch(
        self, caller: Caller, entries: Sequence[ParsedEntry], budget: ResponseBudget
    ) -> AsyncGenerator[EntryResult]:
        """Perform entries one by one, in their order; one that fails does not affect others."""
        authorize(caller, Interaction.BATCH)
        for index, entry in enumerate(entries):
            if budget.abandoned.is_set():
                return
            perform = partial(self._parse_and_perform, caller, entry, budget)
            yield await _result_or_error(index, perform)

    async def transaction(
        self, caller: Caller, entries: Sequence[ParsedEntry], budget: ResponseBudget
    ) -> AsyncGenerator[EntryResult]:
        """
        Make the changes of all entries or of none, then perform the reads, which may fail alone.

        Raises:
            RequestError: A change or a search is invalid; the message names the entry if it is
                that of one entry.
        """
        authorize(caller, Interaction.TRANSACTION)
        size = sum(map(_size, entries))
        requests, transaction = await compute(size, self._parse_transaction, caller, entries)
        changed, links = await self._change(caller, transaction, budget.abandoned)
        for index, request in enumerate(requests):
            if budget.abandoned.is_set():
                return
            if index in changed:
                yield changed.pop(index)
                continue
            perform = partial(self._read, caller, request, links, budget)
            yield await _result_or_error(index, perform)

    async def _parse_and_perform(
        self, caller: Caller, entry: ParsedEntry, budget: ResponseBudget
    ) -> EntryResult:
        if budget.full and entry.method in READS:
            raise budget.exceeded()
        request = await compute(entry.size, parse_entry, caller, entry)
        return await self._perform(caller, request, budget)

    async def _read(
        self,
        caller: Caller,
        request: InteractionRequest,
        links: BundleLinks,
        budget: ResponseBudget,
    ) -> EntryResult:
        if budget.full:
            raise budget.exceeded()
        if isinstance(request, ParsedSearch):
            request = with_real_links(caller, request, links)
        return await self._perform(caller, request, budget)

    async def _perform(
        self, caller: Caller, request: InteractionRequest, budget: ResponseBudget
    ) -> EntryResult:
        match request:
            case ReadRequest():
                return await self._read_one(caller, request)
            case HistoryRequest():
                return HistoryResult(request, await self._history(caller, request))
            case ParsedSearch() | CompartmentSearch() | TypesQuery():
                return await self._search(caller, request, budget.max_bytes)
            case EverythingRequest():
                return await self._require_everything().page(caller, request)
            case ChangeRequest():
                return await self._changes.apply(caller, request)
        return request

    async def _read_one(self, caller: Caller, request: ReadRequest) -> StoredVersion:
        resource_type, resource_id = request.resource_type, request.id
        if request.version_id is None:
            stored = await read(self._provider, caller, resource_type, resource_id)
        else:
            history = _require_history(self._provider)
            stored = await vread(history, caller, resource_type, resource_id, request.version_id)
        return await cut(caller, stored, request.elements)

    async def _search(
        self,
        caller: Caller,
        request: ParsedSearch | CompartmentSearch | TypesQuery,
        max_bytes: int,
    ) -> SearchResult | CompartmentResult | TypesResult:
        provider = require_search(self._provider)
        match request:
            case ParsedSearch():
                return await search_type(provider, caller, request, max_bytes=max_bytes)
            case CompartmentSearch():
                result = await search_compartment(provider, caller, request, max_bytes=max_bytes)
                return CompartmentResult(request, result)
            case TypesQuery():
                return TypesResult(request, await search_all_types(provider, caller, request))

    def _require_everything(self) -> Everything:
        if self._everything is None:
            raise UnsupportedParameter(
                "Records of patients are not supported by this data provider."
            )
        return self._everything

    async def _history(self, caller: Caller, request: HistoryRequest) -> HistoryPage:
        query, provider = request.query, self._provider
        if request.resource_type is not None and request.id is not None:
            history = _require_history(provider)
            return await history_instance(
                history, caller, request.resource_type, request.id, query
            )
        if not isinstance(provider, SupportsTypeHistory):
            raise UnsupportedParameter(
                "Histories of types are not supported by this data provider."
            )
        if request.resource_type is not None:
            return await history_type(provider, caller, request.resource_type, query)
        return await history_system(provider, caller, query)

    def _parse_transaction(
        self, caller: Caller, entries: Sequence[ParsedEntry]
    ) -> tuple[list[InteractionRequest], Transaction]:
        """Parse entries, and raise before anything changes if one is bound to fail afterwards."""
        requests = list[InteractionRequest]()
        for index, entry in enumerate(entries):
            with naming_entry(index):
                request = parse_entry(caller, entry)
                self._check(caller, request)
                requests.append(request)
        transaction = collect_changes(caller, entries, requests)
        for index, request in enumerate(requests):
            if isinstance(request, ParsedSearch):
                with naming_entry(index):
                    check_links(caller, transaction, request)
        return requests, transaction

    def _check(self, caller: Caller, request: InteractionRequest) -> None:
        """Raise if a request is bound to fail after the changes of a transaction."""
        match request:
            case ReadRequest() | HistoryRequest() | ParsedSearch() | ChangeRequest():
                authorize(caller, request.interaction, request.resource_type)
            case CompartmentSearch(search=search):
                authorize(caller, Interaction.SEARCH_COMPARTMENT, search.resource_type)
            case EverythingRequest():
                authorize(caller, Interaction.OPERATION, "Patient")
                self._require_everything()
        if isinstance(request, ParsedSearch | CompartmentSearch | TypesQuery):
            require_search(self._provider)

    async def _change(
        self, caller: Caller, transaction: Transaction, abandoned: asyncio.Event
    ) -> tuple[dict[int, CompletedChange], BundleLinks]:
        """Make the changes of a transaction; return them by the index of their entry."""

        async def change() -> tuple[dict[int, CompletedChange], BundleLinks]:
            resolution = Resolution(
                caller,
                transaction,
                provider=self._provider,
                changes=self._changes,
                conditions=self._conditions,
                abandoned=abandoned,
            )
            return await resolution.make_changes()

        if transaction.conditional:
            return await self._conditions.retry_on_conflict(caller, change)
        return await change()


def _size(entry: ParsedEntry) -> int:
    """Return the size of an entry for `compute`; one whose search compiles all types is large."""
    path = (entry.url or "").partition("?")[0].rstrip("/")
    reads_all = path.endswith((f"/{ALL_TYPES}", f"/{EVERYTHING}"))
    return entry.size + (LARGE_BYTES if reads_all else 0)


async def _result_or_error(
    index: int, perform: Callable[[], Awaitable[EntryResult]]
) -> EntryResult:
    """Return the result of an entry, or the error that names it."""
    await asyncio.sleep(0)  # an entry that fails at once would not let other tasks run
    try:
        with naming_entry(index):
            return await perform()
    except HeliosError as error:
        return error


def _require_history(provider: DataProvider) -> SupportsHistory:
    if not isinstance(provider, SupportsHistory):
        raise UnsupportedParameter("Earlier versions are not supported by this data provider.")
    return provider
