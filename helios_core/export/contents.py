"""Filter references by whether an export includes them, in batches."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from msgspec.structs import replace

from helios_core.export.cohorts import newcomers_view
from helios_core.export.disclosure import disclosure
from helios_core.model.exports import Cohort, ExportView, Level
from helios_core.storage.data_provider import DataProvider
from helios_core.storage.integrity import DECODE_ERRORS
from helios_core.storage.resource_keys import TypeKey

T = TypeVar("T")
Reference = tuple[str, str]
"""A resource type and an id."""

IDS_PER_QUERY = 500
"""Maximum number of ids in one call to the data provider."""


class ExportContents:
    """Filters references by what one export includes."""

    def __init__(self, provider: DataProvider, view: ExportView) -> None:
        self._provider = provider
        self._view = view
        self._older_view = newcomers_view(view)

    async def exported(self, references: Collection[Reference]) -> set[Reference]:
        """Return the references to resources that match the types, dates, cohort and filters."""
        types = self._view.request.types
        return await self._by_type(self._exported, (r for r in references if r[0] in types))

    async def in_cohort(self, references: Collection[Reference]) -> set[Reference]:
        """Return the references within the export's level and cohort, of any type and date."""
        return await self._by_type(self._in_cohort, references)

    async def of_newcomers(self, references: Collection[Reference]) -> set[Reference]:
        """Return the references about members who joined after `since`, of any type and date."""
        return await self._by_type(self._of_newcomers, references)

    async def of_any_patient(self, references: Collection[Reference]) -> set[Reference]:
        """Return the references to resources in the compartment of any patient."""
        return await self._by_type(self._of_any_patient, references)

    async def of_others(self, references: Collection[Reference]) -> set[Reference]:
        """Return the references to resources only of patients outside of the export."""
        of_patients = await self.of_any_patient(references)
        return of_patients - await self.in_cohort(of_patients)

    async def existing(self, references: Collection[Reference]) -> set[Reference]:
        """Return the references to resources that exist at the transaction time."""
        return await self._by_type(self._existing, references)

    async def in_view(self, resource_type: str, ids: Collection[str]) -> set[str]:
        """Return those of `ids` that the export shows before its filters are applied."""
        in_view = await self._provider.among(self._view, resource_type, ids)
        if self._older_view is not None:
            in_view |= await self._provider.among(self._older_view, resource_type, ids)
        return in_view

    async def _exported(self, resource_type: str, ids: Collection[str]) -> set[str]:
        in_view = await self.in_view(resource_type, ids)
        in_view -= await self._withheld(resource_type, in_view)
        if (filter_ := self._view.filters.get(resource_type)) is None or not in_view:
            return in_view
        key, at = TypeKey.of(self._view.request, resource_type), self._view.transaction_time
        matching = set[str]()
        for resource_id in in_view:  # one at a time: decoding each line for its id would cost more
            batch = await self._provider.fetch(key, [resource_id], at=at)
            if any(map(filter_.matches, batch.lines)):
                matching.add(resource_id)
        return matching

    async def _in_cohort(self, resource_type: str, ids: Collection[str]) -> set[str]:
        view = without_dates(self._view, self._view.cohort)
        return await self._disclosed_among(view, resource_type, ids)

    async def _of_newcomers(self, resource_type: str, ids: Collection[str]) -> set[str]:
        view = without_dates(self._view, self._view.newcomers)
        return await self._disclosed_among(view, resource_type, ids)

    async def _disclosed_among(
        self, view: ExportView, resource_type: str, ids: Collection[str]
    ) -> set[str]:
        among = await self._provider.among(view, resource_type, ids)
        return among - await self._withheld(resource_type, among)

    async def _withheld(self, resource_type: str, ids: Collection[str]) -> set[str]:
        """Return the ids of resources that are left out because of the other patients in them."""
        limit = disclosure(self._view, resource_type)
        if limit is None or not ids:
            return set()
        if limit.ids is not None:
            return set(ids) - limit.ids
        key, at = TypeKey.of(self._view.request, resource_type), self._view.transaction_time
        withheld = set[str]()
        for resource_id in ids:
            batch = await self._provider.fetch(key, [resource_id], at=at)
            try:
                allowed = all(map(limit.allows, batch.lines))
            except DECODE_ERRORS:  # it is not known which patients it is about
                allowed = False
            if not allowed:
                withheld.add(resource_id)
        return withheld

    async def _of_any_patient(self, resource_type: str, ids: Collection[str]) -> set[str]:
        everybody = without_dates(self._view, None)
        request = replace(everybody.request, level=Level.PATIENT)
        view = replace(everybody, request=request)
        return await self._provider.among(view, resource_type, ids)

    async def _existing(self, resource_type: str, ids: Collection[str]) -> set[str]:
        key, at = TypeKey.of(self._view.request, resource_type), self._view.transaction_time
        return set(ids) - await self._provider.missing(key, ids, at=at)

    async def _by_type(
        self,
        select: Callable[[str, Collection[str]], Awaitable[set[str]]],
        references: Iterable[Reference],
    ) -> set[Reference]:
        """Return the references that `select` returns for the ids of each type."""
        ids_by_type = defaultdict[str, list[str]](list)
        for resource_type, resource_id in references:
            ids_by_type[resource_type].append(resource_id)
        return {
            (resource_type, resource_id)
            for resource_type, ids in ids_by_type.items()
            for chunk in chunked(ids)
            for resource_id in await select(resource_type, chunk)
        }


def without_dates(view: ExportView, cohort: Cohort | None) -> ExportView:
    """Return a view of a cohort at the same instant, without `since`, `until` and filters."""
    request = replace(view.request, since=None, until=None)
    return replace(view, request=request, cohort=cohort, newcomers=None, filters={})


def chunked(items: Iterable[T], size: int = IDS_PER_QUERY) -> Iterator[Sequence[T]]:
    """Yield the items in lists of at most `size`."""
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk
