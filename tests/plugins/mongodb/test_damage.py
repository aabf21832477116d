"""Documents that were changed behind the back: none is read as if it were whole."""

import asyncio

import pymongo
import pytest
from bson.int64 import Int64

from helios_core import BackendError, Secret
from helios_core.testing import corpus, take_snapshot, view_everything, write
from helios_mongodb import MongoSettings, migrate, open_data_provider
from tests.damage import fill, read, unnoticed, views_of

LATE = Int64(1 << 50)
STORED = ("versions", "extents", "collections", "clocks")


async def every_fiftieth(raw):
    return {"_id": {"$in": [n async for n in seqs(raw, {}) if n % 50 == 7]}}


async def of_patients(raw):
    return {"c": (await raw.collections.find_one({"type": "Patient"}))["_id"]}


async def seqs(raw, condition):
    async for version in raw.versions.find(condition, {"_id": 1}).sort("_id", 1):
        yield version["_id"]


async def rows_gone(raw):
    await raw.versions.delete_many(await every_fiftieth(raw))


async def a_type_gone(raw):
    await raw.versions.delete_many(await of_patients(raw))


async def a_collection_gone(raw):
    await raw.collections.delete_one({"type": "Patient"})


async def an_extent_gone(raw):
    await raw.extents.find_one_and_delete({}, sort=[("_id", 1)])


async def an_end_gone(raw):
    await raw.versions.update_one({"i": "p3", "v": 1}, {"$set": {"u": Int64((1 << 63) - 1)}})


async def an_old_version_of_what_is_filtered_is_current_again(raw):
    await raw.versions.update_one({"i": "m7", "v": 1}, {"$set": {"u": Int64((1 << 63) - 1)}})


async def an_end_too_many(raw):
    await raw.versions.update_one(
        {"i": "p100"} | await of_patients(raw), [{"$set": {"u": {"$add": ["$s", 1]}}}]
    )


async def an_end_at_another_time(raw):
    await raw.versions.update_one({"i": "p3", "v": 1}, {"$inc": {"u": LATE}})


async def one_content_twice(raw):
    other = await raw.versions.find_one({"i": "p102"} | await of_patients(raw))
    content = {name: other[name] for name in ("b", "h", "n", "g")}
    await raw.versions.update_one({"i": "p101"} | await of_patients(raw), {"$set": content})


async def contents_of_two_types_swapped(raw):
    pair = [await raw.versions.find_one({"i": name, "u": {"$gt": LATE}}) for name in ("p7", "o7")]
    for one, other in (pair, pair[::-1]):
        content = {name: other[name] for name in ("b", "h", "n", "g")}
        await raw.versions.update_one({"_id": one["_id"]}, {"$set": content})


async def not_begun_yet(raw):
    await raw.versions.update_one({"i": "p100"}, {"$inc": {"s": LATE}})


async def begun_at_another_time(raw):
    await raw.versions.update_many({"i": {"$in": ["p310", "o310"]}}, {"$set": {"s": Int64(7)}})


async def in_no_compartment(raw):
    await raw.versions.update_one({"i": "o100"}, {"$set": {"p": []}})


async def in_another_compartment(raw):
    await raw.versions.update_one({"i": "o99"}, {"$set": {"p": ["p100"]}})


async def a_deletion_gone(raw):
    await raw.versions.delete_one({"i": "o45", "d": True})


async def a_deletion_that_is_none(raw):
    await raw.versions.update_one({"i": "o45", "d": True}, {"$set": {"d": False}})


async def nothing_counted(raw):
    await raw.extents.update_many({}, {"$set": {"live": 0, "compartment_live": 0}})


async def extents_of_a_later_time(raw):
    await raw.extents.update_many({}, {"$inc": {"first": LATE}})


async def extents_of_an_earlier_time(raw):
    await raw.extents.update_many({}, {"$set": {"last": Int64(7), "changed": Int64(7)}})


async def extents_swapped(raw):
    first, *_, last = await raw.extents.find({}).sort("_id", 1).to_list()
    for one, other in ((first, last), (last, first)):
        await raw.extents.replace_one({"_id": one["_id"]}, other | {"_id": one["_id"]})


