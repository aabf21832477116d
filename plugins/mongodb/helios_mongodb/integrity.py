"""Compare the versions that there are with what extents say there must be (P9)."""

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
"""In how many extents all versions are gone through for a cohort or a prefilter (P4, P5)."""

FEW_EXTENTS = 8
"""In how many extents all versions are counted for a cohort, which is to cost by its size (P4)."""


def damaged(what: str) -> BackendError:
    """Return the error about documents that contradict each other."""
    return BackendError(
        f"the data in MongoDB is damaged: {what}; restore what is lost from a backup"
    )


def check_extents(collection: int, extents: Sequence[Extent], newest: Document | None) -> None:
    """
    Check that all extents of a collection are there, up to that of its newest version.

    Raises:
        BackendError: They are not, or one of them is not as it was written.
    """
    first = extent_of(collection_range(collection).first)
    last = first - 1 if newest is None else extent_of(newest["_id"])
    numbers = [extent.number for extent in extents]
    if numbers != list(range(first, first + len(numbers))) or first + len(numbers) <= last:
        raise damaged("extents are missing")
    check_counts(extents)


def check_counts(extents: Iterable[Extent]) -> None:
    """
    Check that extents are as they were written.

    Raises:
        BackendError: One of them is not.
    """
    if not all(extent.sound for extent in extents):
        raise damaged("the counts of extents do not add up")


async def damage_in(
    versions: Collection, resource_type: str, extents: Iterable[Extent]
) -> list[Damaged]:
    """
    Return a report for each extent whose versions are not as they were written.

    They are compared as they were at the extent's last change: later ones are left aside.
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
    """Return what extents lack as far as a cohort is worth it: many are not looked at."""
    if len(extents) <= MARKED_EXTENTS:
        return await damage_in(versions, resource_type, extents)
    if len(extents) <= FEW_EXTENTS:
        return await shortfalls(versions, resource_type, extents)
    return []


async def shortfalls(
    versions: Collection, resource_type: str, extents: Iterable[Extent]
) -> list[Damaged]:
    """Return a report for each extent that lacks versions, which are only counted."""
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
