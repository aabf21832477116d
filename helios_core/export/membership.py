"""Whether an export shows certain resources, asked for many at once."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from msgspec.structs import replace

from helios_core.export.cohorts import newcomers_view
from helios_core.model.exports import Cohort, ExportView, Level
from helios_core.storage.data_provider import DataProvider
from helios_core.storage.keys import TypeKey

T = TypeVar("T")
Reference = tuple[str, str]
"""Type and id."""

AT_ONCE = 500
"""How many ids a provider is asked about in one go."""


class ExportMembership:
    """What one export shows, by reference."""

    def __init__(self, provider: DataProvider, view: ExportView) -> None:
        self._provider = provider
        self._view = view
        self._older = newcomers_view(view)

    async def exported(self, references: Collection[Reference]) -> set[Reference]:
        """Give those of the references that are in the output by type, age, level and filter."""
        types = self._view.request.types
        return await self._each(self._exported, (r for r in references if r[0] in types))

    async def belonging(self, references: Collection[Reference]) -> set[Reference]:
        """Give those that the export's level and cohort take in, whatever their type and age."""
        return await self._each(self._belonging, references)

    async def of_newcomers(self, references: Collection[Reference]) -> set[Reference]:
        """Give those that are about members who joined after `since`, whatever their age."""
        return await self._each(self._of_newcomers, references)

    async def private(self, references: Collection[Reference]) -> set[Reference]:
        """Give those that are in the compartment of some patient."""
        return await self._each(self._private, references)

    async def existing(self, references: Collection[Reference]) -> set[Reference]:
        """Give those that are live at the transaction time, whoever they belong to."""
        return await self._each(self._existing, references)

    async def shown(self, resource_type: str, ids: Collection[str]) -> set[str]:
        """Give those of `ids` that the view shows before its filters are asked."""
        found = await self._provider.among(self._view, resource_type, ids)
        if self._older is not None:
            found |= await self._provider.among(self._older, resource_type, ids)
        return found

    async def _exported(self, resource_type: str, ids: Collection[str]) -> set[str]:
        found = await self.shown(resource_type, ids)
        if (wanted := self._view.filters.get(resource_type)) is None or not found:
            return found
        key, at = TypeKey.of(self._view.request, resource_type), self._view.transaction_time
        matching = set[str]()
        for resource_id in found:  # one at a time: a line does not say cheaply whose it is
            batch = await self._provider.fetch(key, [resource_id], at=at)
            if any(map(wanted.matches, batch.lines)):
                matching.add(resource_id)
        return matching

    async def _belonging(self, resource_type: str, ids: Collection[str]) -> set[str]:
        view = without_dates(self._view, self._view.cohort)
        return await self._provider.among(view, resource_type, ids)

    async def _of_newcomers(self, resource_type: str, ids: Collection[str]) -> set[str]:
        view = without_dates(self._view, self._view.newcomers)
        return await self._provider.among(view, resource_type, ids)

    async def _private(self, resource_type: str, ids: Collection[str]) -> set[str]:
        everybody = without_dates(self._view, None)
        request = replace(everybody.request, level=Level.PATIENT)
        view = replace(everybody, request=request)
        return await self._provider.among(view, resource_type, ids)

    async def _existing(self, resource_type: str, ids: Collection[str]) -> set[str]:
        key, at = TypeKey.of(self._view.request, resource_type), self._view.transaction_time
        return set(ids) - await self._provider.missing(key, ids, at=at)

    async def _each(
        self,
        ask: Callable[[str, Collection[str]], Awaitable[set[str]]],
        references: Iterable[Reference],
    ) -> set[Reference]:
        by_type = defaultdict[str, list[str]](list)
        for resource_type, resource_id in references:
            by_type[resource_type].append(resource_id)
        return {
            (resource_type, resource_id)
            for resource_type, ids in by_type.items()
            for some in chunked(ids)
            for resource_id in await ask(resource_type, some)
        }


def without_dates(view: ExportView, cohort: Cohort | None) -> ExportView:
    """Give a view of a cohort at the same instant that no change's date and no filter narrows."""
    request = replace(view.request, since=None, until=None)
    return replace(view, request=request, cohort=cohort, newcomers=None, filters={})


def chunked(items: Iterable[T], size: int = AT_ONCE) -> Iterator[Sequence[T]]:
    """Give the items, some at a time."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