async def a_field_gone(raw):
    await raw.extents.update_many({}, {"$unset": {"sum": 1}})


TAMPERING = [
    rows_gone,
    a_type_gone,
    a_collection_gone,
    an_extent_gone,
    an_end_gone,
    an_old_version_of_what_is_filtered_is_current_again,
    an_end_too_many,
    an_end_at_another_time,
    one_content_twice,
    contents_of_two_types_swapped,
    not_begun_yet,
    begun_at_another_time,
    in_no_compartment,
    in_another_compartment,
    a_deletion_gone,
    a_deletion_that_is_none,
    nothing_counted,
    extents_of_a_later_time,
    extents_of_an_earlier_time,
    extents_swapped,
    a_field_gone,
]


VIEWS = ("system", "patient", "since", "group", "code", "code since")


@pytest.fixture(scope="module")
def filled(mongodb_server):
    """Settings of a filled store, its documents by their collections, and what its views show."""

    async def fill_and_look(settings):
        await migrate(settings)
        async with open_data_provider(settings) as provider:
            views = await views_of(provider, await fill(provider, at_once=20), every=9)
            shown = {key: await read(provider, views[key], 1 << 22) for key in VIEWS}
        return {key: views[key] for key in VIEWS}, shown

    with mongodb_server.database() as name, pymongo.MongoClient(mongodb_server.url) as client:
        settings = MongoSettings(database_url=Secret(mongodb_server.url), database=name)
        views, shown = asyncio.run(fill_and_look(settings))
        assert all(lines and not damaged for lines, _, damaged in shown.values())
        yield settings, {each: documents_of(client[name][each]) for each in STORED}, views, shown


@pytest.fixture
def store(filled):
    """The same for one test, whose changes are undone: that takes less than to fill another."""
    settings, stored, views, shown = filled
    yield settings, views, shown
    with pymongo.MongoClient(settings.database_url.reveal()) as client:
        database = client[settings.database]
        changes = [restore(database[name], documents) for name, documents in stored.items()]
    assert any(changes)


def documents_of(collection):
    return {document["_id"]: document for document in collection.find({})}


def restore(collection, documents):
    """Undo whatever was done to a collection; return whether anything was."""
    present = documents_of(collection)
    changed = [key for key in present if present[key] != documents.get(key)]
    collection.delete_many({"_id": {"$in": changed}})
    missing = [documents[key] for key in documents if key in changed or key not in present]
    if missing:
        collection.insert_many(missing)
    return bool(changed or missing)


@pytest.mark.parametrize("tamper", TAMPERING, ids=lambda each: each.__name__)
async def test_what_was_changed_behind_the_back_is_noticed(store, tamper):
    """P9: whoever did it, and whether or not MongoDB finds its documents in order."""
    settings, views, shown = store
    async with pymongo.AsyncMongoClient(settings.database_url.reveal()) as client:
        await tamper(client[settings.database])

    assert await unnoticed(open_data_provider(settings), views, shown, 1 << 22) == []


async def a_chunk_gone(raw):
    await raw.chunks.delete_one({"n": 1})


async def chunks_swapped(raw):
    first, second, *_ = await raw.chunks.find({}).sort("n", 1).to_list()
    for one, other in ((first, second), (second, first)):
        await raw.chunks.update_one({"_id": one["_id"]}, {"$set": {"b": other["b"]}})


async def all_chunks_but_one_gone(raw):
    await raw.chunks.delete_many({"n": {"$gte": 1}})


@pytest.mark.parametrize("tamper", [a_chunk_gone, chunks_swapped, all_chunks_but_one_gone])
async def test_a_large_resource_that_lacks_a_chunk_is_damaged(provider, raw, tamper):
    """P6, P9: and the others are exported."""
    await write(provider, corpus.patient("large", note="x" * (17 << 20)), corpus.patient("small"))
    await tamper(raw)

    snapshot = await take_snapshot(provider, await view_everything(provider))

    assert snapshot.names == ["Patient/small"]
    assert [each.id for each in snapshot.damaged] == ["large"]
    with pytest.raises(BackendError):
        await provider.get(corpus.type_key("Patient").resource("large"))
