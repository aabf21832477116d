"""The contract suite of output stores: clauses O1 to O8 of `OutputStore`, and its powers."""

import asyncio
import gzip
import os
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import ClassVar

import httpx
import msgspec
import pytest

from helios_core import (
    BackendUnavailable,
    Compression,
    ConfigurationError,
    OutputStore,
    PartKey,
    PartKind,
    PartMissing,
    StoredPart,
    SupportsSignedURLs,
)
from helios_core.testing.allocations import peak_allocation
from helios_core.testing.suites import ContractSuite

MIB = 1024 * 1024
"""The number of bytes in a mebibyte."""
PART = PartKey(
    tenant="clinic",
    job_id="job-1",
    kind=PartKind.OUTPUT,
    resource_type="Patient",
    ordinal=1,
    number=1,
    token=1,
)
"""The key of a part whose tenant, job and type do not matter."""
NEIGHBOURS = {
    "tenant": msgspec.structs.replace(PART, tenant="clinic-2"),
    "job": msgspec.structs.replace(PART, job_id="job-10"),
    "kind": msgspec.structs.replace(PART, kind=PartKind.DELETED),
    "type": msgspec.structs.replace(PART, resource_type="Person"),
    "ordinal": msgspec.structs.replace(PART, ordinal=11),
    "number": msgspec.structs.replace(PART, number=11),
    "token": msgspec.structs.replace(PART, token=2),
}
"""Parts that differ from `PART` in one field, in ways that a store may confuse."""
OTHER_JOBS = {
    "another job of the tenant": msgspec.structs.replace(PART, job_id="job-2"),
    "a job whose id begins alike": NEIGHBOURS["job"],
    "the same job id of another tenant": NEIGHBOURS["tenant"],
}


class Interrupted(Exception):
    """Raised by chunks that fail; a store must pass it on unchanged."""


