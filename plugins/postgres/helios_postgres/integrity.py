"""Integrity: comparing the stored versions with the counts and sums of extents (P9)."""

from collections.abc import Mapping, Sequence

from asyncpg import Record

from helios_core import (
    EXTENT_BITS,
    SUM_MASK,
    BackendError,
    BackendUnavailable,
    Damaged,
    ResourceSums,
    SeqRange,
    ending_mark,
    read_statements,
    shortfall_of,
    version_mark,
)
from helios_core.fhir import FHIRVersion
from helios_postgres.connections import Connection
from helios_postgres.errors import translated

_SQL = read_statements("helios_postgres", "integrity")


def damaged(what: str) -> BackendError:
    """Return the error for tables that contradict each other."""
    return BackendError(
        f"the data in PostgreSQL is damaged: {what}; rebuild its indexes with REINDEX, and restore"
        " missing data from a backup"
    )


async def current_in(
    connection: Connection, seqs: SeqRange, *, all_resources: bool
) -> ResourceSums:
    """Return the sums of live resources in a range of extents, of all or only in compartments."""
    rows = await connection.fetch(_SQL["stored"], *seqs.extents)
    columns = (2, 3, 4) if all_resources else (5, 6, 7)
    count, size, hashes = ([row[column] for row in rows] for column in columns)
    known = None not in hashes
    return ResourceSums(int(sum(count)), int(sum(size)), int(sum(hashes)) if known else None)


async def damage_in(connection: Connection, resource_type: str, seqs: SeqRange) -> list[Damaged]:
    """Return a report for each extent of a range whose versions are damaged or missing."""
    reports = list[Damaged]()
    for stored in await connection.fetch(_SQL["stored"], *seqs.extents):
        found = await _count_of_damaged(connection, stored)
        if found is not None:
            reports.append(shortfall_of(resource_type, found=found, expected=stored[1]))
    return reports


async def is_sound(connection: Connection, extent: int) -> bool:
    """Return whether no version of an extent is damaged or missing."""
    [stored] = await connection.fetch(_SQL["stored"], extent, extent)
    return await _count_of_damaged(connection, stored) is None


async def rows_of_sound_extents(
    connection: Connection, extents: Sequence[int]
) -> list[tuple[int, int, str]]:
    """
    Return extent, position and id of all versions of some extents.

    Raises:
        BackendError: A version is damaged or missing.
    """
    found = list[tuple[int, int, str]]()
    for extent in extents:
        first = extent << EXTENT_BITS
        stored = await connection.fetch(_SQL["stored"], extent, extent)
        rows = await _rows_of(connection, extent)
        if not stored or rows is None or not _agree(stored[0], rows):
            raise damaged("versions of an extent are missing or altered")
        found += [(extent, row[0] - first, row[1]) for row in rows]
    return found


async def _count_of_damaged(connection: Connection, stored: Record) -> int | None:
    """Return how many versions of a damaged extent can be read; None if it is not damaged."""
    rows = await _rows_of(connection, stored[0])
    if rows is None:
        return 0
    return None if _agree(stored, rows) else len(rows)


async def _rows_of(connection: Connection, extent: int) -> list[Record] | None:
    """Return all versions of an extent, or None if PostgreSQL cannot read them."""
    try:
        with translated():
            async with connection.transaction():
                return await connection.fetch(
                    _SQL["rows"], extent << EXTENT_BITS, (extent + 1) << EXTENT_BITS
                )
    except BackendUnavailable:
        raise
    except BackendError:
        return None


def _agree(stored: Record, rows: Sequence[Record]) -> bool:
    """Return whether rows agree with the stored counts and sums of their extent."""
    _, appended, live, size, _, inside, inside_size, _, row_sum = stored
    if len(rows) != appended:
        return False
    if row_sum is None:
        current = [row for row in rows if row[8] is None and not row[4]]
        within = [row for row in current if row[5]]
        counts = (len(current), _size(current), len(within), _size(within))
        return counts == (live, size, inside, inside_size)
    return (_row_sum(rows) - int(row_sum)) & SUM_MASK == 0


def _row_sum(rows: Sequence[Record]) -> int:
    marks = sum(version_mark(tuple(row)[:8]) for row in rows)
    endings = sum(ending_mark(row[0], row[8]) for row in rows if row[8] is not None)
    return marks + endings


async def sum_extents(connection: Connection) -> None:
    """
    Compute the sums of extents whose schema had none, with one extent in memory at a time.

    Extents whose counts do not agree with their versions remain without sums, so that reading them
    still reports the damage.
    """
    extent = -1
    while (found := await connection.fetchval(_SQL["unsummed"], extent)) is not None:
        extent = found
        [stored] = await connection.fetch(_SQL["stored"], extent, extent)
        if await _count_of_damaged(connection, stored) is not None:
            continue
        rows = await connection.fetch(
            _SQL["rows"], extent << EXTENT_BITS, (extent + 1) << EXTENT_BITS
        )
        current = [row for row in rows if row[8] is None and not row[4]]
        sums = (
            sum(row[7] for row in current),
            sum(row[7] for row in current if row[5]),
            _row_sum(rows),
        )
        [tallied] = await connection.fetch(_SQL["tallied"], extent)
        begun = [
            (total + int(ended)) & SUM_MASK
            for total, ended in zip(sums[:2], tallied[:2], strict=True)
        ]
        row_sum = (sums[2] - int(tallied[2])) & SUM_MASK
        await connection.execute(_SQL["set_sums"], extent, *begun, row_sum)


def _size(rows: Sequence[Record]) -> int:
    return sum(row[6] for row in rows)


async def check_extents(connection: Connection, collections: Sequence[int]) -> None:
    """
    Check that no extent of collections is missing, and that their counts add up.

    Raises:
        BackendError: An extent is missing or damaged.
    """
    if await connection.fetchval(_SQL["implausible"], list(collections)):
        raise damaged("the counts of extents do not add up")
    if await connection.fetchval(_SQL["astray"], list(collections)):
        raise damaged("extents are missing")


async def collections_of(
    connection: Connection, tenant: str, fhir_version: FHIRVersion
) -> Mapping[str, int]:
    """
    Return the collections of a tenant and FHIR version, without relying on indexes.

    Raises:
        BackendError: There are versions of a collection that is missing.
    """
    if await connection.fetchval(_SQL["unlisted"]):
        raise damaged("a collection is missing")
    rows = await connection.fetch(_SQL["listed"], tenant, fhir_version)
    return {resource_type: collection for resource_type, collection in rows}  # noqa: C416 - records are not tuples
