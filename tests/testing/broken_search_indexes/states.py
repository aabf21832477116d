"""I5 to I7: epochs, what was reached, and scopes."""

import asyncio

from msgspec.structs import replace

from helios_core.fhir.definitions import FHIRVersion
from helios_core.memory import MemorySearchIndex
from helios_core.storage.resource_keys import TypeKey
from helios_core.storage.search_index import IndexScope, IndexState
from tests.testing.on_memory import OnMemoryIndex


class BeginsByItself(MemorySearchIndex):
    """The first entry begins an epoch."""

    async def apply(self, scope, epoch, entries):
        if scope not in self._states:
            await self.reset(scope, epoch, expected=None)
        await super().apply(scope, epoch, entries)


class TestBeginsByItself(OnMemoryIndex):
    subject_class = BeginsByItself
    caught_by = (
        "test_a_scope_without_an_epoch_has_no_state",
        "test_an_index_that_is_down_says_so",
    )


class KeepsMilliseconds(MemorySearchIndex):
    async def advance(self, scope, epoch, *, reached, note=""):
        if reached is not None:
            reached = reached.replace(microsecond=reached.microsecond // 1000 * 1000)
        return await super().advance(scope, epoch, reached=reached, note=note)


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
    async def advance(self, scope, epoch, *, reached, note=""):
        if not self._is_current(scope, epoch):
            return False
        self._states[scope] = IndexState(epoch=epoch, reached=reached, note=note)
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

    async def advance(self, scope, epoch, *, reached, note=""):
        present = await super().advance(scope, epoch, reached=reached, note=note)
        if present:
            self._states[scope] = replace(self._states[scope], note=note)
        return present


class TestTakesAnyNote(OnMemoryIndex):
    subject_class = TakesAnyNote
    caught_by = (
        "test_what_was_reached_never_goes_back",
        "test_of_many_that_advance_at_once_the_latest_holds",
        "test_an_index_that_is_down_says_so",
    )


class AdvancesInTwoSteps(MemorySearchIndex):
    async def advance(self, scope, epoch, *, reached, note=""):
        state = self._states.get(scope)
        if state is None or state.epoch != epoch:
            return False
        behind = state.reached and (reached is None or reached < state.reached)
        await asyncio.sleep(0)
        if not behind:
            self._states[scope] = IndexState(epoch=epoch, reached=reached, note=note)
        return True


class TestAdvancesInTwoSteps(OnMemoryIndex):
    subject_class = AdvancesInTwoSteps
    caught_by = (
        "test_of_many_that_advance_at_once_the_latest_holds",
        "test_an_index_that_is_down_says_so",
    )


class ResetsInTwoSteps(MemorySearchIndex):
    async def reset(self, scope, epoch, *, expected):
        state = self._states.get(scope)
        await asyncio.sleep(0)
        present = state.epoch if state else None
        if present == expected:
            self._states[scope] = IndexState(epoch=epoch)
            self._entries[scope] = {}
            return self._states[scope]
        return state


class TestResetsInTwoSteps(OnMemoryIndex):
    subject_class = ResetsInTwoSteps
    caught_by = (
        "test_of_many_that_end_an_epoch_at_once_one_does",
        "test_an_index_that_is_down_says_so",
    )


class AnyoneResets(MemorySearchIndex):
    async def reset(self, scope, epoch, *, expected):
        state = self._states.get(scope)
        return await super().reset(scope, epoch, expected=state and state.epoch)


class TestAnyoneResets(OnMemoryIndex):
    subject_class = AnyoneResets
    caught_by = (
        "test_only_who_expects_the_present_epoch_ends_it",
        "test_of_many_that_end_an_epoch_at_once_one_does",
        "test_an_index_that_is_down_says_so",
    )


class KeepsEntries(MemorySearchIndex):
    """A new epoch has the entries of the last one."""

    async def reset(self, scope, epoch, *, expected):
        kept = self._entries.get(scope, {})
        state = await super().reset(scope, epoch, expected=expected)
        self._entries[scope] = kept
        return state


class TestKeepsEntries(OnMemoryIndex):
    subject_class = KeepsEntries
    caught_by = (
        "test_a_new_epoch_has_nothing_of_the_last_one",
        "test_an_index_that_is_down_says_so",
    )


class TakesEveryEpoch(MemorySearchIndex):
    """What comes late for an epoch is taken for the present one."""

    async def apply(self, scope, epoch, entries):
        state = self._states.get(scope)
        await super().apply(scope, state.epoch if state else epoch, entries)


class TestTakesEveryEpoch(OnMemoryIndex):
    subject_class = TakesEveryEpoch
    caught_by = (
        "test_a_new_epoch_has_nothing_of_the_last_one",
        "test_an_index_that_is_down_says_so",
    )


class _OneFor(MemorySearchIndex):
    """Takes several scopes for one."""

    def one(self, scope):
        return scope

    async def state(self, scope):
        return await super().state(self.one(scope))

    async def reset(self, scope, epoch, *, expected):
        return await super().reset(self.one(scope), epoch, expected=expected)

    async def apply(self, scope, epoch, entries):
        await super().apply(self.one(scope), epoch, entries)

    async def advance(self, scope, epoch, *, reached, note=""):
        return await super().advance(self.one(scope), epoch, reached=reached, note=note)

    def _of_type(self, key, epoch):
        scope = self.one(IndexScope(key.tenant, key.fhir_version))
        return super()._of_type(TypeKey(*scope_fields(scope), key.resource_type), epoch)


def scope_fields(scope):
    return scope.tenant, scope.fhir_version


class TakesVersionsForOne(_OneFor):
    def one(self, scope):
        return IndexScope(scope.tenant, FHIRVersion.R4)


class TestTakesVersionsForOne(OnMemoryIndex):
    subject_class = TakesVersionsForOne
    caught_by = (
        "test_scopes_are_kept_apart",
        "test_an_index_that_is_down_says_so",
    )


class NamesTenantsInSmallLetters(_OneFor):
    def one(self, scope):
        return IndexScope(scope.tenant.lower(), scope.fhir_version)


class TestNamesTenantsInSmallLetters(OnMemoryIndex):
    subject_class = NamesTenantsInSmallLetters
    caught_by = (
        "test_scopes_are_kept_apart",
        "test_an_index_that_is_down_says_so",
    )
