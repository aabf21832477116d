"""Compare the versions that there are with what extents say there must be (P9)."""

from collections.abc import Sequence

from helios_core import (
    EXTENT_BITS,
    BackendError,
    Damaged,
    SeqRange,
    collection_range,
    extent_of,
    shortfall_of,
)
from helios_mongodb.databases import Collection, Document
from helios_mongodb.views import within

FEW_EXTENTS = 8
"""In how many extents all versions are counted for a cohort, which is to cost by its size (P4)."""


def damaged(what: str) -> BackendError:
    """Return the error about documents that contradict each other."""
    return BackendError(
        f"the data in MongoDB is damaged: {what}; restore what is lost from a backup"
    )


def check_extents(collection: int, numbers: Sequence[int], newest: Document | None) -> None:
    """
    Check that all extents of a collection are there, up to that of its newest version.

    Raises:
        BackendError: They are not.
    """
    first = extent_of(collection_range(collection).first)
    last = first - 1 if newest is None else extent_of(newest["_id"])
    if list(numbers) != list(range(first, first + len(numbers))) or first + len(numbers) <= last:
        raise damaged("extents are missing")


async def damage_in(
    versions: Collection, resource_type: str, extents: Sequence[Document], seqs: SeqRange
) -> list[Damaged]:
    """
    Return a report for each extent that lacks versions in a range.

    Those that an extent's document counts were committed with it or before.
    """
    reports = list[Damaged]()
    for extent in extents:
        base = extent["_id"] << EXTENT_BITS
        counted = SeqRange(
            first=max(base, seqs.first), end=min(base + int(extent["rows"]), seqs.end)
        )
        expected = max(counted.end - counted.first, 0)
        found = await versions.count_documents(within(counted)) if expected else 0
        if found != expected:
            reports.append(shortfall_of(resource_type, found=found, expected=expected))
    return reports


def newest_of(collection: int) -> Document:
    """Return the arguments of `find_one` for the newest version of a collection."""
    return {
        "filter": within(collection_range(collection)),
        "projection": {"_id": 1},
        "sort": [("_id", -1)],
    }
