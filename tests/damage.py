"""Views of a store, which of them damage changes without a word, and damage to SQLite's files."""

from datetime import timedelta

import msgspec

from helios_core import (
    BackendError,
    ConfigurationError,
    Delete,
    ExportView,
    JobNotFound,
    JobStatus,
    LeaseLost,
    Level,
    Put,
)
from helios_core.fhir import compile_query
from helios_core.storage.data_provider import SortOrder
from helios_core.testing import compile_searches, corpus, measurements, take_snapshot
from tests.indexed import pages

PAGE_BYTES = 8192

MINUTE = timedelta(minutes=1)

EXPORTS = {"done": 4, "half-done": 6, "begun": 5, "waiting": 3}
"""How many shards the exports of `fill_jobs` have, each with two parts and a note."""


class Filtered(msgspec.Struct):
    """A view that is narrowed by the search index."""

    view: ExportView
    searches: list

    async def read(self, provider, batch_bytes):
        condition = compile_searches(self.searches)
        lines, damaged = [], []
        for shard in await provider.plan(self.view, shard_bytes=1 << 26):
            if shard.resource_type != condition.resource_type:
                continue
            async for batch in provider.read_candidates(
                self.view, shard, condition.prefilter(), batch_bytes=batch_bytes
            ):
                lines += filter(condition.matches, batch.lines)
                damaged += batch.damaged
        return sorted(lines), [], damaged


class Searched(msgspec.Struct):
    """All pages of a search."""

    query: list

    async def read(self, provider, batch_bytes):
        condition = compile_query(corpus.VERSION, "Observation", self.query)
        found = await pages(provider, condition, SortOrder.LAST_UPDATED)
        return sorted(each.content for each in found), [], []


async def fill(provider, *, at_once=50):
    """
    Store patients and what is about them, change and delete some; return an instant between.

    Of those that are there before it, six times as many as are stored at once.
    """

    async def write(*changes):
        await provider.write(corpus.TENANT, corpus.VERSION, changes)

    def puts(first, end, note):
        return [
            Put(resource=each)
            for n in range(first, end)
            for each in (
                corpus.patient(f"p{n}", note=note),
                corpus.observation(f"o{n}", f"p{n}"),
                corpus.observation(f"q{n}", f"p{n}"),
            )
        ]

    for start in range(0, 6 * at_once, at_once):
        await write(*puts(start, start + at_once, "x" * (start * 7 % 900)))
    between = await provider.transaction_time()
    await write(*puts(0, 30, "changed"))
    await write(*(Delete(resource_type="Observation", id=f"o{n}") for n in range(40, 60)))
    await write(*puts(300, 330, "new"))
    for start in range(0, 300, 100):
        await write(*(Put(resource=each) for each in measurements(300)[start : start + 100]))
    await write(Put(resource=corpus.measurement("m7", "p1", status="final", code="a", day="2020")))
    return between


async def views_of(provider, between, *, every=3):
    """Return views of what `fill` has stored; a cohort has every third patient, or fewer."""
    now = await provider.transaction_time()
    some = {f"p{n}" for n in range(0, 330, every)}
    return {
        "system": corpus.view(now),
        "patient": corpus.view(now, corpus.request(level=Level.PATIENT)),
        "since": corpus.view(now, corpus.request(since=between)),
        "until": corpus.view(now, corpus.request(until=between)),
        "before": corpus.view(between),
        "group": corpus.view(now, corpus.request(level=Level.GROUP), patients=some),
        "code": Filtered(corpus.view(now), [[("code", "weight,pulse"), ("status", "final")]]),
        "date": Filtered(corpus.view(now), [[("date", "ge2020-02")]]),
        "ids": Filtered(corpus.view(now), [[("_id", "m3,o44,o100,q310")]]),
        "code since": Filtered(
            corpus.view(now, corpus.request(since=between)), [[("code", "weight,pulse")]]
        ),
        "code of a group": Filtered(
            corpus.view(now, corpus.request(level=Level.GROUP), patients=some),
            [[("code", "weight,pulse")]],
        ),
    }


SEARCHED = {
    "search by code": Searched([("code", "weight,pulse"), ("status", "final")]),
    "search by date": Searched([("date", "ge2020-02")]),
}


async def read(provider, view, batch_bytes):
    if not isinstance(view, ExportView):
        return await view.read(provider, batch_bytes)
    snapshot = await take_snapshot(provider, view, batch_bytes=batch_bytes)
    return sorted(snapshot.lines), snapshot.deleted, snapshot.damaged


async def unnoticed(opened, views, shown, batch_bytes):
    """Return which views of a store are not what they were, without a word about it."""
    silent = []
    try:
        async with opened as provider:
            for name, view in views.items():
                try:
                    lines, deleted, damaged = await read(provider, view, batch_bytes)
                except BackendError:
                    continue
                expected, gone, _ = shown[name]
                if (lines, deleted) != (expected, gone) and not damaged:
                    silent.append((name, len(expected) - len(lines), len(gone) - len(deleted)))
    except (BackendError, ConfigurationError):
        pass
    return silent


