"""The schema of a database, and its migrations."""

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec
from bson.int64 import Int64
from pymongo import UpdateOne
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure

from helios_core import Migrated, Migrations, index_outdated, line_hash
from helios_core.fhir import TERMS_VERSION, FHIRVersion, terms_of
from helios_mongodb.contents import content_of
from helios_mongodb.errors import translated
from helios_mongodb.indexing import UNREADABLE, term_fields

STORE = "store"
"""The document of `meta` with the identity of the store and its schema version."""

_EXISTS = 48
"""The error code of a collection that exists already."""

INDEXED_AT_ONCE = 200
"""How many versions one command reindexes."""


def migrations() -> Migrations:
    """Return the steps from an empty database to the current schema."""
    return Migrations.of("helios_mongodb", distribution="helios-fhir-mongodb")


async def check(database: AsyncDatabase[dict[str, Any]], name: str) -> None:
    """
    Check that the schema of a database is the current one.

    Raises:
        SchemaOutdated: The database needs `helios migrate`.
        ConfigurationError: Its schema is newer than this code.
    """
    store = await _store(database)
    migrations().check(store.get("schema", 0), f"the MongoDB database {name}")
    if store.get("terms") != TERMS_VERSION:
        raise index_outdated(f"the MongoDB database {name}")


async def identity(database: AsyncDatabase[dict[str, Any]]) -> str:
    """Return the UUID created with the schema; a copy of the database has the same one."""
    return str((await _store(database))["identity"])


async def migrate(database: AsyncDatabase[dict[str, Any]]) -> Migrated:
    """
    Apply missing migrations, rebuild an outdated search index, and return what was done.

    Commands of migrations are repeatable, so that an interrupted migration can be run again, and
    two can run at once. MongoDB builds indexes while the collection is read and written.
    """
    with translated():
        stores = database["meta"]
        first = {"identity": str(uuid.uuid4()), "schema": 0, "terms": TERMS_VERSION}
        await stores.update_one({"_id": STORE}, {"$setOnInsert": first}, upsert=True)
        store = await _store(database)
        before: int = store["schema"]
        steps = migrations()
        for step in steps.after(before):
            for command in msgspec.json.decode(step.script, type=list[dict[str, Any]]):
                await _run(database, command)
            await stores.update_one({"_id": STORE}, {"$max": {"schema": step.number}})
        after = max(before, steps.newest)
        outdated = after == steps.newest and store["terms"] != TERMS_VERSION
        if outdated:
            await _rebuild_index(database)
            await stores.update_one({"_id": STORE}, {"$set": {"terms": TERMS_VERSION}})
    return Migrated(before=before, after=after, indexed=outdated)


async def _run(database: AsyncDatabase[dict[str, Any]], command: dict[str, Any]) -> None:
    try:
        await database.command(command)
    except OperationFailure as error:
        if error.code != _EXISTS:
            raise


async def _store(database: AsyncDatabase[dict[str, Any]]) -> Mapping[str, Any]:
    with translated():
        return await database["meta"].find_one({"_id": STORE}) or {}


async def _rebuild_index(database: AsyncDatabase[dict[str, Any]]) -> None:
    collections = {
        row["_id"]: (FHIRVersion(row["version"]), row["type"])
        async for row in database["collections"].find({})
    }
    changes = list[UpdateOne]()
    async for version in database["versions"].find({"d": False}).sort("_id", 1):
        content = await content_of(database["chunks"], version)
        if content is None or line_hash(content) != version["h"]:
            fields: dict[str, Any] = {"t": [Int64(UNREADABLE)], "x": []}
        else:
            fields = term_fields(terms_of(content, *collections[version["c"]]))
        changes.append(UpdateOne({"_id": version["_id"]}, {"$set": fields}))
        if len(changes) == INDEXED_AT_ONCE:
            await database["versions"].bulk_write(changes, ordered=False)
            changes.clear()
    if changes:
        await database["versions"].bulk_write(changes, ordered=False)
