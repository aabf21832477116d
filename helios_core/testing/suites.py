"""Shared by all contract suites: declared powers, and waivers instead of silent overrides."""

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest


class ContractSuite:
    """
    Tests that every implementation of one contract passes.

    A suite implements the fixture `subject`, which returns the opened implementation. A subclass
    states which optional powers the implementation claims; a test fails if one of them is absent,
    or another one is present. A subclass that replaces an inherited test must waive it with a
    reason, which is printed when the suite runs.
    """

    known_powers: ClassVar[frozenset[type]] = frozenset()
    """The protocols that the contract makes optional; set by the suite."""
    powers: ClassVar[frozenset[type]] = frozenset()
    """The protocols that the implementation claims; set by the subclass."""
    waivers: ClassVar[Mapping[str, str]] = {}
    """The reason why an inherited test is replaced, by its name; set by the subclass."""

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401 - passed on untouched
        """Raise TypeError for a subclass that replaces an inherited test without a reason."""
        super().__init_subclass__(**kwargs)
        replaced = _replaced_tests(cls)
        reasons = {name for name, reason in cls.waivers.items() if reason.strip()}
        if silent := sorted(replaced - reasons):
            raise TypeError(
                f"{cls.__name__} replaces {', '.join(silent)} without a reason; remove it,"
                " or state the reason in `waivers`"
            )
        if stale := sorted(cls.waivers.keys() - replaced):
            raise TypeError(
                f"{cls.__name__} waives {', '.join(stale)}, which it does not replace;"
                " remove the waiver"
            )

    def needs(self, power: type) -> None:
        """Skip a test about a power that the implementation does not claim."""
        if power not in self.powers:
            pytest.skip(f"{type(self).__name__} does not claim {power.__name__}")

    async def test_exactly_the_claimed_powers_are_present(self, subject: object) -> None:
        """A power is claimed if and only if it is present."""
        present = {power for power in self.known_powers if isinstance(subject, power)}

        assert _names(present) == _names(self.powers)

    async def test_waivers_are_printed(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The output of the run lists the inherited tests that were replaced."""
        for name, reason in sorted(self.waivers.items()):
            with capsys.disabled():
                print(f"\nwaived: {type(self).__name__}.{name}: {reason}")  # noqa: T201


def _replaced_tests(suite: type) -> set[str]:
    bodies = [vars(cls) for cls in suite.__mro__]
    tests = {name for body in bodies for name in body if name.startswith("test_")}
    return {name for name in tests if sum(name in body for body in bodies) > 1}


def _names(powers: frozenset[type] | set[type]) -> list[str]:
    return sorted(power.__name__ for power in powers)
