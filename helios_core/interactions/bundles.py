"""Batches and transactions: many interactions in one request (FHIR R4, http.html#transaction)."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias

from helios_core.errors import HeliosError
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

EntryResult: TypeAlias = StoredVersion | SearchResult | CompletedChange | HeliosError
"""What became of an entry: a read, a search, a change, or the reason why it failed."""


class Bundles:
    """Performs what the entries of a batch or a transaction request."""

    def __init__(self, provider: DataProvider, changes: Changes, conditions: Conditions) -> None:
        self._provider = provider
        self._changes = changes
        self._conditions = conditions

    async def batch(self, caller: Caller, entries: Sequence[ParsedEntry]) -> list[EntryResult]:
        """Perform entries one by one, in their order; one that fails concerns no other."""
        authorize(caller, Interaction.BATCH)
        return [
            await _result_or_error(index, partial(self._parse_and_perform, caller, entry))
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
        requests = [
            self._parse_for_transaction(caller, index, entry)
            for index, entry in enumerate(entries)
        ]
        transaction = collect_changes(entries, requests)
        for index, request in enumerate(requests):
            if isinstance(request, ParsedSearch):
                with naming_entry(index):
                    check_links(caller, transaction, request)
        changed, links = await self._change(caller, transaction)
        return [
            changed[index]
            if index in changed
            else await _result_or_error(index, partial(self._read, caller, request, links))
            for index, request in enumerate(requests)
        ]

    async def _read(
        self, caller: Caller, request: InteractionRequest, links: BundleLinks
    ) -> EntryResult:
        if isinstance(request, ParsedSearch):
            request = with_real_links(caller, request, links)
        return await self._perform(caller, request)

    async def _parse_and_perform(self, caller: Caller, entry: ParsedEntry) -> EntryResult:
        return await self._perform(caller, parse_entry(caller, entry))

    async def _perform(self, caller: Caller, request: InteractionRequest) -> EntryResult:
        match request:
            case ReadRequest():
                return await read(self._provider, caller, request.resource_type, request.id)
            case ParsedSearch():
                return await search_type(require_search(self._provider), caller, request)
            case ChangeRequest():
                return await self._changes.apply(caller, request)

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


async def _result_or_error(
    index: int, perform: Callable[[], Awaitable[EntryResult]]
) -> EntryResult:
    """Return the result of an entry, or the error that names it."""
    try:
        with naming_entry(index):
            return await perform()
    except HeliosError as error:
        return error
