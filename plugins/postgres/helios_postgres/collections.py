"""Collections: everything of one type, tenant and FHIR version, under a number."""

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
    """The numbers of collections, remembered: they are never changed and never removed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[Key, int] = {}

    async def keys(self) -> list[TypeKey]:
        """Return the keys of the collections of all tenants and FHIR versions."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_SQL["all"])
        return [TypeKey(tenant, FHIRVersion(version), name) for tenant, version, name in rows]

    async def find(
        self, tenant: str, fhir_version: FHIRVersion, types: Collection[str]
    ) -> Mapping[str, int]:
        """Return the collections of those types of which something was ever stored."""
        if any((tenant, fhir_version, name) not in self._known for name in types):
            async with self._database.connection() as connection:
                await self._learn(connection, tenant, fhir_version, types)
        found = {name: self._known.get((tenant, fhir_version, name)) for name in types}
        return {name: collection for name, collection in found.items() if collection is not None}

    async def intern(
        self, tenant: str, fhir_version: FHIRVersion, types: Collection[str]
    ) -> Mapping[str, int]:
        """Return the collections of all types, new ones if there are none."""
        found = await self.find(tenant, fhir_version, types)
        if missing := sorted(set(types) - found.keys()):
            # Committed at once: a write that is rolled back later leaves at worst an empty one.
            async with self._database.connection() as connection:
                await connection.execute(_SQL["intern"], tenant, fhir_version.value, missing)
            found = await self.find(tenant, fhir_version, types)
        return found

    async def _learn(
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
