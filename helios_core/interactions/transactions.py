"""
Transactions: order, conditions, and links between entries (FHIR R4, http.html#trules).

Changes are resolved in three steps: DELETE, POST, then PUT and PATCH. Conditions see the changes
of earlier steps, and those of POST also the creates without a condition; references that are
searches see all changes. A transaction whose result would depend on the order of its entries is
refused.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final
from uuid import uuid4

import msgspec

from helios_core.errors import InvalidRequest, InvalidResource, TooCostly
from helios_core.fhir.bundles import ParsedEntry
from helios_core.fhir.links import BundleLinks, normalized_link, rewrite_links
from helios_core.fhir.references import conditional_references, replace_conditional
from helios_core.fhir.resources import Resource
from helios_core.interactions.callers import Caller, Interaction
from helios_core.interactions.changes import (
    ChangeRequest,
    Changes,
    CompletedChange,
    ResolvedChange,
    parse_body,
    to_change,
)
from helios_core.interactions.conditions import Conditions
from helios_core.interactions.criteria_links import rewrite_criteria
from helios_core.interactions.entries import InteractionRequest, naming_entry
from helios_core.interactions.parameters import Pairs, parse_pairs
from helios_core.interactions.pending import PendingState
from helios_core.interactions.search_parameters import ParsedSearch, parse_search
from helios_core.storage.data_provider import ChangeResult, DataProvider, Delete, Put
from helios_core.storage.threads import compute

STEPS: Final = (
    frozenset({Interaction.DELETE}),
    frozenset({Interaction.CREATE}),
    frozenset({Interaction.UPDATE, Interaction.PATCH}),
)
"""The order in which changes are made; changes of one step have no order among themselves."""

UNKNOWN: Final = "Unknown/unknown"
"""The placeholder for a link whose target is not known yet."""

MAX_PATCHED_BYTES: Final = 64 * 1024 * 1024
"""Maximum total bytes of the resources that a transaction patches, before and after together."""


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """The changes that a transaction requests; entries are known by their index, from 0."""

    changes: Mapping[int, ChangeRequest]
    full_urls: Mapping[int, str]
    """The fullUrls of the changes that leave a resource, by the index of the entry."""
    conditional_references: Mapping[str, int]
    """The conditional references, `Type?query`, each with the index of an entry that has it."""

    @property
    def size(self) -> int:
        """The bytes of the resources that are sent."""
        return sum(len(change.body) for change in self.changes.values())

    @property
    def searches(self) -> bool:
        """Whether the transaction depends on the result of a search."""
        return bool(self.conditional_references) or any(
            change.criteria is not None for change in self.changes.values()
        )

    @property
    def conditional(self) -> bool:
        """Whether it depends on what is stored, so that a conflict is worth a retry."""
        return self.searches or any(change.conditional for change in self.changes.values())


class Same(msgspec.Struct, frozen=True):
    """A conditional create that another entry makes unnecessary."""

    index: int
    """The entry that creates the resource."""


def collect_changes(
    caller: Caller, entries: Sequence[ParsedEntry], requests: Sequence[InteractionRequest]
) -> Transaction:
    """Return the changes among the requests of entries, with their fullUrls and references."""
    changes = {
        index: request
        for index, request in enumerate(requests)
        if isinstance(request, ChangeRequest)
    }
    return Transaction(
        changes=changes,
        full_urls={
            index: full_url
            for index, change in changes.items()
            if (full_url := entries[index].full_url) is not None
            and change.interaction is not Interaction.DELETE
        },
        conditional_references={
            reference: index
            for index, change in changes.items()
            for reference in conditional_references(change.body, (caller.base,))
        },
    )


class Resolution:
    """One attempt to resolve the changes of a transaction and to make them."""

    def __init__(  # noqa: PLR0913 - parts of the server, and of the request
        self,
        caller: Caller,
        transaction: Transaction,
        *,
        provider: DataProvider,
        changes: Changes,
        conditions: Conditions,
        abandoned: asyncio.Event,
    ) -> None:
        self._caller = caller
        self._abandoned = abandoned
        self._transaction = transaction
        self._changes = changes
        self._pending = PendingState(provider, caller)
        self._conditions = conditions.over(self._pending, self._pending.check_moment)
        self._resolved = dict[int, ResolvedChange | CompletedChange | Same]()
        self._ids = {
            index: change.id or str(uuid4())
            for index, change in transaction.changes.items()
            if change.criteria is None
        }
        self._created = dict[tuple[str, str], int]()
        """The entries that store resources without a condition, by type and id."""
        self._criteria = dict[int, Pairs]()
        """The conditions, with real references in place of temporary ones."""
        self._patched_bytes = 0
        self._parsed = dict[int, Resource]()
        self._bodies = dict[int, bytes]()

    async def make_changes(self) -> tuple[dict[int, CompletedChange], BundleLinks]:
        """
        Make all changes or none; return them by the index of their entry, and the real links.

        Raises:
            RequestError: A change is invalid; the message names the entry if it is a single one.
        """
        for step in STEPS:
            await self._resolve_step(step)
        self._check_distinct_targets()
        links = self._links()
        self._check_full_urls(links)
        references = await self._resolve_conditional_references(links)
        pending = await compute(self._transaction.size, self._changes_to_write, links, references)
        written = await self._changes.write(self._caller, list(pending.values()))
        return self._completed(dict(zip(pending, written, strict=True))), links

    async def _resolve_step(self, step: frozenset[Interaction]) -> None:
        changes = {
            index: change
            for index, change in self._transaction.changes.items()
            if change.interaction in step
        }
        plain = [index for index, change in changes.items() if change.criteria is None]
        for index in plain:
            await self._resolve(index, changes[index])
        if Interaction.CREATE in step:
            await self._add_to_pending(plain)
        remaining = {index: changes[index] for index in changes if index not in self._resolved}
        conditional = list(remaining)
        while remaining:
            for index, change in self._with_known_links(remaining).items():
                await self._resolve(index, change)
                self._criteria[index] = change.criteria or ()
                del remaining[index]
        await self._add_to_pending(changes)
        if Interaction.DELETE not in step:
            await self._merge_or_refuse(
                conditional, conditional if Interaction.CREATE in step else changes
            )

    def _with_known_links(self, changes: Mapping[int, ChangeRequest]) -> dict[int, ChangeRequest]:
        """Return the changes whose criteria can be resolved now, with real references in them."""
        links = self._links(unknown=UNKNOWN)
        known = dict[int, ChangeRequest]()
        for index, change in changes.items():
            with naming_entry(index):
                criteria, unresolved = rewrite_criteria(
                    self._caller, change.resource_type, change.criteria or (), links
                )
                _require_resolved(unresolved)
            if not any(UNKNOWN in value for _, value in criteria):
                known[index] = msgspec.structs.replace(change, criteria=criteria)
        if not known:
            raise InvalidRequest(
                f"entry {min(changes)}: its condition refers to an entry that is conditional "
                "itself and not resolved before this one; send them in separate transactions."
            )
        return known

    async def _resolve(self, index: int, change: ChangeRequest) -> None:
        await asyncio.sleep(0)  # there may be thousands of entries, and other requests go on
        if self._abandoned.is_set():
            raise InvalidRequest("The client disconnected before anything was changed.")
        with naming_entry(index):
            if change.interaction is Interaction.CREATE and change.criteria is None:
                resolved: ResolvedChange | CompletedChange | Same = ResolvedChange(
                    request=change, id=self._ids[index]
                )
            else:
                resolved = await self._changes.resolve(self._caller, change, self._conditions)
                self._count_patched(resolved)
            if isinstance(resolved, CompletedChange) and resolved.id:
                resolved = self._same_as_pending(resolved)
            self._resolved[index] = resolved
            if isinstance(resolved, ResolvedChange) and change.criteria is None:
                self._created[resolved.resource_type, resolved.id] = index
            if isinstance(resolved, Same):
                self._ids[index] = self._ids[resolved.index]
            elif resolved.id:
                self._ids[index] = resolved.id

    def _count_patched(self, change: ResolvedChange | CompletedChange) -> None:
        """Raise if the patches would take too much memory."""
        if isinstance(change, ResolvedChange) and change.request.patch is not None:
            self._patched_bytes += len(change.request.body) + len(change.patched)
            if self._patched_bytes > MAX_PATCHED_BYTES:
                raise TooCostly(
                    "the resources to patch are too large together; send fewer patches at a time."
                )

    def _same_as_pending(self, match: CompletedChange) -> CompletedChange | Same:
        """Return a match, or the entry of this transaction that creates the matched resource."""
        index = self._created.get((match.resource_type, match.id))
        return match if index is None else Same(index)

    async def _add_to_pending(self, indexes: Iterable[int]) -> None:
        """Make changes visible to later conditions, if the transaction has any."""
        if self._transaction.searches:
            await compute(self._transaction.size, self._put_pending, indexes)

    def _put_pending(self, indexes: Iterable[int]) -> None:
        links = self._links()
        for index in indexes:
            resolved = self._resolved[index]
            if not isinstance(resolved, ResolvedChange):
                continue
            if resolved.request.interaction is Interaction.DELETE:
                self._pending.delete(resolved.resource_type, resolved.id)
            else:
                with naming_entry(index):
                    body, _ = self._rewrite(index, resolved, links)
                    self._pending.put(self._parse(index, resolved, body))

    async def _merge_or_refuse(
        self, conditional: Iterable[int], storing_entries: Iterable[int]
    ) -> None:
        """
        Raise if an entry stores a resource that the condition of another one of its step matches.

        Two creates of the same resource on the same condition become one.
        """
        storing = dict[tuple[str, str], int]()
        for index in sorted(storing_entries):
            if isinstance(change := self._resolved[index], ResolvedChange):
                storing.setdefault((change.resource_type, change.id), index)
        for index in conditional:
            await asyncio.sleep(0)  # compiling and comparing take time without an await
            resource_type = self._transaction.changes[index].resource_type
            with naming_entry(index):
                filter_ = await self._conditions.compile(
                    self._caller, resource_type, self._criteria[index]
                )
            for resource_id in self._pending.matching_ids(filter_):
                other = storing.get((resource_type, resource_id), index)
                if other == index:
                    continue
                if not self._equal(other, index):
                    raise InvalidRequest(
                        f"entry {other} stores what the condition of entry {index} matches; the "
                        "result would depend on which of the two comes first."
                    )
                self._resolved[index] = Same(other)

    def _equal(self, first: int, second: int) -> bool:
        """Return whether two entries create the same resource, under the id of their condition."""
        return all(
            isinstance(change := self._resolved[index], ResolvedChange)
            and change.request.interaction is Interaction.CREATE
            for index in (first, second)
        ) and (self._parsed[first].content_hash == self._parsed[second].content_hash)

    def _check_distinct_targets(self) -> None:
        """Raise unless each resource is changed once."""
        pending = [
            (index, change)
            for index, change in self._resolved.items()
            if isinstance(change, ResolvedChange)
        ]
        _check_distinct(((change.resource_type, change.id), index) for index, change in pending)
        _check_distinct(
            ((change.resource_type, *sorted(change.request.criteria or ())), index)
            for index, change in pending
            if change.creates
        )

    def _links(self, *, unknown: str | None = None) -> BundleLinks:
        """Return the targets of fullUrls, or `unknown` for those that are not known yet."""
        targets = dict[str, str]()
        for index, full_url in self._transaction.full_urls.items():
            resource_id = self._ids.get(index)
            if resource_id is not None:
                resource_type = self._transaction.changes[index].resource_type
                targets[full_url] = f"{resource_type}/{resource_id}"
            elif unknown is not None:
                targets[full_url] = unknown
        return BundleLinks(targets)

    def _check_full_urls(self, links: BundleLinks) -> None:
        for index, full_url in self._transaction.full_urls.items():
            target = f"{self._transaction.changes[index].resource_type}/{self._ids[index]}"
            if links.targets[normalized_link(full_url)] != target:
                raise InvalidRequest(
                    f"entry {index}: another entry has the same fullUrl, but is another resource; "
                    "links to it would be ambiguous."
                )

    async def _resolve_conditional_references(self, links: BundleLinks) -> dict[str, str]:
        """Return the `Type/id` that each conditional reference matches after all changes."""
        references = dict[str, str]()
        for reference, index in self._transaction.conditional_references.items():
            with naming_entry(index):
                references[reference] = await self._resolve_reference(reference, links)
        return references

    async def _resolve_reference(self, reference: str, links: BundleLinks) -> str:
        resource_type, _, query = reference.partition("?")
        criteria, unresolved = rewrite_criteria(
            self._caller, resource_type, parse_pairs(query, "a conditional reference"), links
        )
        _require_resolved(unresolved)
        match = await self._conditions.match(self._caller, resource_type, criteria)
        if match is None:
            raise InvalidResource(
                f"a conditional reference matches no {resource_type}; store it first, or refer to "
                "it by a urn:uuid in the same transaction."
            )
        return f"{resource_type}/{match.id}"

    def _changes_to_write(
        self, links: BundleLinks, references: Mapping[str, str]
    ) -> dict[int, Put | Delete]:
        """Return the changes to write, in the order of the steps."""
        changes = dict[int, Put | Delete]()
        for index, change in self._resolved.items():  # in the order of the steps already
            if not isinstance(change, ResolvedChange):
                continue
            with naming_entry(index):
                if change.request.interaction is Interaction.DELETE:
                    changes[index] = to_change(self._caller, change)
                else:
                    body, unresolved = self._rewrite(index, change, links)
                    _require_resolved(unresolved)
                    body = replace_conditional(body, references, (self._caller.base,))
                    parsed = self._parse(index, change, body)
                    changes[index] = to_change(self._caller, change, parsed)
        return changes

    def _rewrite(
        self, index: int, change: ResolvedChange, links: BundleLinks
    ) -> tuple[bytes, set[str]]:
        """Return the body of a change with real links, and the temporary links left in it."""
        rewrite = partial(
            rewrite_links,
            version=self._caller.fhir_version,
            resource_type=change.resource_type,
        )
        if change.request.patch is not None:
            # Links that the patch did not touch have nothing to do with this Bundle.
            body, unresolved = rewrite(change.request.body, links=links)
            return body, unresolved - rewrite(change.patched, links=links)[1]
        own = links.of_entry(self._transaction.full_urls.get(index))
        return rewrite(change.request.body, links=own)

    def _parse(self, index: int, change: ResolvedChange, body: bytes) -> Resource:
        """Return the parsed body of an entry, parsed again only if it has changed."""
        if self._bodies.get(index) != body:
            request = msgspec.structs.replace(change.request, body=body)
            self._parsed[index] = parse_body(self._caller, request, change.id)
            self._bodies[index] = body
        return self._parsed[index]

    def _completed(self, written: dict[int, CompletedChange]) -> dict[int, CompletedChange]:
        completed = dict(written)
        for index, change in self._resolved.items():
            if isinstance(change, CompletedChange):
                completed[index] = change
            elif isinstance(change, Same):
                completed[index] = msgspec.structs.replace(
                    written[change.index], outcome=ChangeResult.UNCHANGED
                )
        return completed


def _require_resolved(unresolved: set[str]) -> None:
    if unresolved:
        raise InvalidResource(
            f"{len(unresolved)} temporary links (urn:) are the fullUrl of no entry with a "
            "resource; send what they refer to in the same transaction."
        )


def check_links(caller: Caller, transaction: Transaction, search: ParsedSearch) -> None:
    """
    Check a search of a transaction before anything is changed.

    Raises:
        InvalidResource: It refers to a temporary link that is the fullUrl of no entry.
    """
    links = BundleLinks(dict.fromkeys(transaction.full_urls.values(), UNKNOWN))
    _require_resolved(rewrite_criteria(caller, search.resource_type, search.parameters, links)[1])


def with_real_links(caller: Caller, search: ParsedSearch, links: BundleLinks) -> ParsedSearch:
    """Return a search of a transaction with real references in place of temporary ones."""
    pairs, _ = rewrite_criteria(caller, search.resource_type, search.parameters, links)
    if tuple(pairs) == search.parameters:
        return search
    return parse_search(caller, search.resource_type, pairs, lenient=False)


def _check_distinct(targets: Iterable[tuple[object, int]]) -> None:
    seen = dict[object, int]()
    for target, index in targets:
        first = seen.setdefault(target, index)
        if first != index:
            raise InvalidRequest(
                f"entries {min(first, index)} and {max(first, index)} change the same resource; a "
                "transaction may do that once."
            )
