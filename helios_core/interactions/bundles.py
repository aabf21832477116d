"""Batches and transactions: many interactions in one request (FHIR R4, http.html#transaction)."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeAlias, TypeVar

from helios_core.errors import HeliosError, TooCostly
from helios_core.fhir.bundles import ParsedEntry
from helios_core.fhir.links import BundleLinks
from helios_core.interactions.callers import Caller, Interaction, authorize
from helios_core.interactions.changes import ChangeRequest, Changes, CompletedChange
from helios_core.interactions.conditions import Conditions, require_search
from helios_core.interactions.entries import (
    InteractionRequest,
    ReadRequest,
    naming_entry,
    parse_entry,
)
from helios_core.interactions.read import read
from helios_core.interactions.search import SearchResult, search_type
from helios_core.interactions.search_parameters import ParsedSearch
from helios_core.interactions.transactions import (
    Resolution,
    Transaction,
    check_links,
    collect_changes,
    with_real_links,
)
from helios_core.storage.data_provider import DataProvider, StoredVersion
from helios_core.storage.threads import compute

EntryResult: TypeAlias = StoredVersion | SearchResult | CompletedChange | HeliosError
"""What became of an entry: a read, a search, a change, or the reason why it failed."""


MAX_RESPONSE_BYTES: Final = 16 * 1024 * 1024
"""Bytes of resources in the response to a Bundle after which nothing more is read for it."""


class Bundles:
    """Performs what the entries of a batch or a transaction request."""

    def __init__(self, provider: DataProvider, changes: Changes, conditions: Conditions) -> None:
        self._provider = provider
        self._changes = changes
        self._conditions = conditions

    async def batch(self, caller: Caller, entries: Sequence[ParsedEntry]) -> list[EntryResult]:
        """Perform entries one by one, in their order; one that fails concerns no other."""
        authorize(caller, Interaction.BATCH)
        budget = _Budget()
        return [
            await _result_or_error(index, partial(self._parse_and_perform, caller, entry, budget))
            for index, entry in enumerate(entries)
        ]

    async def transaction(
        self, caller: Caller, entries: Sequence[ParsedEntry]
    ) -> list[EntryResult]:
        """
        Make the changes of all entries or of none, then read; what cannot be read fails alone.

        The results are in the order of the entries.

        Raises:
            RequestError: A change or a search is at fault; the message names the entry where one
                entry is.
        """
        authorize(caller, Interaction.TRANSACTION)
        size = sum(entry.size for entry in entries)
        requests, transaction = await compute(size, self._parse_all, caller, entries)
        changed, links = await self._change(caller, transaction)
        budget = _Budget()
        return [
            changed[index]
            if index in changed
            else await _result_or_error(index, partial(self._read, caller, request, links, budget))
            for index, request in enumerate(requests)
        ]

    async def _read(
        self, caller: Caller, request: InteractionRequest, links: BundleLinks, budget: "_Budget"
    ) -> EntryResult:
        if isinstance(request, ParsedSearch):
            request = with_real_links(caller, request, links)
        return await self._perform(caller, request, budget)

    async def _parse_and_perform(
        self, caller: Caller, entry: ParsedEntry, budget: "_Budget"
    ) -> EntryResult:
        request = await compute(len(entry.url or ""), parse_entry, caller, entry)
        return await self._perform(caller, request, budget)

    async def _perform(
        self, caller: Caller, request: InteractionRequest, budget: "_Budget"
    ) -> EntryResult:
        match request:
            case ReadRequest():
                budget.check()
                return budget.spend(
                    await read(self._provider, caller, request.resource_type, request.id)
                )
            case ParsedSearch():
                budget.check()
                return budget.spend(
                    await search_type(require_search(self._provider), caller, request)
                )
            case ChangeRequest():
                return await self._changes.apply(caller, request)

    def _parse_all(
        self, caller: Caller, entries: Sequence[ParsedEntry]
    ) -> tuple[list[InteractionRequest], Transaction]:
        requests = [
            self._parse_for_transaction(caller, index, entry)
            for index, entry in enumerate(entries)
        ]
        transaction = collect_changes(entries, requests)
        for index, request in enumerate(requests):
            if isinstance(request, ParsedSearch):
                with naming_entry(index):
                    check_links(caller, transaction, request)
        return requests, transaction

    def _parse_for_transaction(
        self, caller: Caller, index: int, entry: ParsedEntry
    ) -> InteractionRequest:
        """Parse an entry and refuse before anything is changed what would only fail afterwards."""
        with naming_entry(index):
            request = parse_entry(caller, entry)
            authorize(caller, request.interaction, request.resource_type)
            if isinstance(request, ParsedSearch):
                require_search(self._provider)
            return request

    async def _change(
        self, caller: Caller, transaction: Transaction
    ) -> tuple[dict[int, CompletedChange], BundleLinks]:
        """Make the changes of a transaction; return them by the index of their entry."""

        async def change() -> tuple[dict[int, CompletedChange], BundleLinks]:
            resolution = Resolution(
                caller,
                transaction,
                provider=self._provider,
                changes=self._changes,
                conditions=self._conditions,
            )
            return await resolution.make_changes()

        if transaction.conditional:
            return await self._conditions.retry_on_conflict(caller, change)
        return await change()


Result = TypeVar("Result", bound=StoredVersion | SearchResult)


class _Budget:
    """The bytes of resources that the response to one Bundle may still have."""

    def __init__(self) -> None:
        self._left = MAX_RESPONSE_BYTES

    def check(self) -> None:
        """
        Raise unless there is something left.

        Raises:
            TooCostly: The entries before have used it up.
        """
        if self._left <= 0:
            raise TooCostly(
                f"The response has more than {MAX_RESPONSE_BYTES} bytes already; send this entry "
                "in another Bundle."
            )

    def spend(self, result: Result) -> Result:
        """Return a result, which counts from now on."""
        resources = (
            [result] if isinstance(result, StoredVersion) else [*result.matches, *result.included]
        )
        self._left -= sum(len(stored.content or b"") for stored in resources)
        return result


async def _result_or_error(
    index: int, perform: Callable[[], Awaitable[EntryResult]]
) -> EntryResult:
    """Return the result of an entry, or the error that names it."""
    await asyncio.sleep(0)  # an entry that fails at once lets nobody else have a turn
    try:
        with naming_entry(index):
            return await perform()
    except HeliosError as error:
        return error
