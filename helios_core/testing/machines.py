"""Run state machines on backends: each run has an event loop and a backend of its own."""

import asyncio
import tempfile
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from helios_core.testing.suites import ContractSuite

B = TypeVar("B")
T = TypeVar("T")


class BackendMachine(RuleBasedStateMachine, Generic[B]):
    """Takes random steps on a backend that `opened` opens, and on a model of it."""

    runs: ClassVar[int] = 60
    """How many histories are tried, each on a new backend."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="helios-")
        self._runner = asyncio.Runner()
        self._context = self.opened(Path(self._folder.name))
        self.backend = self.run(self._context.__aenter__())

    def opened(self, folder: Path) -> AbstractAsyncContextManager[B]:
        """Open a new backend in the folder."""
        raise NotImplementedError

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        """Run one step to its end."""
        return self._runner.run(step)

    def teardown(self) -> None:
        """Close the backend and remove its folder."""
        try:
            self.run(self._context.__aexit__(None, None, None))
        finally:
            self._runner.close()
            self._folder.cleanup()


def drive(machine: type[BackendMachine[B]], suite: ContractSuite) -> None:
    """Run a state machine on the backend of a suite, with at most 40 steps in each run."""
    bound = type(machine.__name__, (machine,), {"suite": suite})
    run_state_machine_as_test(
        bound,
        settings=settings(
            max_examples=machine.runs,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
