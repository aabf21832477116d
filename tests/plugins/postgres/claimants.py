"""A process of many claimants: prints what each of them got until nothing is left."""

import asyncio
import sys
from datetime import timedelta

from helios_core import Secret
from helios_postgres import PostgresSettings, open_job_store


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def claim_all(store, name):
    lease_for = timedelta(minutes=5)
    while lease := await store.claim(name, lease_for=lease_for, max_attempts=3):
        say(f"{lease.job.tenant} {lease.job.id} {lease.shard.number} {lease.token}")


async def main(url, schema, claimants):
    settings = PostgresSettings(database_url=Secret(url), schema=schema, job_pool_size=claimants)
    async with open_job_store(settings) as store, asyncio.TaskGroup() as group:
        say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        for number in range(claimants):
            group.create_task(claim_all(store, f"claimant-{number}"))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
