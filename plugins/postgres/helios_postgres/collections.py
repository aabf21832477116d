"""Collections: all resources of one type, tenant and FHIR version, under a number."""

from collections.abc import Collection, Mapping
from typing import TypeAlias

from helios_core import TypeKey, read_statements
from helios_core.fhir import FHIRVersion
from helios_postgres.connections import Connection
from helios_postgres.databases import Database

_SQL = read_statements("helios_postgres", "collections")

Key: TypeAlias = tuple[str, FHIRVersion, str]
"""Tenant, FHIR version and resource type."""


class Collections:
    """The numbers of collections, which are cached since they never change."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[Key, int] = {}

    async def keys(self) -> list[TypeKey]:
        """Return the keys of all collections."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_SQL["all"])
        return [TypeKey(tenant, FHIRVersion(version), name) for tenant, version, name in rows]

    async def find(
        self, tenant: str, fhir_version: FHIRVersion, types: Collection[str]
    ) -> Mapping[str, int]:
        """Return the numbers of those types that have a collection, by type."""
        if any((tenant, fhir_version, name) not in self._known for name in types):
            async with self._database.connection() as connection:
                await self._load(connection, tenant, fhir_version, types)
        found = {name: self._known.get((tenant, fhir_version, name)) for name in types}
        return {name: collection for name, collection in found.items() if collection is not None}

    async def intern(
        self, tenant: str, fhir_version: FHIRVersion, types: Collection[str]
    ) -> Mapping[str, int]:
        """Return the numbers of all given types, by type; create missing collections."""
        found = await self.find(tenant, fhir_version, types)
        if missing := sorted(set(types) - found.keys()):
            # Committed at once: if the write is rolled back, an empty collection does no harm.
            async with self._database.connection() as connection:
                await connection.execute(_SQL["intern"], tenant, fhir_version.value, missing)
            found = await self.find(tenant, fhir_version, types)
        return found

    async def _load(
        self,
        connection: Connection,
        tenant: str,
        fhir_version: FHIRVersion,
        types: Collection[str],
    ) -> None:
        rows = await connection.fetch(_SQL["find"], tenant, fhir_version.value, list(types))
        self._known |= {
            (tenant, fhir_version, resource_type): collection for resource_type, collection in rows
        }
