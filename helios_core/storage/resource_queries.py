"""SQL over tables that others fill: which rows are read, and the resources they become."""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from helios_core.errors import BackendError
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.instants import format_instant, to_stamp
from helios_core.fhir.resources import parse_resource
from helios_core.storage.data_provider import Batch, Damaged, StoredVersion

MAX_DAMAGED = 1000
"""Maximum number of damaged rows in a batch."""

Key = int | str
"""The value of a key column."""

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_MAX_INTEGER = (1 << 63) - 1
_ID_WITHHELD = "(withheld)"
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_ENCODER = msgspec.json.Encoder(decimal_format="number")

# A parameter is what is left when strings, quoted names, comments and casts are skipped.
_PARAMETER = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|::|:([A-Za-z_][A-Za-z0-9_]*)",
    re.DOTALL,
)


class QueryRow(Protocol):
    """A row of a result, such as `sqlite3.Row`, `asyncpg.Record` or a dictionary."""

    def __getitem__(self, column: str, /) -> Any:  # noqa: ANN401 - whatever the database has
        """Return the value of a column."""


class ResourceQuery(msgspec.Struct, frozen=True, kw_only=True):
    """How the rows of a SELECT statement become the resources of one type, one for each row."""

    resource_type: str
    select: str
    """
    The SELECT statement, without parameters other than `:at`, ORDER BY and semicolon.

    It is used as a subquery and narrowed by `key`, `changed` and `patient`, so these should be
    columns of a table that has an index on them. `:at` is the instant that is read, for tables
    that keep the past.
    """
    key: str
    """
    The column whose value, as text, is the id of the resource.

    It is never NULL, unique, and an integer of 64 bits or a text that is a valid FHIR id.
    """
    changed: str
    """
    The column with the instant of the last change of anything that the resource shows.

    It has a precision of microseconds at most. A row in which it is NULL is reported as damaged.
    """
    resource: Callable[[QueryRow], Mapping[str, Any] | bytes]
    """
    Returns the resource of a row: a dictionary, or a JSON object as bytes.

    A dictionary gets `resourceType`, `id` and the version in `meta`, and loses what is None or
    empty. The function is called in threads. If it raises, the row is reported as damaged.
    """
    patient: str | None = None
    """
    The column with the key of the patient in whose compartment the resource is, or NULL.

    Patient needs none. Without one, a patient or group export reads all rows of the type and
    looks into the resources.
    """
    key_type: type[int] | type[str] = int
    """The type of the keys: int or str."""

    @property
    def patient_column(self) -> str | None:
        """The column with the key of the patient, which in the query of Patient is `key`."""
        return self.key if self.resource_type == "Patient" else self.patient

    def to_key(self, resource_id: str) -> Key | None:
        """Return the key of an id, or None if no key has this text."""
        if self.key_type is str:
            return resource_id if _ID.fullmatch(resource_id) else None
        if not _INTEGER.fullmatch(resource_id):
            return None
        key = int(resource_id)
        return key if -_MAX_INTEGER <= key <= _MAX_INTEGER else None

    def to_keys(self, ids: Collection[str]) -> list[Key]:
        """Return the keys of ids, without ids that no key can have."""
        return [key for key in map(self.to_key, ids) if key is not None]

    def bound(self, text: str | None) -> Key | None:
        """Return the key at an end of a shard from its text, or None if that is None: no bound."""
        return None if text is None else self.key_type(text)

    def statement(self, rows: "RowRange") -> "Statement":
        """Return the query for rows in the order of their keys, at most `:row_limit`."""
        source = self._source(rows)
        text = f"SELECT q.* {source.text} ORDER BY q.{self.key} LIMIT :row_limit"
        return Statement(text, source.parameters)

    def range_statement(self, rows: "RowRange") -> "Statement":
        """Return the query for the first key and the size of each `:rows_per_shard` rows."""
        source = self._source(rows)
        text = (
            "SELECT min(p.row_key) AS first_key, count(*) AS row_count FROM ("  # noqa: S608
            f"SELECT q.{self.key} AS row_key, (row_number() OVER (ORDER BY q.{self.key}) - 1)"
            f" / :rows_per_shard AS run {source.text}"
            ") AS p GROUP BY p.run ORDER BY p.run"
        )
        return Statement(text, source.parameters)

    def patient_statement(self, rows: "RowRange") -> "Statement":
        """Return the query for the number of rows of each patient."""
        source, column = self._source(rows), f"q.{self.patient_column}"
        text = f"SELECT {column} AS patient, count(*) AS row_count {source.text} GROUP BY {column}"
        return Statement(text, source.parameters)

    def _source(self, rows: "RowRange") -> "Statement":
        conditions = list(self._conditions(rows))
        text = f"FROM (\n{self.select.strip()}\n) AS q WHERE {' AND '.join(conditions)}"
        return Statement(text, dict(self._parameters(rows)))

    def _conditions(self, rows: "RowRange") -> Iterator[str]:
        changed = f"q.{self.changed}"
        period = [f"{changed} <= :at"]
        period += [f"{changed} > :since"] if rows.since is not None else []
        period += [f"{changed} < :until"] if rows.until is not None else []
        yield f"({changed} IS NULL OR ({' AND '.join(period)}))"
        if rows.start is not None:
            yield f"q.{self.key} >= {self._placeholder('start')}"
        if rows.after is not None:
            yield f"q.{self.key} > {self._placeholder('after')}"
        if rows.end is not None:
            yield f"q.{self.key} < {self._placeholder('end')}"
        if rows.of_any_patient:
            yield f"q.{self.patient_column} IS NOT NULL"
        if rows.keys is not None:
            names = (self._placeholder(f"key{number}") for number in range(len(rows.keys)))
            yield f"q.{self.key} IN ({', '.join(names)})"
        if rows.patients is not None:
            names = (f":patient{number}" for number in range(len(rows.patients)))
            casts = (
                f"CAST({name} AS bigint)" if isinstance(patient, int) else name
                for name, patient in zip(names, rows.patients, strict=True)
            )
            yield f"q.{self.patient_column} IN ({', '.join(casts)})"

    def _parameters(self, rows: "RowRange") -> Iterator[tuple[str, object]]:
        for name in ("at", "since", "until", "start", "after", "end"):
            if (value := getattr(rows, name)) is not None:
                yield name, value
        for number, key in enumerate(rows.keys or ()):
            yield f"key{number}", key
        for number, patient in enumerate(rows.patients or ()):
            yield f"patient{number}", patient

    def _placeholder(self, name: str) -> str:
        # A column of 32 bits would make a driver refuse an id of 64 instead of not finding it.
        return f"CAST(:{name} AS bigint)" if self.key_type is int else f":{name}"


