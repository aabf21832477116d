"""The base class of data providers over the tables of somebody's own database."""

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

from helios_core.errors import BackendError
from helios_core.fhir.compartments import patients_of
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.instants import FOREVER, from_stamp
from helios_core.fhir.references import base_urls, decode_links
from helios_core.model.exports import Cohort, ExportView, Level, Shard
from helios_core.storage.data_provider import Batch, DataProvider, StoredVersion
from helios_core.storage.resource_keys import ResourceKey, TypeKey
from helios_core.storage.resource_queries import (
    BatchBuilder,
    Key,
    MappedRow,
    QueryRow,
    ResourceQuery,
    RowRange,
    map_rows,
)
from helios_core.storage.threads import in_thread

KEYS_PER_QUERY = 500
"""Maximum number of ids or patients in one query; few databases allow fewer parameters."""
ROWS_PER_PAGE = 10_000
"""Maximum number of rows that are read at once, however small they are."""

_GROWTH = 16
_SAMPLE_ROWS = 16
_SAMPLE_BYTES = 64 * 1024
_USUAL_LINE_BYTES = 1000
_END_OF_TIME = from_stamp(FOREVER)


class _ShardRange(msgspec.Struct):
    """A planned shard, from a key or a patient up to the start of the next shard."""

    start: Key
    rows: int


class _PageSize:
    """
    The number of rows to read at once, so that their lines fill about one batch.

    It begins with one row, since nothing is known of the size of lines yet, and grows quickly.
    """

    def __init__(self, page_bytes: int) -> None:
        self.rows = 1
        self._page_bytes = page_bytes
        self._lines = 0
        self._bytes = 0

    def measure(self, page: Sequence[MappedRow]) -> None:
        """Take the lines of a page into account."""
        self._lines += len(page)
        self._bytes += sum(len(row.line) for row in page)
        fitting = self._page_bytes * self._lines // max(self._bytes, 1)
        self.rows = max(1, min(self.rows * _GROWTH, fitting, ROWS_PER_PAGE))