async def fill_jobs(store):
    """Store exports, some of whose shards are done, among others of several tenants."""
    for number in range(40):
        tenant = (corpus.TENANT, corpus.OTHER_TENANT)[number % 2]
        await store.add(corpus.job(f"other-{number}", tenant=tenant), [], max_active=9)
    for job_id, done in (("done", 4), ("half-done", 3), ("begun", 1)):
        await store.add(corpus.job(job_id), corpus.shards(EXPORTS[job_id]), max_active=9)
        for _ in range(done):
            await complete_next(store)
        if job_id != "begun":
            await store.add(
                corpus.job(job_id, tenant=corpus.OTHER_TENANT), corpus.shards(1), max_active=9
            )
            await complete_next(store)
    await store.add(corpus.job("waiting"), corpus.shards(EXPORTS["waiting"]), max_active=9)


async def complete_next(store):
    """Export the shard whose turn it is, and return whether there was one."""
    lease = await store.claim("worker", lease_for=MINUTE, max_attempts=3)
    if lease is not None:
        parts = [corpus.part(lease, number=number) for number in (1, 2)]
        await store.complete(lease, parts, notes=b"%d" % lease.shard.number)
    return lease is not None


async def short(opened):
    """
    Export what is left to export in a damaged store.

    Return the exports that are complete and lack something, without a word about it.
    """
    silent = []
    try:
        async with opened as store:
            await complete_all(store)
            for job_id, shards in EXPORTS.items():
                try:
                    job = await store.get(corpus.TENANT, job_id)
                    parts = await store.parts(corpus.TENANT, job_id)
                    notes = [note async for note in store.notes(corpus.TENANT, job_id)]
                except (BackendError, JobNotFound):
                    continue
                published = sorted((part.key.ordinal, part.key.number) for part in parts)
                expected = [(n + 1, number) for n in range(shards) for number in (1, 2)]
                is_whole = published == expected and notes == [b"%d" % n for n in range(shards)]
                if job.status is JobStatus.COMPLETE and not is_whole:
                    silent.append((job_id, published, notes))
    except (BackendError, ConfigurationError):
        pass
    return silent


async def complete_all(store):
    for _ in range(2 * sum(EXPORTS.values())):
        try:
            if not await complete_next(store):
                return
        except LeaseLost:
            continue
        except BackendError:
            return


def pages_swapped(content, rng):
    """Overwrite pages by other pages."""
    count = len(content) // PAGE_BYTES
    for _ in range(rng.choice((1, 1, 2, 8))):
        source, target = rng.randrange(count), rng.randrange(1, count)
        page = content[source * PAGE_BYTES : (source + 1) * PAGE_BYTES]
        content[target * PAGE_BYTES : (target + 1) * PAGE_BYTES] = page


def header_bytes(content, rng):
    """Change bytes in the header of a page."""
    page = rng.randrange(1, len(content) // PAGE_BYTES)
    for _ in range(rng.choice((1, 1, 3))):
        content[page * PAGE_BYTES + rng.randrange(12)] = rng.randrange(256)


def bits(content, rng):
    """Flip bits anywhere, close to each other or not."""
    start = rng.randrange(len(content) - 64)
    for _ in range(rng.choice((1, 1, 4, 30))):
        content[start + rng.randrange(64)] ^= 1 << rng.randrange(8)


def cell_bits(content, rng):
    """Flip bits where rows begin: in their keys, headers and short columns."""
    page = rng.randrange(1, len(content) // PAGE_BYTES) * PAGE_BYTES
    cells = int.from_bytes(content[page + 3 : page + 5], "big")
    if content[page] in (2, 5, 10, 13) and 0 < cells < PAGE_BYTES // 4:
        header = 12 if content[page] in (2, 5) else 8
        pointer = page + header + 2 * rng.randrange(cells)
        cell = int.from_bytes(content[pointer : pointer + 2], "big") % (PAGE_BYTES - 80)
        content[page + cell + rng.randrange(80)] ^= 1 << rng.randrange(8)
    else:
        bits(content, rng)


def zeroed(content, rng):
    """Zero some bytes, or pages."""
    length = rng.choice((8, 64, 512, PAGE_BYTES, 4 * PAGE_BYTES))
    start = rng.randrange(PAGE_BYTES, len(content))
    if length >= PAGE_BYTES:
        start -= start % PAGE_BYTES
    end = min(start + length, len(content))
    content[start:end] = bytes(end - start)


def truncated(content, rng):
    """Cut the file off."""
    del content[rng.randrange(PAGE_BYTES, len(content)) :]


def entries_gone(content, rng):
    """Take one entry, half of them or all from pages of tables and indexes."""
    for page in rng.sample(range(1, len(content) // PAGE_BYTES), 3):
        lose_entries(content, page * PAGE_BYTES, rng)


def lose_entries(content, page, rng):
    """Take one entry, half of them or all from a page, whose header agrees with what is left."""
    cells = int.from_bytes(content[page + 3 : page + 5], "big")
    if content[page] not in (2, 5, 10, 13) or not 0 < cells < PAGE_BYTES // 4:
        return
    first = page + (12 if content[page] in (2, 5) else 8)
    kept = sorted(rng.sample(range(cells), rng.choice((0, cells // 2, cells - 1))))
    pointers = [content[first + 2 * n : first + 2 * n + 2] for n in kept]
    content[first : first + 2 * len(kept)] = b"".join(pointers)
    content[page + 3 : page + 5] = len(kept).to_bytes(2, "big")


DAMAGES_OF_FILES = [pages_swapped, header_bytes, bits, cell_bits, zeroed, truncated, entries_gone]
