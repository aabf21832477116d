"""Many claimants on one store: nobody waits, nobody is served twice, nobody is forgotten."""

import asyncio
import subprocess
import sys
from collections import Counter
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from pathlib import Path

from helios_core import JobNotFound, JobStatus, LeaseLost
from helios_core.testing import corpus
from helios_postgres import open_job_store
from tests.pace import scaled

MINUTE = timedelta(minutes=1)
SCRIPT = Path(__file__).with_name("claimants.py")


async def claim(store, *, lease_for=MINUTE, max_attempts=3):
    return await store.claim("worker", lease_for=lease_for, max_attempts=max_attempts)


async def add(store, job_id, shards=1, *, tenant=corpus.TENANT):
    job = corpus.job(job_id, tenant=tenant)
    return await store.add(job, corpus.shards(shards), max_active=1000)


async def test_hundreds_of_claimants_in_several_processes_never_share_a_shard(settings, store):
    for number in range(4):
        await add(store, f"job-{number}", 125, tenant=f"tenant-{number % 2}")

    printed = claims_of_processes(settings, processes=4, claimants=50 // 4)

    claimed = [tuple(line.split()[:3]) for line in printed]
    assert len(claimed) == 500
    assert len(set(claimed)) == 500
    assert {line.split()[3] for line in printed} == {"1"}


def claims_of_processes(settings, *, processes, claimants):
    """All the claims made by processes that begin at the same moment."""
    arguments = [settings.database_url.reveal(), settings.schema, str(claimants)]
    started = [
        subprocess.Popen(
            [sys.executable, SCRIPT, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    try:
        for process in started:
            assert process.stdout.readline() == "ready\n"
        for process in started:
            process.stdin.write("\n")
            process.stdin.flush()
        ended = [each.communicate(timeout=scaled(60))[0] for each in started]
        return [line for output in ended for line in output.splitlines()]
    finally:
        for process in started:
            process.kill()
            process.wait()


async def test_a_claim_waits_for_no_row_that_others_have_locked(store, raw):
    await add(store, "job", 3)
    async with raw.transaction():
        await raw.execute("SELECT 1 FROM jobs FOR UPDATE")
        await raw.execute("SELECT 1 FROM turns FOR UPDATE")
        await raw.execute("SELECT 1 FROM shards WHERE number = 0 FOR UPDATE")

        lease = await asyncio.wait_for(claim(store), scaled(5))

    assert lease.shard.number == 1
    assert (await claim(store)).shard.number == 0


async def test_a_hundred_queued_jobs_delay_another_tenant_by_one_shard(store):
    for number in range(100):
        await add(store, f"queued-{number}", 10, tenant="busy")
    for _ in range(5):
        assert (await claim(store)).job.tenant == "busy"
    await add(store, "small", 1, tenant="other")

    following = [(await claim(store)).job.tenant for _ in range(2)]

    assert "other" in following


async def test_tenants_take_turns_while_many_claim_at_once(store, settings):
    for tenant in ("a", "b", "c"):
        for number in range(10):
            await add(store, f"{tenant}-{number}", 4, tenant=tenant)

    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(open_job_store(settings)) for _ in range(3)]
        leases = await asyncio.gather(*(claim(stores[n % 3]) for n in range(60)))

    served = Counter(lease.job.tenant for lease in leases)
    # Claims that look at the same moment, twelve of them here, may come upon the same tenant.
    assert min(served.values()) >= 6


async def test_a_claim_of_what_was_cancelled_meanwhile_gives_nothing(store, raw):
    await add(store, "job")
    async with raw.transaction():
        # As `cancel` does it, stopped before its COMMIT.
        await raw.execute("UPDATE jobs SET status = 'cancelled'")
        await raw.execute("UPDATE shards SET token = token + 1, available_at = NULL")

        assert await asyncio.wait_for(claim(store), scaled(5)) is None

    assert await claim(store) is None


async def test_shards_of_one_job_completed_at_once_are_numbered_without_gaps(store, settings):
    await add(store, "job", 40)
    leases = [await claim(store) for _ in range(40)]

    async with open_job_store(settings) as other, asyncio.TaskGroup() as group:
        for number, lease in enumerate(leases):
            parts = [corpus.part(lease, number=n + 1) for n in range(number % 3)]
            group.create_task((store, other)[number % 2].complete(lease, parts))
        polls = [
            await each.parts(corpus.TENANT, "job") for each in (store, other) for _ in range(5)
        ]

    polls.append(await store.parts(corpus.TENANT, "job"))
    for parts in polls:
        assert sorted(part.published for part in parts) == list(range(len(parts)))
    assert len(polls[-1]) == sum(number % 3 for number in range(40))


async def test_completing_waits_for_no_other_job(store, raw):
    await add(store, "one")
    await add(store, "two")
    _, two = await claim(store), await claim(store)
    async with raw.transaction():
        await raw.execute("SELECT 1 FROM jobs WHERE id = 'one' FOR UPDATE")
        await raw.execute("SELECT 1 FROM shards WHERE job = 1 FOR UPDATE")

        status = await asyncio.wait_for(store.complete(two, [corpus.part(two)]), scaled(5))

    assert status is JobStatus.COMPLETE


async def test_nothing_deadlocks_while_everything_happens_to_a_job_at_once(store, settings, raw):
    for number in range(6):
        await add(store, f"job-{number}", 10)

    async with (
        open_job_store(settings) as other,
        asyncio.timeout(scaled(60)),
        asyncio.TaskGroup() as group,
    ):
        for number in range(16):
            group.create_task(work((store, other)[number % 2], number))
        for number in range(6):
            await asyncio.sleep(0.01)
            group.create_task(end((store, other)[number % 2], f"job-{number}"))

    await raw.execute("SELECT pg_stat_force_next_flush()")
    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert await raw.fetchval(query) == 0


async def work(store, number):
    """Do what workers do, one thing after the other."""
    now = timedelta(0)
    for step in range(12):
        lease = await claim(store, max_attempts=100)
        if lease is None:
            return
        with suppress(LeaseLost):
            match (number + step) % 4:
                case 0:
                    await store.complete(lease, [corpus.part(lease)])
                case 1:
                    await store.renew(lease, lease_for=MINUTE, resources_done=1)
                    await store.release(lease)
                case most:
                    attempts = 100 if most == 2 else 1
                    await store.fail(lease, "why", max_attempts=attempts, retry_after=now)


async def end(store, job_id):
    with suppress(JobNotFound):
        await store.cancel(corpus.TENANT, job_id)
        await store.delete(corpus.TENANT, job_id)


async def test_renewing_leaves_indexes_and_other_pages_alone(store, raw):
    await add(store, "job", 10)
    leases = [await claim(store) for _ in range(10)]
    await raw.execute("VACUUM shards")
    pages = await raw.fetchval("SELECT pg_relation_size('shards')")

    for _ in range(20):
        for lease in leases:
            await store.renew(lease, lease_for=MINUTE, resources_done=1)

    assert await raw.fetchval("SELECT pg_relation_size('shards')") == pages
