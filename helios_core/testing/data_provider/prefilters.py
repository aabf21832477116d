"""SupportsPrefilter: an index leaves out nothing that matches, and changes nothing else."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import msgspec
import pytest

from helios_core import (
    Batch,
    Damaged,
    DataProvider,
    ExportView,
    Level,
    Shard,
    SupportsPrefilter,
    SupportsWrites,
)
from helios_core.fhir import FHIRVersion, Filter, Resource, any_filter, compile_query
from helios_core.testing import corpus
from helios_core.testing.corpus import measurement, patient, request, view
from helios_core.testing.data_provider.contract import (
    DataProviderContract,
    delete,
    stamp_of,
    view_everything,
    write,
)
from helios_core.testing.snapshots import BATCH_BYTES, read_batches

Pairs = Sequence[tuple[str, str]]

CODES = ("weight", "height", "Pulse")
DAYS = ("2020", "2020-02", "2020-02-28", "2020-02-28T23:59:59.5Z", "2021-03-01T10:00:00+02:00")

SEARCHES: Sequence[Sequence[Pairs]] = [
    [[("status", "final")]],
    [[("status", "final,amended")]],
    [[("code", "weight")]],
    [[("code", "https://codes.example.org|weight")]],
    [[("code", "https://elsewhere.example.org|weight")]],
    [[("code", "PULSE")]],
    [[("code", "nothing-like-it")]],
    [[("subject", "p1")]],
    [[("subject", "Patient/p1,Patient/p2")]],
    [[("patient", "p3")]],
    [[("date", "2020")]],
    [[("date", "2020-02-28")]],
    [[("date", "ne2020-02-28")]],
    [[("date", "gt2020-02-28")]],
    [[("date", "lt2020-02-28")]],
    [[("date", "ge2020-02-28"), ("date", "le2021-03-01")]],
    [[("date", "sa2020-02-28"), ("date", "eb2021-06")]],
    [[("date", "ap2020-02-28")]],
    [[("_id", "m3,m5,x")]],
    [[("_id", "m3,m5"), ("status", "final")]],
    [[("_lastUpdated", "ge2020"), ("code", "height")]],
    [[("_lastUpdated", "lt2020")]],
    [[("status", "final"), ("code", "weight"), ("subject", "p1"), ("date", "ge2020-02")]],
    [[("status", "final"), ("code", "weight")], [("subject", "p2")]],
    [[("subject", "p2"), ("date", "2020-02-28")], [("_id", "m0")], [("_lastUpdated", "lt2020")]],
    [[("status:not", "final"), ("subject", "p1")]],
    [[("code:text", "weight"), ("status", "amended")]],
]
"""Searches of measurements: each is a list of alternatives, whose pairs must all match."""


ENDS_OF_TIME = (
    "0001",
    "0001-01-01T00:00:00+14:00",
    "9999",
    "9999-12",
    "9999-12-31",
    "9999-12-31T23:59",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59.999Z",
    "9999-12-31T23:59:59-05:00",
    "9999-12-31T23:59:60Z",
)
"""Valid dates whose first or last microsecond is out of range in some representations."""

PREFIXES = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")

SEARCHES_AT_THE_ENDS: Sequence[Sequence[Pairs]] = [
    [[(code, f"{prefix}{day}")]]
    for code in ("date", "_lastUpdated")
    for prefix in PREFIXES
    for day in ENDS_OF_TIME
]


def measurements_at_the_ends() -> list[Resource]:
    """Return a measurement at each of `ENDS_OF_TIME`, and one on an ordinary day."""
    days = (*ENDS_OF_TIME, "2020-02-28")
    return [
        measurement(f"m{number}", "p1", status="final", code="weight", day=day)
        for number, day in enumerate(days)
    ]


def measurements(count: int = 60) -> list[Resource]:
    """Return measurements of four patients, in all mixtures of status, code and day."""
    return [
        measurement(
            f"m{number}",
            f"p{number % 4}",
            status=("final", "amended", "registered")[number * 7 % 3],
            code=CODES[number // 3 % 3],
            day=DAYS[number * 3 % 5],
        )
        for number in range(count)
    ]


def compile_searches(alternatives: Sequence[Pairs], resource_type: str = "Observation") -> Filter:
    """Return the filter of resources that satisfy at least one of the alternatives."""
    compiled = [compile_query(corpus.VERSION, resource_type, pairs) for pairs in alternatives]
    return any_filter(compiled)


def compile_all(searches: Iterable[Sequence[Pairs]]) -> list[Filter]:
    """Return the filters of searches of measurements."""
    return [compile_searches(alternatives) for alternatives in searches]


class PrefilterClauses(DataProviderContract):
    """The power to narrow what is read."""

    async def test_candidates_hold_every_match(self, provider: DataProvider) -> None:
        """P5, SupportsPrefilter: as evaluated on all lines, which are read without an index."""
        self.needs(SupportsPrefilter)
        await self.seed(provider, *measurements(), patient("p1"))

        sifted = await sift_all(provider, await view_everything(provider), compile_all(SEARCHES))

        for alternatives, found in zip(SEARCHES, sifted, strict=True):
            assert found.matches == found.expected, alternatives

    async def test_candidates_hold_every_match_at_the_ends_of_time(
        self, provider: DataProvider
    ) -> None:
        """P5, SupportsPrefilter: for dates in the first and the last year, with every prefix."""
        self.needs(SupportsPrefilter)
        await self.seed(provider, *measurements_at_the_ends())
        shown = await view_everything(provider)

        sifted = await sift_all(provider, shown, compile_all(SEARCHES_AT_THE_ENDS))

        for alternatives, found in zip(SEARCHES_AT_THE_ENDS, sifted, strict=True):
            assert found.matches == found.expected, alternatives

    async def test_candidates_hold_what_came_without_terms(self, provider: DataProvider) -> None:
        """P5, SupportsPrefilter: if `Resource.terms` is None, the store computes them."""
        self.needs(SupportsPrefilter)
        without_terms = [msgspec.structs.replace(each, terms=None) for each in measurements()]
        await self.seed(provider, *without_terms)
        everything = await view_everything(provider)

        for found in await sift_all(provider, everything, compile_all(SEARCHES)):
            assert found.matches == found.expected
            assert len(found.lines) == len(without_terms)

    async def test_candidates_are_what_a_shard_shows_in_its_order(
        self, provider: DataProvider
    ) -> None:
        """P3, SupportsPrefilter: nothing twice, nothing of another shard, nothing made up."""
        self.needs(SupportsPrefilter)
        await self.seed(provider, *measurements())

        found = await sift_candidates(
            provider, await view_everything(provider), compile_searches([[("code", "height")]])
        )

        assert found.shards > 1
        positions = [found.lines.index(line) for line in found.candidates]
        assert positions == sorted(set(positions))

    async def test_batches_of_candidates_hold_no_more_bytes_than_requested(
        self, provider: DataProvider
    ) -> None:
        """P3, SupportsPrefilter: unless one resource alone is larger."""
        self.needs(SupportsPrefilter)
        await self.seed(provider, *measurements())
        everything = compile_searches([[("status", "final,amended,registered")]])

        found = await sift_candidates(
            provider, await view_everything(provider), everything, batch_bytes=700
        )

        assert found.matches == found.expected == found.lines
        assert all(
            len(batch.lines) == 1 or sum(map(len, batch.lines)) <= 700
            for batch in found.batches
            if batch.lines
        )

    async def test_candidates_are_those_of_the_transaction_time(
        self, provider: DataProvider
    ) -> None:
        """P3, SupportsPrefilter: superseded since, deleted since or written since."""
        self.needs(SupportsPrefilter)
        self.needs(SupportsWrites)
        before, after = measurements(20), measurements(30)
        await write(provider, *before)
        then = await view_everything(provider)
        changed = [
            measurement(each.id, "p9", status="amended", code="height", day="2019")
            for each in before[:6]
        ]
        await write(provider, *changed, *map(delete, before[6:12]), *after[20:])
        now = await view_everything(provider)

        for shown in (then, now):
            for found in await sift_all(provider, shown, compile_all(SEARCHES)):
                assert found.matches == found.expected

    async def test_candidates_follow_the_period_of_the_view(self, provider: DataProvider) -> None:
        """P3, SupportsPrefilter: `since` and `until` hold as without an index."""
        self.needs(SupportsPrefilter)
        self.needs(SupportsWrites)
        first, second, third = (measurements(60)[start : start + 20] for start in (0, 20, 40))
        since = await stamp_of(provider, *first)
        await write(provider, *second)
        until = await stamp_of(provider, *third)

        period = request(since=since, until=until)
        shown = view(await provider.transaction_time(), period)
        found = await sift_candidates(provider, shown, compile_searches([[("status", "final")]]))

        assert found.matches == found.expected
        assert len(found.lines) == len(second)

    @pytest.mark.parametrize("patients", [None, (), ("p1",), ("p1", "p3", "nobody")])
    async def test_candidates_stay_in_level_and_cohort(
        self, provider: DataProvider, patients: Collection[str] | None
    ) -> None:
        """P4, SupportsPrefilter: resources outside are no candidates."""
        self.needs(SupportsPrefilter)
        outside = [corpus.observation(f"o{number}") for number in range(10)]
        await self.seed(provider, *measurements(), *outside)
        level = Level.PATIENT if patients is None else Level.GROUP
        shown = view(await provider.transaction_time(), request(level=level), patients=patients)

        for found in await sift_all(provider, shown, compile_all(SEARCHES)):
            assert found.matches == found.expected
            assert {*found.candidates} <= {*found.lines}

    async def test_a_damaged_candidate_is_reported(self, provider: DataProvider) -> None:
        """P6, SupportsPrefilter: because it is unknown whether it matches."""
        self.needs(SupportsPrefilter)
        await self.seed(provider, *measurements())
        await self.damage(provider, "Observation", "m7")

        searches = compile_all([*alternatives, [("_id", "m7")]] for alternatives in SEARCHES)
        for found in await sift_all(provider, await view_everything(provider), searches):
            assert [each.id for each in found.damaged] == ["m7"]
            assert found.matches == found.expected

    async def test_candidates_stay_in_tenant_and_version(self, provider: DataProvider) -> None:
        """P7, SupportsPrefilter: an index does not lead into another one."""
        self.needs(SupportsPrefilter)
        r5 = FHIRVersion.R5
        ours, theirs = measurements(10), measurements(40)
        await self.seed(provider, *ours)
        await self.seed(provider, *theirs, tenant=corpus.OTHER_TENANT)
        await self.seed(provider, patient("p1", fhir_version=r5), fhir_version=r5)

        shown = await view_everything(provider)
        for found in await sift_all(provider, shown, compile_all(SEARCHES)):
            assert found.matches == found.expected
            assert len(found.lines) == len(ours)

    async def test_what_nobody_stored_has_no_candidates(self, provider: DataProvider) -> None:
        """P7, SupportsPrefilter: without an index of its own, a tenant uses no other one."""
        self.needs(SupportsPrefilter)
        assert isinstance(provider, SupportsPrefilter)
        await self.seed(provider, *measurements(10))
        empty = view(await provider.transaction_time(), request(tenant="nobody"))
        shard = Shard(number=0, resource_type="Observation", ordinal=1)

        for condition in compile_all(SEARCHES):
            prefilter = condition.prefilter()
            if prefilter is not None:
                read = provider.read_candidates(empty, shard, prefilter, batch_bytes=1000)
                assert [line async for batch in read for line in batch.lines] == []

    async def test_candidates_outlive_a_restart(self, tmp_path: Path) -> None:
        """P5, SupportsPrefilter: an index is as durable as the resources."""
        self.needs(SupportsPrefilter)
        self.needs_persistence()
        async with self.opened(tmp_path) as provider:
            await self.seed(provider, *measurements())

        async with self.opened(tmp_path) as provider:
            shown = await view_everything(provider)
            for found in await sift_all(provider, shown, compile_all(SEARCHES)):
                assert found.matches == found.expected
                assert len(found.lines) == len(measurements())


class Sifted:
    """The candidates that an index found in a view, and the matches that it must find."""

    def __init__(self, condition: Filter) -> None:
        self.condition = condition
        self.shards = 0
        self.lines: list[bytes] = []
        """All lines of the view, read without the index."""
        self.batches: list[Batch] = []

    @property
    def candidates(self) -> list[bytes]:
        """The lines that the provider read by its index."""
        return [line for batch in self.batches for line in batch.lines]

    @property
    def damaged(self) -> list[Damaged]:
        """The resources that the provider could not read."""
        return [each for batch in self.batches for each in batch.damaged]

    @property
    def matches(self) -> list[bytes]:
        """The candidates that match."""
        return [line for line in self.candidates if self.condition.matches(line)]

    @property
    def expected(self) -> list[bytes]:
        """The lines that match."""
        return [line for line in self.lines if self.condition.matches(line)]


async def sift_candidates(
    provider: DataProvider,
    shown: ExportView,
    condition: Filter,
    *,
    batch_bytes: int = BATCH_BYTES,
) -> Sifted:
    """Read what a view shows of a filter's type, with and without the index."""
    [found] = await sift_all(provider, shown, [condition], batch_bytes=batch_bytes)
    return found


async def sift_all(
    provider: DataProvider,
    shown: ExportView,
    conditions: Sequence[Filter],
    *,
    batch_bytes: int = BATCH_BYTES,
) -> list[Sifted]:
    """Read a view once without the index, and once with it for each filter."""
    assert isinstance(provider, SupportsPrefilter)
    sifted = [Sifted(condition) for condition in conditions]
    for shard in await provider.plan(shown, shard_bytes=2000):
        of_type = [each for each in sifted if each.condition.resource_type == shard.resource_type]
        read = await read_batches(provider, shown, shard) if of_type else []
        for found in of_type:
            found.shards += 1
            found.lines += [line for batch in read for line in batch.lines]
            if (prefilter := found.condition.prefilter()) is None:
                found.batches += read
                continue
            found.batches += [
                batch
                async for batch in provider.read_candidates(
                    shown, shard, prefilter, batch_bytes=batch_bytes
                )
            ]
    return sifted
