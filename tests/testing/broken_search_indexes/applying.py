"""I1, I2: which entry of a resource stays, and who sees it when."""

import asyncio
import copy

from helios_core.memory import MemorySearchIndex
from tests.testing.on_memory import OnMemoryIndex


class LastWins(MemorySearchIndex):
    """What comes last stays, however old it is."""

    async def apply(self, dataset, epoch, entries):
        if self._is_current(dataset, epoch):
            self._entries[dataset] |= {(each.resource_type, each.id): each for each in entries}


class TestLastWins(OnMemoryIndex):
    subject_class = LastWins
    caught_by = (
        "test_the_highest_version_stays_in_any_order",
        "test_the_highest_version_of_one_call_stays",
        "test_the_highest_version_stays_of_many_calls_at_once",
        "test_an_older_version_does_not_revive_what_was_deleted",
        "test_an_index_that_is_down_says_so",
    )


class ForgetsDeletions(MemorySearchIndex):
    """What is deleted is removed, so that an older version can come back."""

    async def apply(self, dataset, epoch, entries):
        await super().apply(dataset, epoch, entries)
        kept = self._entries.get(dataset, {})
        for entry in entries:
            if entry.terms is None:
                kept.pop((entry.resource_type, entry.id), None)


class TestForgetsDeletions(OnMemoryIndex):
    subject_class = ForgetsDeletions
    caught_by = (
        "test_what_is_applied_again_changes_nothing",
        "test_an_older_version_does_not_revive_what_was_deleted",
        "test_what_was_applied_outlives_a_process",
        "test_what_changed_later_is_found_whatever_it_is",
        "test_types_are_kept_apart",
        "test_an_index_that_is_down_says_so",
    )


class LooksBeforeItWaits(MemorySearchIndex):
    """Reads what is there, waits, and then writes what it thought of."""

    async def apply(self, dataset, epoch, entries):
        if not self._is_current(dataset, epoch):
            return
        draft = MemorySearchIndex()
        draft._states, draft._entries = self._states, {dataset: dict(self._entries[dataset])}
        await draft.apply(dataset, epoch, entries)
        await asyncio.sleep(0)
        self._entries[dataset] = draft._entries[dataset]


class TestLooksBeforeItWaits(OnMemoryIndex):
    subject_class = LooksBeforeItWaits
    caught_by = (
        "test_the_highest_version_stays_of_many_calls_at_once",
        "test_an_index_that_is_down_says_so",
    )


class CountsApplications(MemorySearchIndex):
    """Applying twice makes two entries of a size."""

    def __init__(self):
        super().__init__()
        self._applied = 0

    async def apply(self, dataset, epoch, entries):
        await super().apply(dataset, epoch, entries)
        self._applied += len(entries)

    async def size(self, dataset, epoch):
        return self._applied if await super().size(dataset, epoch) else 0


class TestCountsApplications(OnMemoryIndex):
    subject_class = CountsApplications
    caught_by = (
        "test_what_is_applied_again_changes_nothing",
        "test_an_older_version_does_not_revive_what_was_deleted",
        "test_what_was_applied_is_seen_at_once_by_every_process",
        "test_what_was_applied_outlives_a_process",
        "test_datasets_are_kept_apart",
        "test_an_index_that_is_down_says_so",
    )


class SeesItsOwn(MemorySearchIndex):
    """What other processes apply is seen after a restart only."""


class TestSeesItsOwn(OnMemoryIndex):
    subject_class = SeesItsOwn
    caught_by = (
        "test_what_was_applied_is_seen_at_once_by_every_process",
        "test_an_index_that_is_down_says_so",
    )

    def share(self, index, other):
        other._states, other._entries = index._states, copy.deepcopy(index._entries)


class ForgetsAtTheEnd(MemorySearchIndex):
    """Entries end with the process."""


class TestForgetsAtTheEnd(OnMemoryIndex):
    subject_class = ForgetsAtTheEnd
    caught_by = (
        "test_what_was_applied_is_seen_at_once_by_every_process",
        "test_what_was_applied_outlives_a_process",
        "test_an_index_that_is_down_says_so",
    )

    def share(self, index, other):
        """Share nothing."""


class IsDownInSilence(MemorySearchIndex):
    """An index that cannot be reached has no entries."""


class TestIsDownInSilence(OnMemoryIndex):
    subject_class = IsDownInSilence
    caught_by = ("test_an_index_that_is_down_says_so",)

    def down(self, index):
        return super().down(self)
