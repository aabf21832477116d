"""Clauses P6 and P9: damaged and lost data is reported."""

from collections.abc import Sequence

import pytest

from helios_core import (
    BackendError,
    DataProvider,
    ExportRequest,
    Level,
    SupportsTombstones,
    SupportsWrites,
)
from helios_core.testing.corpus import organization, patient
from helios_core.testing.data_provider.contract import (
    DataProviderContract,
    delete,
    names,
    write,
)
from helios_core.testing.snapshots import take_snapshot


class DamageClauses(DataProviderContract):
    """Damaged and lost resources, types and deletions."""

    async def test_a_damaged_resource_is_reported_while_others_flow(
        self, provider: DataProvider
    ) -> None:
        """P6: once, by type and id, with a reason, and without its content."""
        samples = [self.anything(f"p{number}", note="secret") for number in range(20)]
        await self.insert(provider, *samples)
        await self.damage(provider, samples[7].resource_type, samples[7].id)

        snapshot = await take_snapshot(
            provider, await self.view(provider), shard_bytes=1500, batch_bytes=500
        )

        assert snapshot.names == names(*samples[:7], *samples[8:])
        assert names(*snapshot.damaged) == [samples[7].name]
        assert snapshot.damaged[0].reason
        assert "secret" not in snapshot.damaged[0].reason

    async def test_a_damaged_resource_alone_in_its_shard_is_reported(
        self, provider: DataProvider
    ) -> None:
        """P6: even if its shard has no line to return with the report."""
        sample = self.anything("p1")
        await self.insert(provider, sample)
        await self.damage(provider, sample.resource_type, sample.id)

        snapshot = await take_snapshot(provider, await self.view(provider))

        assert (snapshot.names, names(*snapshot.damaged)) == ([], [sample.name])

    @pytest.mark.parametrize("level", [Level.SYSTEM, Level.PATIENT])
    @pytest.mark.parametrize("lost", [["p0"], ["p7", "p8"], ["p19"]])
    async def test_resources_that_are_gone_are_noticed(
        self, provider: DataProvider, level: Level, lost: Sequence[str]
    ) -> None:
        """P9: wherever they were, and whatever else is shown."""
        self.needs(SupportsWrites)
        await write(provider, *(patient(f"p{number}") for number in range(20)))
        await self.lose(provider, "Patient", lost)

        assert await self._is_noticed(provider, self.request(level=level))

    async def test_a_type_that_is_gone_is_noticed(self, provider: DataProvider) -> None:
        """P9: an export without it looks like one of a store that never had it."""
        self.needs(SupportsWrites)
        await write(provider, patient("p1"), patient("p2"), organization("x"))
        await self.lose(provider, "Patient", ["p1", "p2"])

        assert await self._is_noticed(provider, self.request())

    async def test_deletions_that_are_gone_are_noticed(self, provider: DataProvider) -> None:
        """P9: otherwise a client would keep deleted resources."""
        self.needs(SupportsWrites)
        self.needs(SupportsTombstones)
        await write(provider, patient("p1"), patient("p2"), patient("p3"))
        since = await provider.transaction_time()
        await write(provider, delete(patient("p1")), patient("p2", note="b"))
        await self.lose(provider, "Patient", ["p1"])

        assert await self._is_noticed(provider, self.request(since=since))

    async def _is_noticed(self, provider: DataProvider, request: ExportRequest) -> bool:
        try:
            snapshot = await take_snapshot(provider, await self.view(provider, request))
        except BackendError:
            return True
        return bool(snapshot.damaged)