class Statement(msgspec.Struct, frozen=True):
    """SQL text with named parameters, and the values of these."""

    text: str
    parameters: dict[str, object]


class RowRange(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows of a query to read; None does not narrow them."""

    at: object
    """The instant to read, in the form of the database, as are `since` and `until`."""
    since: object = None
    """Exclusive."""
    until: object = None
    """Exclusive."""
    start: Key | None = None
    """The first key, inclusive."""
    after: Key | None = None
    """The key that was read last, exclusive."""
    end: Key | None = None
    """Exclusive."""
    keys: Sequence[Key] | None = None
    patients: Sequence[Key] | None = None
    """The keys of patients: only their rows are read."""
    of_any_patient: bool = False
    """Whether to read only rows that name a patient."""


class MappedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row as a version of its resource, or the report that it cannot be one."""

    key: Key
    id: str
    patient: str | None
    """The id of the patient in whose compartment the row is, if a column has it."""
    version: StoredVersion | None = None
    damaged: Damaged | None = None

    @property
    def line(self) -> bytes:
        """The line of the resource; empty if there is none."""
        return (self.version and self.version.content) or b""

    def without_id(self) -> "MappedRow":
        """Return the row with a report that does not say which resource cannot be read."""
        damaged = self.damaged and replace(self.damaged, id=_ID_WITHHELD)
        return replace(self, id=_ID_WITHHELD, damaged=damaged)


def map_rows(
    query: ResourceQuery,
    rows: Sequence[QueryRow],
    from_database: Callable[[Any], datetime],
    fhir_version: FHIRVersion,
) -> list[MappedRow]:
    """Map rows to resources; those that cannot be mapped become `Damaged`."""
    return [_map_row(query, row, from_database, fhir_version) for row in rows]


def _map_row(
    query: ResourceQuery,
    row: QueryRow,
    from_database: Callable[[Any], datetime],
    fhir_version: FHIRVersion,
) -> MappedRow:
    key = row[query.key]
    if not isinstance(key, query.key_type):
        raise BackendError(
            f"the query for {query.resource_type} has a key of type {type(key).__name__};"
            f" {query.key_type.__name__} is required, as `key_type` says"
        )
    column = query.patient_column
    patient = None if column is None or row[column] is None else str(row[column])
    mapped = MappedRow(key=key, id=str(key), patient=patient)
    try:
        version = _to_version(query, row, mapped.id, from_database, fhir_version)
    except Exception as error:  # noqa: BLE001 - whatever a mapping raises, the export goes on
        # The error may quote the row, so only its class is shown.
        reason = f"its row in the database cannot be mapped to a resource ({type(error).__name__})"
        damaged = Damaged(resource_type=query.resource_type, id=mapped.id, reason=reason)
        return replace(mapped, damaged=damaged)
    return replace(mapped, version=version)


def _to_version(
    query: ResourceQuery,
    row: QueryRow,
    resource_id: str,
    from_database: Callable[[Any], datetime],
    fhir_version: FHIRVersion,
) -> StoredVersion:
    if not _ID.fullmatch(resource_id):
        raise ValueError("the key is not a valid id")
    changed = from_database(row[query.changed])
    # Changes of a row are not counted. A number that grows with each keeps ETags correct.
    version_id = max(1, to_stamp(changed))
    body = query.resource(row)
    if isinstance(body, bytes):
        resource = parse_resource(
            body, fhir_version, resource_type=query.resource_type, resource_id=resource_id
        )
        line = resource.stamped(version_id, changed)
    else:
        line = _encode(query.resource_type, resource_id, body, version_id, changed)
    return StoredVersion(
        resource_type=query.resource_type,
        id=resource_id,
        version_id=version_id,
        last_updated=changed,
        content=line,
    )


def _encode(
    resource_type: str,
    resource_id: str,
    body: Mapping[str, Any],
    version_id: int,
    changed: datetime,
) -> bytes:
    elements = _without_empty(dict(body))
    stamps = {"versionId": str(version_id), "lastUpdated": format_instant(changed)}
    head = {"resourceType": resource_type, "id": resource_id}
    meta = {"meta": stamps | elements.pop("meta", {}) | stamps}
    return _ENCODER.encode(head | meta | {**elements, **head})


def _without_empty(node: Any) -> Any:  # noqa: ANN401 - JSON
    """Return JSON without what FHIR forbids: null, and empty strings, lists and objects."""
    match node:
        case dict():
            items = ((name, _without_empty(value)) for name, value in node.items())
            return {name: value for name, value in items if not _is_empty(value)}
        case list() | tuple():
            return [item for item in map(_without_empty, node) if not _is_empty(item)]
        case float() | Decimal() if not math.isfinite(node):
            raise ValueError("JSON has no such number")
        case _:
            return node


def _is_empty(node: object) -> bool:
    return node is None or (isinstance(node, str | dict | list) and not node)


class BatchBuilder:
    """Gathers mapped rows into batches of at most `batch_bytes`, or of a single larger line."""

    def __init__(self, batch_bytes: int) -> None:
        self._limit = batch_bytes
        self._lines = list[bytes]()
        self._damaged = list[Damaged]()
        self._size = 0

    def add(self, row: MappedRow) -> Batch | None:
        """Add a row; if it does not fit into the current batch, return that and begin another."""
        if row.damaged is not None:
            self._damaged.append(row.damaged)
            return self.rest() if len(self._damaged) >= MAX_DAMAGED else None
        line = row.line
        full = self.rest() if self._lines and self._size + len(line) > self._limit else None
        self._lines.append(line)
        self._size += len(line)
        return full

    def rest(self) -> Batch | None:
        """Return what was added since the last batch, or None if nothing was."""
        if not self._lines and not self._damaged:
            return None
        batch = Batch(lines=self._lines, damaged=self._damaged)
        self._lines, self._damaged, self._size = [], [], 0
        return batch


def numbered_parameters(query: str, parameters: Mapping[str, object]) -> tuple[str, list[object]]:
    """
    Return a query with `$1`, `$2` in place of `:name`, and the values in their order.

    For drivers that only know parameters by number, such as asyncpg. A parameter that occurs
    twice has one number; one that does not occur has no value.

    Raises:
        KeyError: The query names a parameter that has no value.
    """
    numbers = dict[str, int]()

    def number(match: re.Match[str]) -> str:
        if (name := match[1]) is None:
            return match[0]
        return f"${numbers.setdefault(name, len(numbers) + 1)}"

    text = _PARAMETER.sub(number, query)
    return text, [parameters[name] for name in numbers]
