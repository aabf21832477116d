"""The shared contract suites, with SQLite looked at behind the plugin's back."""

import sqlite3
import time
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from unittest.mock import patch

import msgspec

from helios_core import MAX_TOKEN, Part
from helios_core.fhir import FOREVER
from helios_core.testing import DataProviderSuite, JobStoreSuite, corpus
from helios_sqlite import SQLiteSettings, clock, open_data_provider, open_job_store


def behind_the_back(opened):
    connection = sqlite3.connect(opened._database._settings.path, isolation_level=None)
    connection.execute("PRAGMA busy_timeout = 10000")
    return closing(connection)


class TestSQLiteDataProvider(DataProviderSuite):
    powers = DataProviderSuite.known_powers

    @asynccontextmanager
    async def opened(self, folder):
        self.behind = timedelta(0)
        settings = SQLiteSettings(data_dir=str(folder), synchronous="normal")
        with patch.object(clock, "_wall", self._wall):
            async with open_data_provider(settings) as provider:
                yield provider

    def _wall(self):
        return time.time_ns() // 1000 - self.behind // timedelta(microseconds=1)

    async def damage(self, provider, resource_type, resource_id):
        with behind_the_back(provider) as connection:
            changed = connection.execute(
                "UPDATE versions SET content = CAST('{\"spoilt' AS BLOB) WHERE id = ?"
                " AND until_stamp = ? AND collection = ("
                "   SELECT collection FROM collections WHERE tenant = ?"
                " AND fhir_version = ? AND resource_type = ?)",
                (resource_id, FOREVER, corpus.TENANT, corpus.VERSION, resource_type),
            )
            assert changed.rowcount == 1

    async def lose(self, provider, resource_type, resource_ids):
        with behind_the_back(provider) as connection:
            for each in resource_ids:
                lost = connection.execute(
                    "DELETE FROM versions WHERE id = ? AND collection = ("
                    "   SELECT collection FROM collections WHERE tenant = ?"
                    " AND fhir_version = ? AND resource_type = ?)",
                    (each, corpus.TENANT, corpus.VERSION, resource_type),
                )
                assert lost.rowcount

    async def raw_current(self, provider, tenant, fhir_version):
        with behind_the_back(provider) as connection:
            rows = connection.execute(
                "SELECT c.resource_type || '/' || v.id, v.version_id"
                " FROM versions v JOIN collections c ON c.collection = v.collection"
                " WHERE c.tenant = ? AND c.fhir_version = ? AND v.content IS NOT NULL"
                " AND v.version_id = (SELECT max(version_id) FROM versions"
                "   WHERE collection = v.collection AND id = v.id)",
                (tenant, fhir_version),
            )
            return dict(rows.fetchall())

    async def set_clock_back(self, provider, by):
        self.behind += by


class TestSQLiteJobStore(JobStoreSuite):
    powers = JobStoreSuite.known_powers

    @asynccontextmanager
    async def opened(self, folder):
        settings = SQLiteSettings(data_dir=str(folder), synchronous="normal")
        async with open_job_store(settings) as store:
            yield store

    async def let_pass(self, store, time):
        """What is written down moves into the past: the clock itself is SQLite's."""
        passed = (time // timedelta(milliseconds=1),)
        with behind_the_back(store) as connection:
            connection.execute("UPDATE jobs SET created_at = created_at - ?1", passed)
            connection.execute("UPDATE jobs SET completed_at = completed_at - ?1", passed)
            connection.execute(
                "UPDATE shards SET available_at = available_at - ?1, touched_at = touched_at - ?1,"
                " waiting_since = waiting_since - ?1",
                passed,
            )
            connection.execute("UPDATE workers SET until = until - ?1", passed)
            connection.execute("UPDATE records SET expires_at = expires_at - ?1", passed)

    async def spoil(self, store, job_id, what="job"):
        spoilt = {
            "job": "UPDATE jobs SET accepted = x'7b22'",
            "token": f"UPDATE shards SET token = {MAX_TOKEN}",
        }[what]
        with behind_the_back(store) as connection:
            connection.execute(
                f"{spoilt} WHERE job = (SELECT job FROM jobs WHERE id = ?)", (job_id,)
            )

    async def lose(self, store, job_id, what, shard):
        table, column = {
            "shard": ("shards", "number"),
            "part": ("parts", "shard"),
            "notes": ("notes", "shard"),
        }[what]
        with behind_the_back(store) as connection:
            lost = connection.execute(
                f"DELETE FROM {table} WHERE {column} = ?"
                " AND job = (SELECT job FROM jobs WHERE id = ?)",
                (shard, job_id),
            )
            assert lost.rowcount == 1

    async def raw_statuses(self, store):
        with behind_the_back(store) as connection:
            return dict(connection.execute("SELECT id, status FROM jobs").fetchall())

    async def raw_parts(self, store, job_id):
        with behind_the_back(store) as connection:
            rows = connection.execute(
                "SELECT part FROM parts WHERE job = (SELECT job FROM jobs WHERE id = ?)",
                (job_id,),
            )
            return [msgspec.json.decode(part, type=Part).key.name for (part,) in rows]