class QueryDataProvider(DataProvider):
    """
    Reads the rows of queries as resources, from tables that others fill.

    A subclass implements `rows` with its driver, and lists its queries and `settled`, a query
    with one row whose column `settled` is the transaction time. What the author has to guarantee:

    P1: whatever is committed later carries, in the column `changed` of its query, a later instant
    than `settled` had before. So `settled` is not the clock. It is the instant of the last load
    where tables are loaded in transactions, or an instant before the start of the oldest
    transaction still running where they are written to all the time.

    P3: a row that was there at the transaction time can be read until the export ends. If rows are
    never changed or removed, or the queries take `:at` into account, set `keeps_past`. Otherwise
    an export fails, with an error that says why, once `settled` has moved on: it never mixes
    two states.

    The rest is done here. Planning counts the rows of each type along their keys, so the index on
    the key should include `changed`. Shards are ranges of keys, or of patients for a cohort, which
    is read by the index on the `patient` column. Every type and tenant without a query is empty.
    A `versionId` is the instant of the last change in microseconds. Deletions are not remembered.
    """

    keeps_past: ClassVar[bool] = False
    """Whether the rows of an earlier transaction time can still be read."""

    def __init__(
        self,
        queries: Iterable[ResourceQuery],
        *,
        settled: str,
        tenant: str = "default",
        fhir_version: FHIRVersion = FHIRVersion.R4,
    ) -> None:
        """
        Take the queries, one for each type, and the tenant and FHIR version they are for.

        Raises:
            ValueError: Two queries are of one type, a type is not one of the FHIR version, or a
                query has a `patient` column and there is no query of Patient.
        """
        listed = list(queries)
        self._queries = {query.resource_type: query for query in listed}
        self._settled = settled
        self._tenant = tenant
        self._fhir_version = fhir_version
        self._cohort = ("", list[Key]())
        definitions = load_definitions(fhir_version)
        self._compartment_types = definitions.compartment_types("Patient")
        if len(self._queries) < len(listed):
            raise ValueError("there are two queries of one type; join them with UNION ALL")
        if unknown := sorted(self.types - definitions.types):
            raise ValueError(f"{unknown[0]} is not a resource type of FHIR {fhir_version}")
        if "Patient" not in self._queries and any(query.patient for query in listed):
            raise ValueError("a query names a patient column, but there is no query of Patient")

    @property
    def types(self) -> frozenset[str]:
        """The resource types that have a query."""
        return frozenset(self._queries)

    @abstractmethod
    async def rows(self, query: str, parameters: Mapping[str, object]) -> Sequence[QueryRow]:
        """
        Run a query and return all of its rows.

        Its parameters are named, as in `:at`; `numbered_parameters` translates them. A driver that
        blocks is called in a thread (`in_thread`).

        Raises:
            BackendUnavailable: The database is busy or down.
            BackendError: It cannot run the query.
        """

    def to_database(self, instant: datetime) -> object:
        """Return an instant as the column `changed` has it; this default changes nothing."""
        return instant

    def from_database(self, value: Any) -> datetime:  # noqa: ANN401 - what the driver returns
        """
        Return the instant that a value of `changed` or `settled` stands for, in UTC.

        This default takes instants with a time zone, as PostgreSQL's `timestamptz` is read.

        Raises:
            BackendError: The value is not an instant with a time zone.
        """
        if not isinstance(value, datetime) or value.tzinfo is None:
            raise BackendError(
                "an instant of the database has no time zone; convert it in the query or in"
                " `from_database`"
            )
        return value

    async def transaction_time(self) -> datetime:
        """Return the value of `settled`, or the beginning of 1970 without a row or value (P1)."""
        rows = await self.rows(self._settled, {})
        value = rows[0]["settled"] if rows else None
        return from_stamp(0) if value is None else self.from_database(value)

    async def plan(self, view: ExportView, *, shard_bytes: int) -> list[Shard]:
        """Cut each type by the number of its rows and the size of the first of them (P2)."""
        shards = list[Shard]()
        for resource_type in view.request.types:
            if (query := self._query_in(view, resource_type)) is not None:
                shards += await self._shards(view, query, shard_bytes)
        await self._require_present(view.transaction_time)
        return [replace(shard, number=number) for number, shard in enumerate(shards)]

    async def read(
        self, view: ExportView, shard: Shard, *, batch_bytes: int
    ) -> AsyncIterator[Batch]:
        """Read a shard in the order of its keys, a cohort 500 patients at a time (P3, P4, P6)."""
        if (query := self._query_in(view, shard.resource_type)) is None:
            return
        builder = BatchBuilder(batch_bytes)
        async for page in self._pages(view, query, shard, page_bytes=batch_bytes):
            for row in page:
                if (batch := builder.add(row)) is not None:
                    yield batch
        await self._require_present(view.transaction_time)
        if (batch := builder.rest()) is not None:
            yield batch

    async def get(self, key: ResourceKey, *, at: datetime | None = None) -> StoredVersion | None:
        """
        Return the version current at an instant (None: now).

        Unless the past is kept, a row that has changed since then is not found.

        Raises:
            BackendError: The row cannot be mapped to a resource.
        """
        row = (await self._rows_by_id(key.type, [key.id], at)).get(key.id)
        if row is None:
            return None
        if row.damaged is not None:
            raise BackendError(f"a {key.resource_type} cannot be read: {row.damaged.reason}")
        return row.version

    async def missing(
        self, key: TypeKey, ids: Collection[str], *, at: datetime | None = None
    ) -> set[str]:
        """Return those of `ids` that have no row, looking up 500 at a time."""
        rows = await self._rows_by_id(key, ids, at)
        if at is not None:
            await self._require_present(at)
        return {*ids} - rows.keys()

    async def fetch(self, key: TypeKey, ids: Collection[str], *, at: datetime) -> Batch:
        """Return the resources of these ids, looking up 500 at a time (P6)."""
        by_id = await self._rows_by_id(key, ids, at)
        await self._require_present(at)
        rows = [by_id[resource_id] for resource_id in ids if resource_id in by_id]
        return Batch(
            lines=[row.line for row in rows if row.damaged is None],
            damaged=[row.damaged for row in rows if row.damaged is not None],
        )

    async def among(self, view: ExportView, resource_type: str, ids: Collection[str]) -> set[str]:
        """Return those of `ids` that a view shows, looking up 500 at a time (P8)."""
        if (query := self._query_in(view, resource_type)) is None:
            return set()
        shown = set[str]()
        for keys in _chunks(query.to_keys(ids)):
            rows = replace(self._view_rows(view, query), keys=keys)
            page = await self._page(query, rows, len(keys))
            shown |= {row.id for row in await self._in_cohort(view, query, page)}
        await self._require_present(view.transaction_time)
        return shown & {*ids}

    def _query(self, key: TypeKey) -> ResourceQuery | None:
        """Return the query of a type; in another tenant or FHIR version there is none (P7)."""
        if (key.tenant, key.fhir_version) != (self._tenant, self._fhir_version):
            return None
        return self._queries.get(key.resource_type)

    def _query_in(self, view: ExportView, resource_type: str) -> ResourceQuery | None:
        """Return the query of a type, or None if the view cannot show any of its resources."""
        if _is_limited(view) and resource_type not in self._compartment_types:
            return None
        return self._query(TypeKey.of(view.request, resource_type))

    async def _require_present(self, at: datetime) -> None:
        """Raise if rows may have been replaced since an instant, so that they are gone (P3)."""
        if not self.keeps_past and await self.transaction_time() != at:
            raise BackendError(
                "the tables have changed since the transaction time of the export, and its rows"
                " are gone; start the export again"
            )

    async def _rows_by_id(
        self, key: TypeKey, ids: Collection[str], at: datetime | None
    ) -> dict[str, MappedRow]:
        by_id = dict[str, MappedRow]()
        if (query := self._query(key)) is not None:
            rows = RowRange(at=self.to_database(at or _END_OF_TIME))
            for keys in _chunks(query.to_keys(ids)):
                page = await self._page(query, replace(rows, keys=keys), len(keys))
                by_id |= {row.id: row for row in page}
        return by_id

    async def _shards(
        self, view: ExportView, query: ResourceQuery, shard_bytes: int
    ) -> list[Shard]:
        line_bytes = await self._line_bytes(view, query)
        if line_bytes is None:
            return []
        rows_per_shard = max(1, shard_bytes // line_bytes)
        if view.cohort is None or query.patient_column is None:
            ranges = await self._key_ranges(view, query, rows_per_shard)
        else:
            ranges = await self._patient_ranges(view, query, view.cohort, rows_per_shard)
        starts = [None, *(str(each.start) for each in ranges[1:]), None]
        return [
            Shard(
                number=0,
                resource_type=query.resource_type,
                ordinal=position + 1,
                start=starts[position],
                end=starts[position + 1],
                resources=each.rows,
                bytes=each.rows * line_bytes,
            )
            for position, each in enumerate(ranges)
        ]

    async def _line_bytes(self, view: ExportView, query: ResourceQuery) -> int | None:
        """Return the average size of the first lines, or None if the view shows nothing."""
        whole_type = Shard(number=0, resource_type=query.resource_type, ordinal=1)
        sizes = list[int]()
        async for page in self._pages(view, query, whole_type, page_bytes=_SAMPLE_BYTES):
            sizes += [len(row.line) for row in page]
            if sizes and (len(sizes) >= _SAMPLE_ROWS or sum(sizes) >= _SAMPLE_BYTES):
                break
        if not sizes:
            return None
        return sum(sizes) // len(sizes) or _USUAL_LINE_BYTES

    async def _key_ranges(
        self, view: ExportView, query: ResourceQuery, rows_per_shard: int
    ) -> list[_ShardRange]:
        statement = query.range_statement(self._view_rows(view, query))
        parameters = statement.parameters | {"rows_per_shard": rows_per_shard}
        rows = await self.rows(statement.text, parameters)
        return [_ShardRange(row["first_key"], row["row_count"]) for row in rows]

    async def _patient_ranges(
        self, view: ExportView, query: ResourceQuery, cohort: Cohort, rows_per_shard: int
    ) -> list[_ShardRange]:
        ranges = list[_ShardRange]()
        for patients in _chunks(await self._patients(cohort)):
            rows = replace(self._view_rows(view, query), patients=patients)
            statement = query.patient_statement(rows)
            counted = await self.rows(statement.text, statement.parameters)
            counts = {row["patient"]: row["row_count"] for row in counted}
            for patient in patients:
                count = counts.get(patient, 0)
                if count and (not ranges or ranges[-1].rows + count > rows_per_shard):
                    ranges.append(_ShardRange(patient, count))
                elif count:
                    ranges[-1].rows += count
        return ranges

    async def _patients(self, cohort: Cohort) -> list[Key]:
        """Return the sorted keys of a cohort; those of the last cohort are kept."""
        cohort_key, patients = self._cohort
        if cohort_key != cohort.key:
            query = self._queries["Patient"]
            patients = await in_thread(lambda: sorted(query.to_keys(cohort.patients)))
            self._cohort = (cohort.key, patients)
        return patients

    def _view_rows(self, view: ExportView, query: ResourceQuery) -> RowRange:
        """Return the rows that a view shows of a type, those outside of its cohort included."""
        since, until = view.request.since, view.request.until
        return RowRange(
            at=self.to_database(view.transaction_time),
            since=None if since is None else self.to_database(since),
            until=None if until is None else self.to_database(until),
            of_any_patient=_is_limited(view) and query.patient_column is not None,
        )

    async def _shard_rows(
        self, view: ExportView, query: ResourceQuery, shard: Shard
    ) -> Iterable[RowRange]:
        """Return the rows of a shard: one range of keys, or those of 500 patients at a time."""
        rows = self._view_rows(view, query)
        if view.cohort is None or query.patient_column is None:
            return [replace(rows, start=query.bound(shard.start), end=query.bound(shard.end))]
        patients = await self._patients(view.cohort)
        start, end = (self._queries["Patient"].bound(text) for text in (shard.start, shard.end))
        first = 0 if start is None else bisect_left(patients, start)
        last = len(patients) if end is None else bisect_left(patients, end)
        return (replace(rows, patients=chunk) for chunk in _chunks(patients[first:last]))

    async def _pages(
        self, view: ExportView, query: ResourceQuery, shard: Shard, *, page_bytes: int
    ) -> AsyncIterator[Sequence[MappedRow]]:
        """Read the rows of a shard page by page, each after the last key of the one before."""
        size = _PageSize(page_bytes)
        for rows in await self._shard_rows(view, query, shard):
            remaining: RowRange | None = rows
            while remaining is not None:
                count = size.rows
                page = await self._page(query, remaining, count)
                size.measure(page)
                yield await self._in_cohort(view, query, page)
                after = page[-1].key if len(page) == count else None
                remaining = None if after is None else replace(rows, start=None, after=after)

    async def _page(self, query: ResourceQuery, rows: RowRange, count: int) -> list[MappedRow]:
        """Read at most `count` rows, and map them in a thread."""
        statement = query.statement(rows)
        rows_read = await self.rows(statement.text, statement.parameters | {"row_limit": count})
        if not rows_read:
            return []
        page = await in_thread(map_rows, query, rows_read, self.from_database, self._fhir_version)
        if len({row.key for row in page}) < len(page):
            raise BackendError(f"the query of {query.resource_type} has two rows with one key")
        return page

    async def _in_cohort(
        self, view: ExportView, query: ResourceQuery, page: list[MappedRow]
    ) -> Sequence[MappedRow]:
        """Leave out rows of other patients that the query could not leave out."""
        if not _is_limited(view):
            return page
        if query.patient_column is None:
            return await in_thread(_in_compartments, view, page)
        if view.cohort is None:
            return page
        return [row for row in page if row.patient in view.cohort.patients]


def _is_limited(view: ExportView) -> bool:
    """Return whether a view shows only what is in compartments."""
    return view.cohort is not None or view.request.level is not Level.SYSTEM


def _in_compartments(view: ExportView, page: Iterable[MappedRow]) -> list[MappedRow]:
    """Return the rows whose resources name patients of the view, and reports without ids."""
    cohort, version = view.cohort, view.request.fhir_version
    own_urls = base_urls(view.request.base_url)
    kept = list[MappedRow]()
    for row in page:
        if row.damaged is not None:
            # It is not known to which patient the resource belongs.
            kept.append(row.without_id())
            continue
        patients = patients_of(decode_links(row.line), version, own_urls)
        if patients if cohort is None else not cohort.patients.isdisjoint(patients):
            kept.append(row)
    return kept


def _chunks(keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
    for start in range(0, len(keys), KEYS_PER_QUERY):
        yield keys[start : start + KEYS_PER_QUERY]
