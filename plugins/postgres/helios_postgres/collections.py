"""Scopes: everything of one type, tenant and FHIR version, under a number."""

from collections.abc import Collection, Mapping
from typing import TypeAlias

from helios_core.fhir import FHIRVersion
from helios_postgres.connections import Connection
from helios_postgres.databases import Database

Key: TypeAlias = tuple[str, FHIRVersion, str]
"""Tenant, FHIR version and resource type."""

_FIND = """
SELECT resource_type, scope FROM scopes
WHERE tenant = $1 AND fhir_version = $2 AND resource_type = ANY($3::text[])
"""
_INTERN = """
INSERT INTO scopes (tenant, fhir_version, resource_type)
SELECT $1, $2, unnest($3::text[]) ON CONFLICT DO NOTHING
"""


class Scopes:
    """The numbers of scopes, remembered: they are never changed and never removed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[Key, int] = {}

    async def find(
        self, tenant: str, fhir_version: FHIRVersion, types: Collection[str]
    ) -> Mapping[str, int]:
        """Give the scopes of those types of which something was ever stored."""
        if any((tenant, fhir_version, name) not in self._known for name in types):
            async with self._database.connection() as connection:
                await self._learn(connection, tenant, fhir_version, types)
        found = {name: self._known.get((tenant, fhir_version, name)) for name in types}
        return {name: scope for name, scope in found.items() if scope is not None}

    async def intern(
        self, tenant: str, fhir_version: FHIRVersion, types: Collection[str]
    ) -> Mapping[str, int]:
        """Give the scopes of all types, new ones where there are none."""
        found = await self.find(tenant, fhir_version, types)
        if missing := sorted(set(types) - found.keys()):
            # Committed at once: a write that is rolled back later leaves an empty scope, at worst.
            async with self._database.connection() as connection:
                await connection.execute(_INTERN, tenant, fhir_version.value, missing)
            found = await self.find(tenant, fhir_version, types)
        return found

    async def _learn(
        self,
        connection: Connection,
        tenant: str,
        fhir_version: FHIRVersion,
        types: Collection[str],
    ) -> None:
        rows = await connection.fetch(_FIND, tenant, fhir_version.value, list(types))
        self._known |= {
            (tenant, fhir_version, resource_type): scope for resource_type, scope in rows
        }
