"""The shared contract suite of job stores, with MongoDB looked at behind the plugin's back."""

from contextlib import asynccontextmanager
from datetime import timedelta

import msgspec
import pymongo
import pytest
from bson.int64 import Int64

from helios_core import MAX_TOKEN, JobQuery, Part
from helios_core.testing import JobStoreSuite, corpus
from helios_mongodb import open_job_store

INSTANTS = {
    "jobs": ("created", "completed"),
    "shards": ("at", "touched", "waiting_since"),
    "workers": ("until",),
    "records": ("expires",),
}


class TestMongoJobStore(JobStoreSuite):
    powers = JobStoreSuite.known_powers

    @pytest.fixture(autouse=True)
    def database(self, settings):
        self.settings = settings
        self.folder = None

    @asynccontextmanager
    async def opened(self, folder):
        """The state machine asks for many new stores, each after the one before is closed."""
        async with pymongo.AsyncMongoClient(self.settings.database_url.reveal()) as client:
            raw = client[self.settings.database]
            async with open_job_store(self.settings) as store:
                if folder != self.folder:
                    self.folder = folder
                    for name in (*INSTANTS, "parts", "notes", "turns"):
                        await raw[name].delete_many({})
                store.behind_its_back = raw
                yield store

    async def let_pass(self, store, time):
        """What is written down moves into the past: the clock itself is the server's."""
        passed = time // timedelta(milliseconds=1)
        for name, fields in INSTANTS.items():
            for field in fields:
                earlier = {field: {"$subtract": [f"${field}", passed]}}
                there = {field: {"$type": "date"}}
                await store.behind_its_back[name].update_many(there, [{"$set": earlier}])

    async def spoil(self, store, job_id, what="job"):
        raw = store.behind_its_back
        spoilt, field, value = {
            "job": (raw.jobs, "accepted", b'{"'),
            "token": (raw.shards, "token", Int64(MAX_TOKEN)),
        }[what]
        await spoilt.update_many({"id": job_id}, {"$set": {field: value}})

    async def lose(self, store, job_id, what, shard):
        name, field = {
            "shard": ("shards", "number"),
            "part": ("parts", "shard"),
            "notes": ("notes", "shard"),
        }[what]
        raw = store.behind_its_back
        job = await raw.jobs.find_one({"id": job_id})
        lost = await raw[name].delete_many({"job": job["_id"], field: shard})
        assert lost.deleted_count == 1

    async def raw_statuses(self, store):
        return {job["id"]: job["status"] async for job in store.behind_its_back.jobs.find({})}

    async def raw_parts(self, store, job_id):
        rows = await store.behind_its_back.parts.find({}).to_list()
        keys = [msgspec.json.decode(row["part"], type=Part).key for row in rows]
        return [key.name for key in keys if key.job_id == job_id]

    @pytest.mark.parametrize("field", ["token", "attempts", "shard", "postponed"])
    async def test_a_shard_that_lacks_a_field_sets_its_job_aside(self, store, field):
        for job_id in ("spoilt", "sound"):
            await store.add(corpus.job(job_id), corpus.shards(1), max_active=9)
        await store.behind_its_back.shards.update_one({"id": "spoilt"}, {"$unset": {field: ""}})

        leases = [await claim(store) for _ in range(2)]

        assert [lease and lease.job.id for lease in leases] == ["sound", None]
        assert [key.id for key in store.unreadable] == ["spoilt"]
        listed = await store.jobs(JobQuery(), limit=9)
        assert sorted(job.id for job in listed) == ["sound", "spoilt"]
        await store.cancel(corpus.TENANT, "spoilt")
        await store.delete(corpus.TENANT, "spoilt")
        assert await self.raw_statuses(store) == {"sound": "in-progress"}

    @pytest.mark.parametrize("change", [{"$unset": {"served": ""}}, {"$set": {"served": "text"}}])
    async def test_a_damaged_turn_counts_as_none(self, store, change):
        for tenant in (corpus.TENANT, corpus.OTHER_TENANT):
            await store.add(corpus.job("job", tenant=tenant), corpus.shards(1), max_active=9)
        await store.behind_its_back.turns.update_one({"_id": corpus.TENANT}, change)

        leases = [await claim(store) for _ in range(2)]

        assert {lease.job.tenant for lease in leases} == {corpus.TENANT, corpus.OTHER_TENANT}
        assert not store.unreadable

    @pytest.mark.parametrize("field", ["token", "attempts", "reported", "touched", "error"])
    async def test_whatever_is_in_a_field_of_a_shard_every_job_can_be_listed_and_ended(
        self, store, field
    ):
        values = {"text": "text", "null": None, "number": -1.5}
        for job_id in (*values, "sound"):
            await store.add(corpus.job(job_id), corpus.shards(1), max_active=9)
        for job_id, value in values.items():
            await store.behind_its_back.shards.update_one({"id": job_id}, {"$set": {field: value}})

        listed = await store.jobs(JobQuery(), limit=9)
        while await claim(store) is not None:
            pass
        await store.end_untouched(timedelta(days=9), reason="why", limit=9)

        assert {job.id for job in listed} == {*values, "sound"}
        for job_id in values:
            await store.cancel(corpus.TENANT, job_id)
            await store.delete(corpus.TENANT, job_id)
        assert [*await self.raw_statuses(store)] == ["sound"]

    async def test_a_job_with_an_unreadable_shard_is_listed_as_unreadable(self, store):
        await store.add(corpus.job("job"), corpus.shards(2), max_active=9)
        [readable] = await store.jobs(JobQuery(), limit=9)
        await store.behind_its_back.shards.update_one({"number": 1}, {"$set": {"shard": b"{"}})

        [listed] = await store.jobs(JobQuery(), limit=9)

        assert (readable.job.id, listed.job) == ("job", None)


async def claim(store):
    return await store.claim("worker", lease_for=timedelta(minutes=1), max_attempts=3)
