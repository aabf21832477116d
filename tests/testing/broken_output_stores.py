"""
Output stores that are wrong on purpose, each held to the suite by a class of its own.

Not collected with the other tests: `test_broken_output_stores.py` runs the tests in `caught_by`,
the ones that name the broken clause, and checks that they fail.
"""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import ClassVar

import msgspec
import pytest
import xxhash

from helios_core.errors import PartMissing
from helios_core.memory.output_store import MemoryOutputStore
from helios_core.model.parts import PartKind, StoredPart
from helios_core.storage.output_store import SupportsSignedURLs
from helios_core.testing import OutputStoreSuite
from helios_core.testing.output_store import Interrupted
from helios_localfs import LocalOutputStore


class OnMemory(OutputStoreSuite):
    broken: type[MemoryOutputStore]
    waivers: ClassVar = {
        "test_memory_does_not_grow_with_the_part": "the reference keeps parts in memory"
    }

    @pytest.fixture
    def store(self):
        self.kept = self.broken()
        return self.kept

    async def raw_names(self, tenant, job_id):
        return [
            key.name for key in self.kept._parts if (key.tenant, key.job_id) == (tenant, job_id)
        ]

    async def raw_bytes(self, key):
        return self.kept._parts[key]

    async def another(self, store):
        return store

    async def test_memory_does_not_grow_with_the_part(self, store):
        assert store._parts == {}


class ShowsEarly(MemoryOutputStore):
    async def put(self, key, chunks):
        self._parts[key] = b""
        try:
            async for chunk in chunks:
                self._parts[key] = self._parts.get(key, b"") + chunk
        except BaseException:
            self._parts.pop(key, None)
            raise
        content = self._parts[key]
        return StoredPart(size=len(content), digest=xxhash.xxh3_128_hexdigest(content))


class TestShowsEarly(OnMemory):
    broken = ShowsEarly
    caught_by = (
        "test_a_part_is_invisible_until_it_is_whole",
        "test_a_put_overtaken_by_delete_is_whole_or_absent",
    )


class TestForgetsOnRestart(OnMemory):
    broken = MemoryOutputStore
    caught_by = ("test_a_stored_part_is_there_for_another_process",)

    async def another(self, store):
        return MemoryOutputStore()


class KeepsHalf(MemoryOutputStore):
    async def put(self, key, chunks):
        content = b""
        try:
            async for chunk in chunks:
                content += chunk
        finally:
            self._parts[key] = content
        return StoredPart(size=len(content), digest=xxhash.xxh3_128_hexdigest(content))


class TestKeepsHalf(OnMemory):
    broken = KeepsHalf
    caught_by = (
        "test_chunks_that_raise_leave_nothing",
        "test_a_cancelled_put_leaves_nothing",
        "test_a_put_cancelled_at_any_moment_is_all_or_nothing",
    )


class CleansUpErrorsOnly(ShowsEarly):
    async def put(self, key, chunks):
        content = b""
        try:
            async for chunk in chunks:
                content += chunk
        except asyncio.CancelledError:
            self._parts[key] = content
            raise
        self._parts[key] = content
        return StoredPart(size=len(content), digest=xxhash.xxh3_128_hexdigest(content))


class TestCleansUpErrorsOnly(OnMemory):
    broken = CleansUpErrorsOnly
    caught_by = ("test_a_cancelled_put_leaves_nothing",)


class TakesFailureForTheEnd(MemoryOutputStore):
    async def put(self, key, chunks):
        content = b""
        try:
            async for chunk in chunks:
                content += chunk
        except Interrupted:
            content += b"\n"
        self._parts[key] = content
        return StoredPart(size=len(content), digest=xxhash.xxh3_128_hexdigest(content))


class TestTakesFailureForTheEnd(OnMemory):
    broken = TakesFailureForTheEnd
    caught_by = ("test_chunks_that_raise_leave_nothing",)


class FailureTakesTheJob(MemoryOutputStore):
    async def put(self, key, chunks):
        try:
            return await super().put(key, chunks)
        except BaseException:
            await self.delete(key.tenant, key.job_id)
            raise


class TestFailureTakesTheJob(OnMemory):
    broken = FailureTakesTheJob
    caught_by = ("test_a_failed_put_leaves_its_neighbours_alone",)


class FailureLocksThePart(MemoryOutputStore):
    def __init__(self):
        super().__init__()
        self._begun = set()

    async def put(self, key, chunks):
        if key in self._begun:
            raise FileExistsError(key.name)
        self._begun.add(key)
        part = await super().put(key, chunks)
        self._begun.remove(key)
        return part


class TestFailureLocksThePart(OnMemory):
    broken = FailureLocksThePart
    caught_by = ("test_a_part_can_be_put_after_a_failed_put",)


class WritesText(MemoryOutputStore):
    async def put(self, key, chunks):
        part = await super().put(key, chunks)
        self._parts[key] = self._parts[key].replace(b"\r\n", b"\n")
        return part


