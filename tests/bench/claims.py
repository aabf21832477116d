"""How many shards a second the job store in PostgreSQL hands out and takes back."""

import asyncio
import time
from datetime import timedelta

from helios_core.storage.job_store import JobStore
from helios_core.storage.secrets import Secret
from helios_core.testing import corpus
from helios_postgres import PostgresSettings, open_job_store

TENANTS = 3
JOBS = 12
SHARDS = 100
CLAIMANTS = 16
CONNECTIONS = 8
LEASE = timedelta(minutes=5)


def rate(url: str) -> float:
    """Claim and complete every shard of some jobs, and give the shards per second."""
    return asyncio.run(
        _rate(PostgresSettings(database_url=Secret(url), job_pool_size=CONNECTIONS))
    )


async def _rate(settings: PostgresSettings) -> float:
    async with open_job_store(settings) as store:
        names = [f"claims-{number}" for number in range(JOBS)]
        tenants = [f"tenant-{number % TENANTS}" for number in range(JOBS)]
        for name, tenant in zip(names, tenants, strict=True):
            job = corpus.job(name, tenant=tenant)
            await store.add(job, corpus.shards(SHARDS), max_active=JOBS)
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(CLAIMANTS):
                group.create_task(_work(store, f"claimant-{number}"))
        seconds = time.perf_counter() - started
        for name, tenant in zip(names, tenants, strict=True):
            await store.delete(tenant, name)
        return JOBS * SHARDS / seconds


async def _work(store: JobStore, name: str) -> None:
    while lease := await store.claim(name, lease_for=LEASE, max_attempts=3):
        await store.complete(lease, [corpus.part(lease)])
