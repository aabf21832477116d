"""Collections: one number for a tenant, a FHIR version and a resource type."""

import sqlite3

import msgspec
from msgspec.structs import astuple

from helios_core import TypeKey, read_statements
from helios_core.fhir import FHIRVersion

_SQL = read_statements("helios_sqlite", "collections")


NOWHERE = 0
"""The number no collection has: nothing is found there."""


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """One collection as it is stored."""

    number: int
    resource_type: str
    last_stamp: int
    """When something in it last changed."""


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
    """Return the keys of the collections of all tenants and FHIR versions."""
    rows = connection.execute(_SQL["all"])
    return [TypeKey(tenant, FHIRVersion(version), name) for tenant, version, name in rows]


def find_collection(connection: sqlite3.Connection, key: TypeKey) -> int | None:
    """Return a collection's number, or None if nothing of that type was ever stored."""
    row: tuple[int] | None = connection.execute(
        _SQL["find"],
        astuple(key),
    ).fetchone()
    return None if row is None else row[0]


def intern_collection(connection: sqlite3.Connection, key: TypeKey) -> int:
    """
    Return a collection's number, a new one if there is none.

    The caller holds the write lock.
    """
    collection = find_collection(connection, key)
    if collection is not None:
        return collection
    row: tuple[int] = connection.execute(
        _SQL["add"],
        astuple(key),
    ).fetchone()
    return row[0]
