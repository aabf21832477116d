"""Scopes: one number for a tenant, a FHIR version and a resource type."""

import sqlite3

import msgspec
from msgspec.structs import astuple

from helios_core import TypeKey
from helios_core.fhir import FHIRVersion

NOWHERE = 0
"""The number no scope has: nothing is found there."""


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """One scope as it is stored."""

    number: int
    resource_type: str
    last_stamp: int
    """When something in it last changed."""


def all_scopes(
    connection: sqlite3.Connection, tenant: str, fhir_version: FHIRVersion
) -> dict[str, Scope]:
    """Give the scopes of a tenant and FHIR version by resource type."""
    rows = connection.execute(
        "SELECT scope, resource_type, last_stamp FROM scopes"
        " WHERE tenant = ? AND fhir_version = ?",
        (tenant, fhir_version),
    )
    return {
        resource_type: Scope(number=number, resource_type=resource_type, last_stamp=last_stamp)
        for number, resource_type, last_stamp in rows
    }


def find_scope(connection: sqlite3.Connection, key: TypeKey) -> int | None:
    """Return a scope's number, or None if nothing of that type was ever stored."""
    row: tuple[int] | None = connection.execute(
        "SELECT scope FROM scopes WHERE tenant = ? AND fhir_version = ? AND resource_type = ?",
        astuple(key),
    ).fetchone()
    return None if row is None else row[0]


def intern_scope(connection: sqlite3.Connection, key: TypeKey) -> int:
    """Return a scope's number, a new one if there is none; the caller holds the write lock."""
    scope = find_scope(connection, key)
    if scope is not None:
        return scope
    row: tuple[int] = connection.execute(
        "INSERT INTO scopes (tenant, fhir_version, resource_type, last_stamp)"
        " VALUES (?, ?, ?, 0) RETURNING scope",
        astuple(key),
    ).fetchone()
    return row[0]
