"""Collections: all resources of one type, tenant and FHIR version, under a number."""

import sqlite3

import msgspec
from msgspec.structs import astuple

from helios_core import TypeKey, read_statements
from helios_core.fhir import FHIRVersion

_SQL = read_statements("helios_sqlite", "collections")


NOWHERE = 0
"""The number that stands for the missing collection of a type."""


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """A stored collection."""

    number: int
    resource_type: str
    last_stamp: int
    """The stamp of its last change."""


def all_collections(
    connection: sqlite3.Connection, tenant: str, fhir_version: FHIRVersion
) -> dict[str, Collection]:
    """Return the collections of a tenant and FHIR version by resource type."""
    rows = connection.execute(
        _SQL["of_tenant"],
        (tenant, fhir_version),
    )
    return {
        resource_type: Collection(
            number=number, resource_type=resource_type, last_stamp=last_stamp
        )
        for number, resource_type, last_stamp in rows
    }


def collection_keys(connection: sqlite3.Connection) -> list[TypeKey]:
    """Return the keys of all collections."""
    rows = connection.execute(_SQL["all"])
    return [TypeKey(tenant, FHIRVersion(version), name) for tenant, version, name in rows]


def find_collection(connection: sqlite3.Connection, key: TypeKey) -> int | None:
    """Return the number of a collection, or None if the type has none."""
    row: tuple[int] | None = connection.execute(
        _SQL["find"],
        astuple(key),
    ).fetchone()
    return None if row is None else row[0]


def intern_collection(connection: sqlite3.Connection, key: TypeKey) -> int:
    """
    Return the number of a collection; create it if it is missing.

    The caller must hold the write lock.
    """
    collection = find_collection(connection, key)
    if collection is not None:
        return collection
    row: tuple[int] = connection.execute(
        _SQL["add"],
        astuple(key),
    ).fetchone()
    return row[0]
