"""Collections: the number under which the versions of one type are kept."""

from collections.abc import Iterable, Mapping

from pymongo import ReturnDocument

from helios_core import TypeKey
from helios_core.fhir import FHIRVersion
from helios_mongodb.databases import Database, Session
from helios_mongodb.errors import translated
from helios_mongodb.integrity import damaged

_COUNTER = "collections"


class Collections:
    """The numbers of types, which never change."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known = dict[TypeKey, int]()

    async def keys(self) -> list[TypeKey]:
        """Return the keys of the types of all tenants and FHIR versions."""
        with translated():
            found = await self._database["collections"].find({}).to_list()
        return [
            TypeKey(each["tenant"], FHIRVersion(each["version"]), each["type"]) for each in found
        ]

    async def find(
        self, tenant: str, fhir_version: FHIRVersion, types: Iterable[str]
    ) -> Mapping[str, int]:
        """Return the numbers of those types of which something was stored."""
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
        """Return the numbers of types, with new ones for those that have none."""
        names = set(types)
        found = await self.find(tenant, fhir_version, names)
        if new := names - found.keys():
            for name in sorted(new):
                await self._add(tenant, fhir_version, name)
            found = await self.find(tenant, fhir_version, names)
        return found

    async def check(self, tenant: str) -> None:
        """
        Check that all types of a tenant are there.

        Raises:
            BackendError: They are not.
        """
        with translated():
            clock = await self._database["clocks"].find_one({"_id": tenant})
            there = await self._database["collections"].count_documents({"tenant": tenant})
        if clock is not None and there < clock.get("collections", 0):
            raise damaged("a collection is missing")

    async def _add(self, tenant: str, fhir_version: FHIRVersion, name: str) -> None:
        """Add a type, and count it with its tenant, unless another process was quicker."""
        kind = {"tenant": tenant, "version": fhir_version.value, "type": name}

        async def work(session: Session) -> None:
            collections = self._database["collections"]
            if await collections.find_one(kind, session=session) is not None:
                return
            counter = await self._database["meta"].find_one_and_update(
                {"_id": _COUNTER},
                {"$inc": {"count": 1}},
                return_document=ReturnDocument.AFTER,
                session=session,
            )
            assert counter is not None  # noqa: S101 - the schema has it
            await collections.insert_one({"_id": counter["count"], **kind}, session=session)
            count = {"$inc": {"collections": 1}}
            await self._database["clocks"].update_one({"_id": tenant}, count, session=session)

        await self._database.write(work)
