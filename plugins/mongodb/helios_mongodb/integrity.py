"""Integrity: comparing the stored versions with the counts and sums of extents (P9)."""

from collections.abc import Iterable, Sequence

from helios_core import (
    SUM_MASK,
    BackendError,
    Damaged,
    collection_range,
    ending_mark,
    extent_of,
    shortfall_of,
)
from helios_mongodb.databases import Collection, Document
from helios_mongodb.extents import MARKED_FIELDS, Extent, mark_of_stored
from helios_mongodb.views import within

MARKED_EXTENTS = 2
"""Up to how many extents every version is verified for a cohort or a prefilter (P4, P5)."""

FEW_EXTENTS = 8
"""Up to how many extents versions are counted for a cohort, which must cost by its size (P4)."""


def damaged(what: str) -> BackendError:
    """Return the error for documents that contradict each other."""
    return BackendError(f"the data in MongoDB is damaged: {what}; restore it from a backup")


def check_extents(collection: int, extents: Sequence[Extent], newest: Document | None) -> None:
    """
    Check that no extent of a collection is missing, up to that of its newest version.

    Raises:
        BackendError: An extent is missing or damaged.
    """
    first = extent_of(collection_range(collection).first)
    last = first - 1 if newest is None else extent_of(newest["_id"])
    numbers = [extent.number for extent in extents]
    if numbers != list(range(first, first + len(numbers))) or first + len(numbers) <= last:
        raise damaged("extents are missing")
    check_counts(extents)


def check_counts(extents: Iterable[Extent]) -> None:
    """
    Check that all extents are sound.

    Raises:
        BackendError: One of them is damaged.
    """
    if not all(extent.sound for extent in extents):
        raise damaged("the counts of extents do not add up")


async def damage_in(
    versions: Collection, resource_type: str, extents: Iterable[Extent]
) -> list[Damaged]:
    """
    Return a report for each extent whose versions do not add up to its counts and sums.

    Versions and ends after the extent's last change are ignored: they were written meanwhile.
    """
    reports = list[Damaged]()
    for extent in extents:
        found, total = 0, 0
        async for version in versions.find(within(extent.seqs), MARKED_FIELDS):
            since, until = version.get("s"), version.get("u")
            if isinstance(since, int) and since <= extent.changed:
                found += 1
                total += mark_of_stored(version)
            if isinstance(until, int) and until <= extent.changed:
                total += ending_mark(version["_id"], until)
        if found != extent.rows or total & SUM_MASK != extent.sum:
            reports.append(shortfall_of(resource_type, found=found, expected=extent.rows))
    return reports


async def damage_if_few(
    versions: Collection, resource_type: str, extents: Sequence[Extent]
) -> list[Damaged]:
    """Return reports for a cohort: verify few extents, only count in more, skip too many."""
    if len(extents) <= MARKED_EXTENTS:
        return await damage_in(versions, resource_type, extents)
    if len(extents) <= FEW_EXTENTS:
        return await shortfalls(versions, resource_type, extents)
    return []


async def shortfalls(
    versions: Collection, resource_type: str, extents: Iterable[Extent]
) -> list[Damaged]:
    """Return a report for each extent with missing versions; they are only counted."""
    reports = list[Damaged]()
    for extent in extents:
        found = await versions.count_documents(within(extent.seqs))
        if found != extent.rows:
            reports.append(shortfall_of(resource_type, found=found, expected=extent.rows))
    return reports


def newest_of(collection: int) -> Document:
    """Return the arguments of `find_one` for the newest version of a collection."""
    return {
        "filter": within(collection_range(collection)),
        "projection": {"_id": 1},
        "sort": [("_id", -1)],
    }
