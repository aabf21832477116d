"""Collections: the numbers under which the versions of a tenant's resource types are kept."""

from collections.abc import Iterable, Mapping

from pymongo import ReturnDocument

from helios_core import TypeKey
from helios_core.fhir import FHIRVersion
from helios_mongodb.databases import Database, Session
from helios_mongodb.errors import translated
from helios_mongodb.integrity import damaged

_COUNTER = "collections"


class Collections:
    """The numbers of collections, which never change."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known = dict[TypeKey, int]()

    async def keys(self) -> list[TypeKey]:
        """Return the keys of all collections."""
        with translated():
            rows = await self._database["collections"].find({}).to_list()
        return [TypeKey(row["tenant"], FHIRVersion(row["version"]), row["type"]) for row in rows]

    async def find(
        self, tenant: str, fhir_version: FHIRVersion, types: Iterable[str]
    ) -> Mapping[str, int]:
        """Return the numbers of those types that have a collection, by type."""
        keys = {name: TypeKey(tenant, fhir_version, name) for name in types}
        unknown = [name for name, key in keys.items() if key not in self._known]
        if unknown:
            condition = {
                "tenant": tenant,
                "version": fhir_version.value,
                "type": {"$in": unknown},
            }
            with translated():
                async for found in self._database["collections"].find(condition):
                    self._known[keys[found["type"]]] = found["_id"]
        return {name: self._known[key] for name, key in keys.items() if key in self._known}

    async def intern(
        self, tenant: str, fhir_version: FHIRVersion, types: Iterable[str]
    ) -> Mapping[str, int]:
        """Return the numbers of all given types, by type; create missing collections."""
        names = set(types)
        found = await self.find(tenant, fhir_version, names)
        if new := names - found.keys():
            for name in sorted(new):
                await self._add(tenant, fhir_version, name)
            found = await self.find(tenant, fhir_version, names)
        return found

    async def check(self, tenant: str) -> None:
        """
        Check that no collection of a tenant is missing.

        Raises:
            BackendError: There are fewer than the tenant's clock counts.
        """
        with translated():
            clock = await self._database["clocks"].find_one({"_id": tenant})
            count = await self._database["collections"].count_documents({"tenant": tenant})
        if clock is not None and count < clock.get("collections", 0):
            raise damaged("a collection is missing")

    async def _add(self, tenant: str, fhir_version: FHIRVersion, name: str) -> None:
        """Add a collection, and count it in its tenant's clock, unless another process did."""
        key = {"tenant": tenant, "version": fhir_version.value, "type": name}

        async def work(session: Session) -> None:
            collections = self._database["collections"]
            if await collections.find_one(key, session=session) is not None:
                return
            counter = await self._database["meta"].find_one_and_update(
                {"_id": _COUNTER},
                {"$inc": {"count": 1}},
                return_document=ReturnDocument.AFTER,
                session=session,
            )
            assert counter is not None  # noqa: S101 - the schema has it
            await collections.insert_one({"_id": counter["count"], **key}, session=session)
            count = {"$inc": {"collections": 1}}
            await self._database["clocks"].update_one({"_id": tenant}, count, session=session)

        await self._database.write(work)
