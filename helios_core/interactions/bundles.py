"""Batches and transactions: many interactions in one request (FHIR R4, http.html#transaction)."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from helios_core.errors import HeliosError, InvalidResource
from helios_core.fhir.bundles import ParsedEntry
from helios_core.interactions.callers import Caller, Interaction, authorize
from helios_core.interactions.changes import (
    ChangeRequest,
    Changes,
    CompletedChange,
    ResolvedChange,
    to_change,
)
from helios_core.interactions.conditions import Conditions, require_search
from helios_core.interactions.entries import (
    InteractionRequest,
    ReadRequest,
    naming_entry,
    parse_entry,
)
from helios_core.interactions.parameters import parse_pairs
from helios_core.interactions.read import read
from helios_core.interactions.search import SearchResult, search_type
from helios_core.interactions.search_parameters import ParsedSearch
from helios_core.interactions.transactions import (
    ORDER,
    ResolvedReferences,
    Transaction,
    check_distinct_targets,
    collect_changes,
    rewrite_references,
)
from helios_core.storage.data_provider import DataProvider, Delete, Put, StoredVersion

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
        changed = await self._change(caller, collect_changes(entries, requests))
        return [
            changed[index]
            if index in changed
            else await _result_or_error(index, partial(self._perform, caller, request))
            for index, request in enumerate(requests)
        ]

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
    ) -> dict[int, CompletedChange]:
        """Make the changes of a transaction; return them by the index of their entry."""
        change = partial(self._resolve_and_write, caller, transaction)
        if transaction.conditional:
            return await self._conditions.retry_on_conflict(caller, change)
        return await change()

    async def _resolve_and_write(
        self, caller: Caller, transaction: Transaction
    ) -> dict[int, CompletedChange]:
        resolved = dict[int, ResolvedChange | CompletedChange]()
        for index, request in transaction.changes.items():
            with naming_entry(index):
                resolved[index] = await self._changes.resolve(caller, request)
        check_distinct_targets(resolved)
        references = await self._resolve_references(caller, transaction, resolved)
        completed = dict[int, CompletedChange]()
        pending = dict[int, Put | Delete]()
        for index in sorted(
            resolved, key=lambda i: ORDER.index(transaction.changes[i].interaction)
        ):
            change = resolved[index]
            if isinstance(change, CompletedChange):
                completed[index] = change
                continue
            with naming_entry(index):
                pending[index] = to_change(caller, rewrite_references(change, references))
        written = await self._changes.write(caller, list(pending.values()))
        return completed | dict(zip(pending, written, strict=True))

    async def _resolve_references(
        self,
        caller: Caller,
        transaction: Transaction,
        resolved: Mapping[int, ResolvedChange | CompletedChange],
    ) -> ResolvedReferences:
        """
        Return what temporary and conditional references refer to (FHIR R4, http.html#trules).

        Raises:
            RequestError: A conditional reference matches nothing, or more than one resource.
        """
        conditional = dict[str, str]()
        for reference, index in transaction.conditional_references.items():
            with naming_entry(index):
                conditional[reference] = await self._resolve_conditional(caller, reference)
        return ResolvedReferences(
            temporary={
                url: f"{resolved[index].resource_type}/{resolved[index].id}"
                for url, index in transaction.full_urls.items()
            },
            conditional=conditional,
        )

    async def _resolve_conditional(self, caller: Caller, reference: str) -> str:
        resource_type, _, query = reference.partition("?")
        criteria = parse_pairs(query, "a conditional reference")
        match = await self._conditions.match(caller, resource_type, criteria)
        if match is None:
            raise InvalidResource(
                f"a conditional reference matches no {resource_type}; store it first, or refer to "
                "it by a urn:uuid in the same transaction."
            )
        return f"{resource_type}/{match.id}"


async def _result_or_error(
    index: int, perform: Callable[[], Awaitable[EntryResult]]
) -> EntryResult:
    """Return the result of an entry, or the error that names it."""
    try:
        with naming_entry(index):
            return await perform()
    except HeliosError as error:
        return error
