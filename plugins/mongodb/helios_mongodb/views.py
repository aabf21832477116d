"""Views as conditions of MongoDB on seqs, stamps and compartments."""

from bson.int64 import Int64

from helios_core import ExportView, Level, SeqRange
from helios_core.fhir import FOREVER, to_stamp
from helios_mongodb.databases import Document
from helios_mongodb.extents import Extent


def changed_by(view: ExportView) -> Document:
    """
    Return the condition of the versions that a view shows, deletions included.

    It does not cover the cohort and the collection.
    """
    request, at = view.request, to_stamp(view.transaction_time)
    since = -1 if request.since is None else to_stamp(request.since)
    until = FOREVER if request.until is None else to_stamp(request.until)
    condition: Document = {
        "s": {"$gt": Int64(since), "$lt": Int64(until), "$lte": Int64(at)},
        "u": {"$gt": Int64(at)},
    }
    if view.cohort is None and request.level is not Level.SYSTEM:
        condition["p.0"] = {"$exists": True}
    return condition


def shown_by(view: ExportView) -> Document:
    """Return the condition of the versions that a view shows, without deletions."""
    return changed_by(view) | {"d": False}


def deleted_by(view: ExportView) -> Document:
    """Return the condition of the deletions that a view shows."""
    return changed_by(view) | {"d": True}


def may_show(view: ExportView, extent: Extent) -> bool:
    """Return whether an extent may have something that a view shows."""
    request = view.request
    if extent.first > to_stamp(view.transaction_time):
        return False
    if request.until is not None and extent.first >= to_stamp(request.until):
        return False
    return request.since is None or extent.last > to_stamp(request.since)


def live_at(stamp: int) -> Document:
    """Return the condition of versions that are live at a stamp."""
    return {"s": {"$lte": Int64(stamp)}, "u": {"$gt": Int64(stamp)}, "d": False}


def within(seqs: SeqRange) -> Document:
    """Return the condition of the versions in a range of seqs."""
    return {"_id": {"$gte": Int64(seqs.first), "$lt": Int64(seqs.end)}}