async def yield_chunks(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Yield chunks one at a time; other tasks run in between."""
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


async def interrupted(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Yield chunks, then raise `Interrupted`."""
    async for chunk in yield_chunks(chunks):
        yield chunk
    raise Interrupted


async def store_part(store: OutputStore, key: PartKey, content: bytes) -> StoredPart:
    """Put a part in a single chunk."""
    return await store.put(key, yield_chunks([content]))


async def read_part(
    store: OutputStore, key: PartKey, *, start: int = 0, end: int | None = None
) -> bytes:
    """Read a part, or a range of it, to the end."""
    return b"".join([chunk async for chunk in store.read(key, start=start, end=end)])


def same_content(actual: bytes, expected: bytes) -> bool:
    """Return whether two contents are equal; a comparison in `assert` would print megabytes."""
    return actual == expected


async def list_jobs(store: OutputStore) -> list[tuple[str, str]]:
    """Return the jobs of a store, sorted."""
    return sorted([job async for job in store.jobs()])


class GatedChunks:
    """Chunks that stop after the first one until `open` is called."""

    def __init__(self, before: bytes, after: bytes) -> None:
        self.whole = before + after
        self._before = before
        self._after = after
        self._reached = asyncio.Event()
        self._opened = asyncio.Event()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the first bytes, wait for `open`, then yield the rest."""
        yield self._before
        self._reached.set()
        await self._opened.wait()
        yield self._after

    async def reached(self) -> None:
        """Wait until the store has taken the first bytes and requests more."""
        async with asyncio.timeout(30):
            await self._reached.wait()

    def open(self) -> None:
        """Let `chunks` yield the rest."""
        self._opened.set()


class OutputStoreSuite(ContractSuite):
    """
    Tests that every output store passes.

    A subclass implements the fixture `store`, which yields an opened and empty store, and the
    three methods below. The `raw_` methods bypass the store; the fixture may set what they need on
    `self`.
    """

    known_powers: ClassVar[frozenset[type]] = frozenset({SupportsSignedURLs})

    async def raw_names(self, tenant: str, job_id: str) -> list[str]:
        """Return the names of everything stored for a job, including drafts and open uploads."""
        raise NotImplementedError

    async def raw_bytes(self, key: PartKey) -> bytes:
        """Return the bytes stored for a part, read without the store."""
        raise NotImplementedError

    async def another(self, store: OutputStore) -> OutputStore:
        """Open the same storage once more, as another process would."""
        raise NotImplementedError

    @pytest.fixture
    def subject(self, store: OutputStore) -> OutputStore:
        """Return the implementation that the tests shared by all suites test."""
        return store

    async def test_a_part_is_invisible_until_it_is_whole(self, store: OutputStore) -> None:
        """O1."""
        gate = GatedChunks(b"a" * 3 * MIB, b"b")

        async with asyncio.TaskGroup() as tasks:
            putting = tasks.create_task(store.put(PART, gate.chunks()))
            await gate.reached()
            with pytest.raises(PartMissing):
                await read_part(store, PART)
            gate.open()

        assert putting.result().size == len(gate.whole)
        assert await self.raw_bytes(PART) == gate.whole

    async def test_a_stored_part_is_there_for_another_process(self, store: OutputStore) -> None:
        """O1."""
        await store_part(store, PART, b"durable")

        assert await read_part(await self.another(store), PART) == b"durable"

    @pytest.mark.parametrize("size", [0, 1, 3 * MIB], ids=["at once", "early", "late"])
    async def test_chunks_that_raise_leave_nothing(self, store: OutputStore, size: int) -> None:
        """O2."""
        with pytest.raises(Interrupted):
            await store.put(PART, interrupted([b"a" * size] if size else []))

        assert await self.raw_names(PART.tenant, PART.job_id) == []
        with pytest.raises(PartMissing):
            await read_part(store, PART)

    @pytest.mark.parametrize("size", [1, 3 * MIB], ids=["early", "late"])
    async def test_a_cancelled_put_leaves_nothing(self, store: OutputStore, size: int) -> None:
        """O2."""
        gate = GatedChunks(b"a" * size, b"b")

        async with asyncio.TaskGroup() as tasks:
            putting = tasks.create_task(store.put(PART, gate.chunks()))
            await gate.reached()
            putting.cancel()

        assert putting.cancelled()
        assert await self.raw_names(PART.tenant, PART.job_id) == []

    async def test_a_put_cancelled_at_any_moment_is_all_or_nothing(
        self, store: OutputStore
    ) -> None:
        """O1, O2."""
        content = [bytes([number]) * 300_000 for number in range(10)]

        for turns in range(40):
            key = msgspec.structs.replace(PART, number=turns + 1, job_id=f"job-{turns}")
            async with asyncio.TaskGroup() as tasks:
                putting = tasks.create_task(store.put(key, yield_chunks(content)))
                for _ in range(turns):
                    await asyncio.sleep(0.0005 if turns % 2 else 0)
                putting.cancel()
            if putting.cancelled():
                assert await self.raw_names(key.tenant, key.job_id) == []
            else:
                assert same_content(await self.raw_bytes(key), b"".join(content))

    async def test_a_failed_put_leaves_its_neighbours_alone(self, store: OutputStore) -> None:
        """O2, O8."""
        for field, key in NEIGHBOURS.items():
            await store_part(store, key, field.encode())

        with pytest.raises(Interrupted):
            await store.put(PART, interrupted([b"a" * 3 * MIB]))

        for field, key in NEIGHBOURS.items():
            assert await self.raw_bytes(key) == field.encode()

    async def test_a_part_can_be_put_after_a_failed_put(self, store: OutputStore) -> None:
        """O2."""
        with pytest.raises(Interrupted):
            await store.put(PART, interrupted([b"a" * 3 * MIB]))

        await store_part(store, PART, b"second try")

        assert await self.raw_bytes(PART) == b"second try"

    @pytest.mark.parametrize(
        "chunks",
        [
            [],
            [b""],
            [bytes(range(256))],
            [b"", b"\r\n", b"", b"\x00", b"\xff\xfe"],
            [bytes([number]) for number in range(256)],
            [os.urandom(MIB - 1), os.urandom(MIB + 1), os.urandom(5 * MIB), b"end"],
            [b"\x1f\x8b" + os.urandom(1000)],
        ],
        ids=["none", "empty", "every byte", "odd bytes", "single bytes", "large", "gzip magic"],
    )
    @pytest.mark.parametrize("compression", list(Compression))
    async def test_bytes_come_back_unchanged(
        self, store: OutputStore, chunks: list[bytes], compression: Compression
    ) -> None:
        """O3."""
        key = msgspec.structs.replace(PART, compression=compression)
        content = b"".join(chunks)

        part = await store.put(key, yield_chunks(chunks))

        assert part.size == len(content)
        assert same_content(await self.raw_bytes(key), content)
        assert same_content(await read_part(store, key), content)

    async def test_a_digest_tells_contents_apart(self, store: OutputStore) -> None:
        """O3."""
        contents = {"job-1": b"a" * MIB, "job-2": b"a" * MIB, "job-3": b"a" * (MIB - 1) + b"b"}

        digests = [
            (await store_part(store, msgspec.structs.replace(PART, job_id=job), content)).digest
            for job, content in contents.items()
        ]

        assert digests[0] == digests[1] != digests[2]
        assert all(len(digest) >= 16 for digest in digests)
        assert all(set(digest) <= set("0123456789abcdef") for digest in digests)

    async def test_parts_put_at_the_same_time_do_not_mix(self, store: OutputStore) -> None:
        """O3, O8."""
        keys = [msgspec.structs.replace(PART, number=number) for number in range(1, 17)]

        async with asyncio.TaskGroup() as tasks:
            for key in keys:
                pieces = [bytes([key.number]) * 10_000] * 30
                tasks.create_task(store.put(key, yield_chunks(pieces)))

        for key in keys:
            assert same_content(await self.raw_bytes(key), bytes([key.number]) * 300_000)

    @pytest.mark.parametrize("start", [0, 5])
    async def test_an_absent_part_is_missing(self, store: OutputStore, start: int) -> None:
        """O4."""
        with pytest.raises(PartMissing):
            await read_part(store, PART, start=start)

    @pytest.mark.parametrize("field", NEIGHBOURS)
    async def test_an_absent_part_is_missing_beside_a_similar_one(
        self, store: OutputStore, field: str
    ) -> None:
        """O4, O8."""
        await store_part(store, NEIGHBOURS[field], b"neighbour")

        with pytest.raises(PartMissing):
            await read_part(store, PART)

    async def test_a_discarded_part_is_missing_and_others_stay(self, store: OutputStore) -> None:
        """O4, O8."""
        await store_part(store, PART, b"superseded")
        for field, key in NEIGHBOURS.items():
            await store_part(store, key, field.encode())

        await store.discard(PART)
        await store.discard(PART)

        with pytest.raises(PartMissing):
            await read_part(store, PART)
        for field, key in NEIGHBOURS.items():
            assert await self.raw_bytes(key) == field.encode()

    async def test_delete_takes_everything_of_the_job(self, store: OutputStore) -> None:
        """O5."""
        for key in [PART, *NEIGHBOURS.values()]:
            await store_part(store, key, b"content")

        await store.delete(PART.tenant, PART.job_id)

        assert await self.raw_names(PART.tenant, PART.job_id) == []
        assert (PART.tenant, PART.job_id) not in await list_jobs(store)

    @pytest.mark.parametrize("other", OTHER_JOBS)
    async def test_delete_takes_nothing_of_other_jobs(
        self, store: OutputStore, other: str
    ) -> None:
        """O5, O8."""
        await store_part(store, PART, b"content")
        await store_part(store, OTHER_JOBS[other], b"other")

        await store.delete(PART.tenant, PART.job_id)

        assert await self.raw_bytes(OTHER_JOBS[other]) == b"other"

    async def test_delete_may_be_repeated(self, store: OutputStore) -> None:
        """O5."""
        await store.delete(PART.tenant, PART.job_id)
        await store_part(store, PART, b"content")
        await store.delete(PART.tenant, PART.job_id)
        await store.delete(PART.tenant, PART.job_id)

        await store_part(store, PART, b"again")

        assert await self.raw_bytes(PART) == b"again"

    async def test_a_put_overtaken_by_delete_is_whole_or_absent(self, store: OutputStore) -> None:
        """O1, O5."""
        gate = GatedChunks(b"a" * 3 * MIB, b"b")

        async with asyncio.TaskGroup() as tasks:
            putting = tasks.create_task(self._outcome_of_put(store, gate))
            await gate.reached()
            await store.delete(PART.tenant, PART.job_id)
            gate.open()

        if putting.result() is None:
            assert await self.raw_names(PART.tenant, PART.job_id) == []
        else:
            assert await self.raw_bytes(PART) == gate.whole
        await store.delete(PART.tenant, PART.job_id)
        assert await self.raw_names(PART.tenant, PART.job_id) == []

    async def test_every_job_with_output_is_listed_once(self, store: OutputStore) -> None:
        """O5, O8."""
        assert await list_jobs(store) == []
        for key in [PART, *NEIGHBOURS.values()]:
            await store_part(store, key, b"content")

        listed = await list_jobs(store)

        assert listed == [("clinic", "job-1"), ("clinic", "job-10"), ("clinic-2", "job-1")]

    async def test_memory_does_not_grow_with_the_part(self, store: OutputStore) -> None:
        """O6."""
        blocks = (os.urandom(MIB // 16) * 16 for _ in range(64))

        async with peak_allocation() as peak:
            part = await store.put(PART, yield_chunks(blocks))
            read = 0
            async for chunk in store.read(PART):
                read += len(chunk)

            assert read == part.size == 64 * MIB
            assert peak() < 24 * MIB

    @pytest.mark.parametrize(
        ("start", "end"),
        [
            (0, None),
            (0, 1),
            (1, 2),
            (0, 5 * MIB),
            (5 * MIB - 1, 5 * MIB),
            (5 * MIB - 1, None),
            (MIB - 1, MIB + 1),
            (1, 4 * MIB + 3),
            (MIB, 2 * MIB),
        ],
    )
    async def test_a_byte_range_is_read(
        self, store: OutputStore, start: int, end: int | None
    ) -> None:
        """O7."""
        content = os.urandom(5 * MIB)
        await store_part(store, PART, content)

        assert same_content(await read_part(store, PART, start=start, end=end), content[start:end])

    async def test_a_read_may_stop_early(self, store: OutputStore) -> None:
        """O7."""
        await store_part(store, PART, b"a" * 5 * MIB)

        async for _ in store.read(PART):
            break

        await store.delete(PART.tenant, PART.job_id)
        assert await self.raw_names(PART.tenant, PART.job_id) == []

    async def test_no_two_parts_share_a_place(self, store: OutputStore) -> None:
        """O8."""
        await store_part(store, PART, b"part")
        for field, key in NEIGHBOURS.items():
            await store_part(store, key, field.encode())

        assert await read_part(store, PART) == b"part"
        for field, key in NEIGHBOURS.items():
            assert await read_part(store, key) == field.encode()

    async def test_a_store_stays_with_its_owner(self, store: OutputStore) -> None:
        """O8."""
        await store.bind("first")
        await store.bind("first")
        another = await self.another(store)

        with pytest.raises(ConfigurationError, match="first"):
            await another.bind("second")

        await another.bind("first")
        assert await list_jobs(store) == []

    async def test_of_owners_that_come_at_once_one_wins(self, store: OutputStore) -> None:
        """O8."""
        owners = [f"owner-{number}" for number in range(8)]
        stores = [await self.another(store) for _ in owners]

        accepted = await asyncio.gather(
            *(_accepts(store, owner) for store, owner in zip(stores, owners, strict=True))
        )

        assert sum(accepted) == 1

    @pytest.mark.parametrize("compression", list(Compression))
    async def test_a_signed_url_gives_the_part_without_a_token(
        self, store: OutputStore, compression: Compression
    ) -> None:
        """`SupportsSignedURLs`."""
        self.needs(SupportsSignedURLs)
        assert isinstance(store, SupportsSignedURLs)
        key = msgspec.structs.replace(PART, compression=compression)
        packed = compression is Compression.GZIP
        await store_part(store, key, gzip.compress(b"content") if packed else b"content")

        [url] = await store.signed_urls([key], valid_for=timedelta(minutes=1))

        async with httpx.AsyncClient() as client:
            response = await client.get(url)
        assert response.content == b"content"
        assert response.headers["content-type"] == "application/fhir+ndjson"
        assert response.headers.get("content-encoding") == ("gzip" if packed else None)
        assert PART.name in response.headers["content-disposition"]

    async def test_signed_urls_come_in_order_and_name_the_part_before_the_query(
        self, store: OutputStore
    ) -> None:
        """`SupportsSignedURLs`."""
        self.needs(SupportsSignedURLs)
        assert isinstance(store, SupportsSignedURLs)
        keys = [PART, *NEIGHBOURS.values()]

        first = await store.signed_urls(keys, valid_for=timedelta(minutes=1))
        second = await store.signed_urls(keys[::-1], valid_for=timedelta(minutes=9))

        addresses = [url.partition("?")[0] for url in first]
        assert len(set(addresses)) == len(keys)
        assert addresses == [url.partition("?")[0] for url in second][::-1]
        assert await store.signed_urls([], valid_for=timedelta(minutes=1)) == []

    async def _outcome_of_put(self, store: OutputStore, gate: GatedChunks) -> StoredPart | None:
        try:
            return await store.put(PART, gate.chunks())
        except BackendUnavailable:
            return None


async def _accepts(store: OutputStore, owner: str) -> bool:
    try:
        await store.bind(owner)
    except ConfigurationError:
        return False
    return True
