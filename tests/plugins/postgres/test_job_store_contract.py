"""The shared contract suite of job stores, with PostgreSQL looked at behind the plugin's back."""

from contextlib import asynccontextmanager

import asyncpg
import msgspec
import pytest

from helios_core import MAX_TOKEN, Part
from helios_core.testing import JobStoreSuite
from helios_postgres import open_job_store


class TestPostgresJobStore(JobStoreSuite):
    powers = JobStoreSuite.known_powers

    @pytest.fixture(autouse=True)
    def database(self, settings):
        self.settings = settings
        self.folder = None

    @asynccontextmanager
    async def opened(self, folder):
        """The state machine asks for many new stores, each after the one before is closed."""
        raw = await asyncpg.connect(
            self.settings.database_url.reveal(),
            server_settings={"search_path": self.settings.schema},
        )
        try:
            async with open_job_store(self.settings) as store:
                if folder != self.folder:
                    self.folder = folder
                    await raw.execute("TRUNCATE jobs, turns, workers, records CASCADE")
                store.behind_its_back = raw
                yield store
        finally:
            await raw.close()

    async def let_pass(self, store, time):
        """What is written down moves into the past: the clock itself is the server's."""
        for table, column in (
            ("jobs", "created_at"),
            ("jobs", "completed_at"),
            ("shards", "available_at"),
            ("records", "expires_at"),
            ("shards", "touched_at"),
            ("shards", "waiting_since"),
            ("workers", "until"),
        ):
            await store.behind_its_back.execute(
                f"UPDATE {table} SET {column} = {column} - $1::interval", time
            )

    async def spoil(self, store, job_id, what="job"):
        spoilt = {
            "job": "UPDATE jobs SET accepted = '\\x7b22'",
            "token": f"UPDATE shards SET token = {MAX_TOKEN}",
        }[what]
        await store.behind_its_back.execute(
            f"{spoilt} WHERE job = (SELECT job FROM jobs WHERE id = $1)", job_id
        )

    async def lose(self, store, job_id, what, shard):
        table, column = {
            "shard": ("shards", "number"),
            "part": ("parts", "shard"),
            "notes": ("notes", "shard"),
        }[what]
        lost = await store.behind_its_back.execute(
            f"DELETE FROM {table} WHERE {column} = $1"
            " AND job = (SELECT job FROM jobs WHERE id = $2)",
            shard,
            job_id,
        )
        assert lost == "DELETE 1"

    async def raw_statuses(self, store):
        return dict(await store.behind_its_back.fetch("SELECT id, status FROM jobs"))

    async def raw_parts(self, store, job_id):
        rows = await store.behind_its_back.fetch(
            "SELECT part FROM parts WHERE job = (SELECT job FROM jobs WHERE id = $1)", job_id
        )
        return [msgspec.json.decode(part, type=Part).key.name for (part,) in rows]
