"""I5 to I7: epochs, what was reached, and datasets."""

import asyncio

from msgspec.structs import replace

from helios_core.fhir.definitions import FHIRVersion
from helios_core.memory import MemorySearchIndex
from helios_core.storage.resource_keys import TypeKey
from helios_core.storage.search_index import Dataset, IndexState
from tests.testing.on_memory import OnMemoryIndex


class BeginsByItself(MemorySearchIndex):
    """The first entry begins an epoch."""

    async def apply(self, dataset, epoch, entries):
        if dataset not in self._states:
            await self.reset(dataset, epoch, expected=None)
        await super().apply(dataset, epoch, entries)


class TestBeginsByItself(OnMemoryIndex):
    subject_class = BeginsByItself
    caught_by = (
        "test_a_dataset_without_an_epoch_has_no_state",
        "test_an_index_that_is_down_says_so",
    )


class KeepsMilliseconds(MemorySearchIndex):
    async def advance(self, dataset, epoch, *, reached, note=""):
        if reached is not None:
            reached = reached.replace(microsecond=reached.microsecond // 1000 * 1000)
        return await super().advance(dataset, epoch, reached=reached, note=note)


class TestKeepsMilliseconds(OnMemoryIndex):
    subject_class = KeepsMilliseconds
    caught_by = (
        "test_what_was_applied_outlives_a_process",
        "test_what_was_reached_is_kept_to_the_microsecond",
        "test_what_was_reached_never_goes_back",
        "test_of_many_that_advance_at_once_the_latest_holds",
        "test_only_who_expects_the_present_epoch_ends_it",
        "test_an_index_that_is_down_says_so",
    )


class GoesBack(MemorySearchIndex):
    async def advance(self, dataset, epoch, *, reached, note=""):
        if not self._is_current(dataset, epoch):
            return False
        self._states[dataset] = IndexState(epoch=epoch, reached=reached, note=note)
        return True


class TestGoesBack(OnMemoryIndex):
    subject_class = GoesBack
    caught_by = (
        "test_what_was_reached_never_goes_back",
        "test_of_many_that_advance_at_once_the_latest_holds",
        "test_an_index_that_is_down_says_so",
    )


class TakesAnyNote(MemorySearchIndex):
    """The instant does not go back, but the note does."""

    async def advance(self, dataset, epoch, *, reached, note=""):
        present = await super().advance(dataset, epoch, reached=reached, note=note)
        if present:
            self._states[dataset] = replace(self._states[dataset], note=note)
        return present


class TestTakesAnyNote(OnMemoryIndex):
    subject_class = TakesAnyNote
    caught_by = (
        "test_what_was_reached_never_goes_back",
        "test_of_many_that_advance_at_once_the_latest_holds",
        "test_an_index_that_is_down_says_so",
    )


class AdvancesInTwoSteps(MemorySearchIndex):
    async def advance(self, dataset, epoch, *, reached, note=""):
        state = self._states.get(dataset)
        if state is None or state.epoch != epoch:
            return False
        behind = state.reached and (reached is None or reached < state.reached)
        await asyncio.sleep(0)
        if not behind:
            self._states[dataset] = IndexState(epoch=epoch, reached=reached, note=note)
        return True


class TestAdvancesInTwoSteps(OnMemoryIndex):
    subject_class = AdvancesInTwoSteps
    caught_by = (
        "test_of_many_that_advance_at_once_the_latest_holds",
        "test_an_index_that_is_down_says_so",
    )


class ResetsInTwoSteps(MemorySearchIndex):
    async def reset(self, dataset, epoch, *, expected):
        state = self._states.get(dataset)
        await asyncio.sleep(0)
        present = state.epoch if state else None
        if present == expected:
            self._states[dataset] = IndexState(epoch=epoch)
            self._entries[dataset] = {}
            return self._states[dataset]
        return state


class TestResetsInTwoSteps(OnMemoryIndex):
    subject_class = ResetsInTwoSteps
    caught_by = (
        "test_of_many_that_end_an_epoch_at_once_one_does",
        "test_an_index_that_is_down_says_so",
    )


class AnyoneResets(MemorySearchIndex):
    async def reset(self, dataset, epoch, *, expected):
        state = self._states.get(dataset)
        return await super().reset(dataset, epoch, expected=state and state.epoch)


class TestAnyoneResets(OnMemoryIndex):
    subject_class = AnyoneResets
    caught_by = (
        "test_only_who_expects_the_present_epoch_ends_it",
        "test_of_many_that_end_an_epoch_at_once_one_does",
        "test_an_index_that_is_down_says_so",
    )


class KeepsEntries(MemorySearchIndex):
    """A new epoch has the entries of the last one."""

    async def reset(self, dataset, epoch, *, expected):
        kept = self._entries.get(dataset, {})
        state = await super().reset(dataset, epoch, expected=expected)
        self._entries[dataset] = kept
        return state


class TestKeepsEntries(OnMemoryIndex):
    subject_class = KeepsEntries
    caught_by = (
        "test_a_new_epoch_has_nothing_of_the_last_one",
        "test_an_index_that_is_down_says_so",
    )


class TakesEveryEpoch(MemorySearchIndex):
    """What comes late for an epoch is taken for the present one."""

    async def apply(self, dataset, epoch, entries):
        state = self._states.get(dataset)
        await super().apply(dataset, state.epoch if state else epoch, entries)


class TestTakesEveryEpoch(OnMemoryIndex):
    subject_class = TakesEveryEpoch
    caught_by = (
        "test_a_new_epoch_has_nothing_of_the_last_one",
        "test_an_index_that_is_down_says_so",
    )


class _OneFor(MemorySearchIndex):
    """Takes several datasets for one."""

    def one(self, dataset):
        return dataset

    async def state(self, dataset):
        return await super().state(self.one(dataset))

    async def reset(self, dataset, epoch, *, expected):
        return await super().reset(self.one(dataset), epoch, expected=expected)

    async def apply(self, dataset, epoch, entries):
        await super().apply(self.one(dataset), epoch, entries)

    async def advance(self, dataset, epoch, *, reached, note=""):
        return await super().advance(self.one(dataset), epoch, reached=reached, note=note)

    def _of_type(self, key, epoch):
        dataset = self.one(Dataset(key.tenant, key.fhir_version))
        return super()._of_type(TypeKey(*dataset_fields(dataset), key.resource_type), epoch)


def dataset_fields(dataset):
    return dataset.tenant, dataset.fhir_version


class TakesVersionsForOne(_OneFor):
    def one(self, dataset):
        return Dataset(dataset.tenant, FHIRVersion.R4)


class TestTakesVersionsForOne(OnMemoryIndex):
    subject_class = TakesVersionsForOne
    caught_by = (
        "test_datasets_are_kept_apart",
        "test_an_index_that_is_down_says_so",
    )


class NamesTenantsInSmallLetters(_OneFor):
    def one(self, dataset):
        return Dataset(dataset.tenant.lower(), dataset.fhir_version)


class TestNamesTenantsInSmallLetters(OnMemoryIndex):
    subject_class = NamesTenantsInSmallLetters
    caught_by = (
        "test_datasets_are_kept_apart",
        "test_an_index_that_is_down_says_so",
    )