class TestWritesText(OnMemory):
    broken = WritesText
    caught_by = ("test_bytes_come_back_unchanged",)


class WrongBothWays(MemoryOutputStore):
    """Agrees with itself; only a look behind its back shows what it keeps."""

    async def put(self, key, chunks):
        part = await super().put(key, chunks)
        self._parts[key] = bytes(255 - byte for byte in self._parts[key])
        return part

    async def read(self, key, *, start=0, end=None):
        async for chunk in super().read(key, start=start, end=end):
            yield bytes(255 - byte for byte in chunk)


class TestWrongBothWays(OnMemory):
    broken = WrongBothWays
    caught_by = ("test_bytes_come_back_unchanged",)


class CountsChunks(MemoryOutputStore):
    async def put(self, key, chunks):
        gathered = [chunk async for chunk in chunks]
        part = await super().put(key, _replayed(gathered))
        return msgspec.structs.replace(part, size=len(gathered))


async def _replayed(chunks):
    for chunk in chunks:
        yield chunk


class TestCountsChunks(OnMemory):
    broken = CountsChunks
    caught_by = ("test_bytes_come_back_unchanged",)


class DigestsTheBeginning(MemoryOutputStore):
    async def put(self, key, chunks):
        part = await super().put(key, chunks)
        beginning = xxhash.xxh3_128_hexdigest(self._parts[key][:1000])
        return msgspec.structs.replace(part, digest=beginning)


class TestDigestsTheBeginning(OnMemory):
    broken = DigestsTheBeginning
    caught_by = ("test_a_digest_tells_contents_apart",)


class SharesABuffer(MemoryOutputStore):
    def __init__(self):
        super().__init__()
        self._buffer = b""

    async def put(self, key, chunks):
        self._buffer = b""
        async for chunk in chunks:
            self._buffer += chunk
        content = self._parts[key] = self._buffer
        return StoredPart(size=len(content), digest=xxhash.xxh3_128_hexdigest(content))


class TestSharesABuffer(OnMemory):
    broken = SharesABuffer
    caught_by = ("test_parts_put_at_the_same_time_do_not_mix",)


class AbsentIsEmpty(MemoryOutputStore):
    async def read(self, key, *, start=0, end=None):
        if key in self._parts:
            async for chunk in super().read(key, start=start, end=end):
                yield chunk


class TestAbsentIsEmpty(OnMemory):
    broken = AbsentIsEmpty
    caught_by = (
        "test_an_absent_part_is_missing",
        "test_a_part_is_invisible_until_it_is_whole",
    )


class GivesTheNextBest(MemoryOutputStore):
    async def read(self, key, *, start=0, end=None):
        similar = [other for other in self._parts if other.name == key.name]
        async for chunk in super().read(min(similar, default=key), start=start, end=end):
            yield chunk


class TestGivesTheNextBest(OnMemory):
    broken = GivesTheNextBest
    caught_by = ("test_an_absent_part_is_missing_beside_a_similar_one",)


class DiscardsAllTokens(MemoryOutputStore):
    async def discard(self, key):
        for other in [other for other in self._parts if other.name == key.name]:
            del self._parts[other]


class TestDiscardsAllTokens(OnMemory):
    broken = DiscardsAllTokens
    caught_by = ("test_a_discarded_part_is_missing_and_others_stay",)


class DeletesOutputOnly(MemoryOutputStore):
    async def delete(self, tenant, job_id):
        for key in list(self._parts):
            if (key.tenant, key.job_id, key.kind) == (tenant, job_id, PartKind.OUTPUT):
                del self._parts[key]


class TestDeletesOutputOnly(OnMemory):
    broken = DeletesOutputOnly
    caught_by = ("test_delete_takes_everything_of_the_job",)


class DeletesByPrefix(MemoryOutputStore):
    async def delete(self, tenant, job_id):
        for key in list(self._parts):
            if f"{key.tenant}/{key.job_id}".startswith(f"{tenant}/{job_id}"):
                del self._parts[key]


class TestDeletesByPrefix(OnMemory):
    broken = DeletesByPrefix
    caught_by = ("test_delete_takes_nothing_of_other_jobs",)


class DeletesAcrossTenants(MemoryOutputStore):
    async def delete(self, tenant, job_id):
        for key in [key for key in self._parts if key.job_id == job_id]:
            del self._parts[key]


class TestDeletesAcrossTenants(OnMemory):
    broken = DeletesAcrossTenants
    caught_by = ("test_delete_takes_nothing_of_other_jobs",)


class DeletesOnce(MemoryOutputStore):
    async def delete(self, tenant, job_id):
        if (tenant, job_id) not in {(key.tenant, key.job_id) for key in self._parts}:
            raise PartMissing(f"nothing is kept for export {job_id}")
        await super().delete(tenant, job_id)


