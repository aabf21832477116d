"""Compartments: the versions of a cohort, verified against sums for each patient."""

import json
import sqlite3
from collections.abc import Collection
from contextlib import closing

import structlog

from helios_core import (
    COLLECTION_BITS,
    SUM_MASK,
    CompartmentSums,
    Damaged,
    SeqRange,
    TypeKey,
    block_of,
    collection_range,
    ending_mark,
    read_statements,
    shortfall_of,
    version_mark,
)
from helios_core.fhir import FOREVER
from helios_sqlite.collections import find_collection
from helios_sqlite.errors import is_damage
from helios_sqlite.integrity import extent_at, extents_of, members_of, snapshot

_SQL = read_statements("helios_sqlite", "compartments")

NOBODY = ""
"""The patient id under which it is recorded that a block is damaged."""

log = structlog.stdlib.get_logger()


def add_sums(connection: sqlite3.Connection, sums: CompartmentSums) -> None:
    """Store the sums of a transaction, in the order of the table's key."""
    connection.executemany(_SQL["add"], sums.rows())


def pick(
    connection: sqlite3.Connection, key: TypeKey, seqs: SeqRange, patients: frozenset[str]
) -> tuple[Damaged, ...]:
    """
    Put the seqs of the cohort's versions in the blocks of a range into the table `picked`.

    The versions are verified against the sums of the cohort's patients (P4, P9). If they do not
    agree, all versions of the range are read: those of intact extents are picked, and a report is
    returned for each damaged extent.
    """
    if _is_all_picked(connection, key, seqs.whole_blocks):
        return ()
    log.warning("compartments.damaged", collection=seqs.first >> COLLECTION_BITS)
    reports = list[Damaged]()
    sound = list[tuple[SeqRange, list[int]]]()
    with snapshot(connection):
        for extent in extents_of(connection, seqs):
            found = extent.count_of_damaged(connection)
            if found is None:
                sound.append((extent.seqs, members_of(connection, extent, patients)))
                continue
            report = shortfall_of(key.resource_type, found=found, expected=extent.appended)
            reports.append(report)
    for within, members in sound:
        connection.execute(_SQL["unpick"], (within.first, within.end))
        connection.executemany(_SQL["pick_one"], ((seq,) for seq in members))
    return tuple(reports)


def _is_all_picked(connection: sqlite3.Connection, key: TypeKey, seqs: SeqRange) -> bool:
    """Pick what the compartments list, and return whether it agrees with the sums."""
    connection.execute("BEGIN")  # a single snapshot; the commit keeps `picked`
    try:
        _pick_listed(connection, key, seqs)
        is_all = _is_all_found(connection, seqs) and _is_known(connection, key)
        connection.execute("COMMIT")
    except BaseException as error:
        connection.execute("ROLLBACK")
        if not _is_damage(error):
            raise
        _pick_listed_if_readable(connection, key, seqs)
        return False
    return is_all


def _pick_listed(connection: sqlite3.Connection, key: TypeKey, seqs: SeqRange) -> None:
    connection.execute(_SQL["clear_picked"])
    collection = find_collection(connection, key)
    bounds = {"collection": collection, "first": seqs.first, "end": seqs.end}
    connection.execute(_SQL["pick"], bounds)


def _pick_listed_if_readable(connection: sqlite3.Connection, key: TypeKey, seqs: SeqRange) -> None:
    try:
        _pick_listed(connection, key, seqs)
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):
            raise


def _is_damage(error: BaseException) -> bool:
    return isinstance(error, sqlite3.DatabaseError) and is_damage(error)


def _is_all_found(connection: sqlite3.Connection, seqs: SeqRange) -> bool:
    high, low = connection.execute(_SQL["expected"], seqs.blocks).fetchone()
    with closing(connection.execute(_SQL["picked_marks"])) as rows:
        found = sum(times * _mark(*row) for times, *row in rows)
    return bool(((high << 31) + low - found) & SUM_MASK == 0)


def _mark(text: str | None, seq: int, until_stamp: int) -> int:
    """Return what a version and its ending add to the sums of its patients."""
    mark = version_mark((text,))
    return mark if until_stamp == FOREVER else mark + ending_mark(seq, until_stamp)


def _is_known(connection: sqlite3.Connection, key: TypeKey) -> bool:
    """Return whether every stored patient of the cohort has sums, at least of the Patient."""
    bounds = _of_patients(connection, key)
    return not (bounds and connection.execute(_SQL["unsummed_patient"], bounds).fetchone()[0])


def _of_patients(connection: sqlite3.Connection, key: TypeKey) -> dict[str, object]:
    """Return the parameters for the sums of Patient resources, empty if there are none."""
    patients = find_collection(connection, TypeKey(key.tenant, key.fhir_version, "Patient"))
    if patients is None:
        return {}
    first, last = collection_range(patients).blocks
    return {"patients": patients, "first": first, "last": last}


def may_have_any(
    connection: sqlite3.Connection, key: TypeKey, seqs: SeqRange, patients: Collection[str]
) -> bool:
    """Return whether any of these patients has, or may have, anything in the blocks of a range."""
    first, last = seqs.blocks
    ids = json.dumps(list(patients))
    expected = {"ids": ids, "first": first, "last": last}
    if connection.execute(_SQL["any_expected"], expected).fetchone()[0]:
        return True
    bounds = _of_patients(connection, key)
    if not bounds:
        return False
    return bool(connection.execute(_SQL["any_unsummed"], bounds | {"ids": ids}).fetchone()[0])


def sum_compartments(connection: sqlite3.Connection) -> None:
    """
    Compute the sums of all compartments, for a store whose schema had none.

    Extents that are damaged already are recorded as such: whose versions are missing is unknown.
    """
    for (number,) in connection.execute(_SQL["extents"]).fetchall():
        sums = CompartmentSums()
        extent = extent_at(connection, number)
        if extent.count_of_damaged(connection) is not None:
            connection.execute(_SQL["add"], (NOBODY, block_of(extent.seqs.first), 1))
            continue
        bounds = (extent.seqs.first, extent.seqs.end - 1)
        for patients, *row in connection.execute(_SQL["marks"], bounds):
            sums.add(patients, row[1], _mark(*row))
        add_sums(connection, sums)