class TestDeletesOnce(OnMemory):
    broken = DeletesOnce
    caught_by = ("test_delete_may_be_repeated",)


class ListsParts(MemoryOutputStore):
    async def jobs(self):
        for key in self._parts:
            yield key.tenant, key.job_id


class TestListsParts(OnMemory):
    broken = ListsParts
    caught_by = ("test_every_job_with_output_is_listed_once",)


class ListsOneTenant(MemoryOutputStore):
    async def jobs(self):
        tenants = Counter(key.tenant for key in self._parts)
        async for tenant, job_id in super().jobs():
            if tenant == tenants.most_common(1)[0][0]:
                yield tenant, job_id


class TestListsOneTenant(OnMemory):
    broken = ListsOneTenant
    caught_by = ("test_every_job_with_output_is_listed_once",)


class GathersFirst(LocalOutputStore):
    async def put(self, key, chunks):
        whole = b"".join([chunk async for chunk in chunks])
        return await super().put(key, _replayed([whole]))


class TestGathersFirst(OutputStoreSuite):
    caught_by = ("test_memory_does_not_grow_with_the_part",)

    @pytest.fixture
    def store(self, tmp_path):
        self.root = tmp_path
        return GathersFirst(tmp_path)

    async def raw_names(self, tenant, job_id):
        return [path.name for path in self.root.glob(f"{tenant}/{job_id}/*")]

    async def raw_bytes(self, key):
        return b"".join([chunk async for chunk in LocalOutputStore(self.root).read(key)])

    async def another(self, store):
        return GathersFirst(self.root)


class IncludesTheEnd(MemoryOutputStore):
    async def read(self, key, *, start=0, end=None):
        last = None if end is None else end + 1
        async for chunk in super().read(key, start=start, end=last):
            yield chunk


class TestIncludesTheEnd(OnMemory):
    broken = IncludesTheEnd
    caught_by = ("test_a_byte_range_is_read",)


class ReadingLocksTheJob(MemoryOutputStore):
    def __init__(self):
        super().__init__()
        self._unfinished = 0

    async def read(self, key, *, start=0, end=None):
        self._unfinished += 1
        async for chunk in super().read(key, start=start, end=end):
            yield chunk
        self._unfinished -= 1

    async def delete(self, tenant, job_id):
        if self._unfinished == 0:
            await super().delete(tenant, job_id)


class TestReadingLocksTheJob(OnMemory):
    broken = ReadingLocksTheJob
    caught_by = ("test_a_read_may_stop_early",)


class IgnoresTheToken(MemoryOutputStore):
    async def put(self, key, chunks):
        return await super().put(msgspec.structs.replace(key, token=0), chunks)

    def read(self, key, *, start=0, end=None):
        return super().read(msgspec.structs.replace(key, token=0), start=start, end=end)


class TestIgnoresTheToken(OnMemory):
    broken = IgnoresTheToken
    caught_by = ("test_no_two_parts_share_a_place",)

    async def raw_bytes(self, key):
        return self.kept._parts[msgspec.structs.replace(key, token=0)]


class BelongsToAnybody(MemoryOutputStore):
    async def bind(self, owner):
        return None


class TestBelongsToAnybody(OnMemory):
    broken = BelongsToAnybody
    caught_by = ("test_a_store_stays_with_its_owner",)


class LooksThenMarks(MemoryOutputStore):
    async def bind(self, owner):
        found = self._owner
        await asyncio.sleep(0)
        self._owner = found
        await super().bind(owner)


class TestLooksThenMarks(OnMemory):
    broken = LooksThenMarks
    caught_by = ("test_of_owners_that_come_at_once_one_wins",)


class SignsForNobody(MemoryOutputStore):
    async def signed_urls(self, keys, *, valid_for: timedelta):
        return [f"http://127.0.0.1:9/{key.name}" for key in keys]


class TestSignsForNobody(OnMemory):
    broken = SignsForNobody
    powers = frozenset({SupportsSignedURLs})
    caught_by = ("test_a_signed_url_gives_the_part_without_a_token",)


class SignsInItsOwnOrder(MemoryOutputStore):
    async def signed_urls(self, keys, *, valid_for: timedelta):
        return sorted(f"http://127.0.0.1:9/{hash(key)}" for key in keys)


class TestSignsInItsOwnOrder(OnMemory):
    broken = SignsInItsOwnOrder
    powers = frozenset({SupportsSignedURLs})
    caught_by = ("test_signed_urls_come_in_order_and_name_the_part_before_the_query",)


class TestHidesAPower(OnMemory):
    broken = SignsForNobody
    caught_by = ("test_exactly_the_claimed_powers_are_present",)


class TestMakesUpAPower(OnMemory):
    broken = MemoryOutputStore
    powers = frozenset({SupportsSignedURLs})
    caught_by = ("test_exactly_the_claimed_powers_are_present",)
