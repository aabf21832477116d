"""Shared by the suites of extensions: selecting, opening and closing as the server does."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import click
import pytest

from helios_core import Backends, ConfigurationError
from helios_core.config.descriptors import KINDS, descriptor_problems
from helios_core.config.extensions import SelectedExtension
from helios_core.config.plugins import InstalledPlugin
from helios_core.memory import MemoryDataProvider, MemoryJobStore, MemoryOutputStore
from helios_core.storage.backends import Descriptor
from helios_core.testing.suites import ContractSuite

PLUGIN = "tested"
"""The name under which a suite runs a plugin."""


class ExtensionSuite(ContractSuite):
    """
    What a subclass of every suite of an extension implements.

    A subclass implements the fixture `extension`, which returns what the plugin's hook returns,
    and sets the `settings` with which it works in the tests.
    """

    hook: ClassVar[str]
    """The hook; set by the suite."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """The fields of the extension's settings; set by the subclass."""

    @pytest.fixture
    def extension(self) -> Any:  # noqa: ANN401  the descriptor of the suite's hook
        """Return what the plugin's hook returns; the subclass overrides this."""
        raise NotImplementedError(f"{type(self).__name__} needs the fixture `extension`")

    @pytest.fixture
    def selected(self, extension: Descriptor) -> SelectedExtension:
        """Return the extension with its settings, in the form in which the server selects it."""
        return SelectedExtension(
            origin=InstalledPlugin(name=PLUGIN, module="", distribution=PLUGIN, version="0"),
            extension=extension,
            settings=extension.settings(**self.settings),
        )

    @pytest.fixture
    def backends(self) -> Backends:
        """Return empty backends in memory."""
        return Backends(
            data_provider=MemoryDataProvider(),
            job_store=MemoryJobStore(),
            output_store=MemoryOutputStore(),
            announce=lambda _: None,
        )

    @pytest.fixture
    async def stack(self) -> AsyncIterator[AsyncExitStack]:
        """Open a stack that is closed when the test ends."""
        async with AsyncExitStack() as stack:
            yield stack

    async def test_the_server_takes_the_descriptor(self, extension: object) -> None:
        """A wrong descriptor would keep the server from starting."""
        problems = list(descriptor_problems(self.hook, extension, plugin=PLUGIN))

        assert problems == [], f"the {KINDS[self.hook][0]} of the plugin cannot be used"


class Misconfigured:
    """A host of commands without any configuration."""

    def settings(self) -> Any:  # noqa: ANN401  as `CommandHost` declares it
        """Raise the error of a missing setting."""
        raise ConfigurationError("nothing is configured")

    def open_backends(self) -> Any:  # noqa: ANN401  as `CommandHost` declares it
        """Raise the error of a configuration that cannot be used."""
        raise ConfigurationError("nothing is configured")

    def run(self, work: Any) -> Any:  # noqa: ANN401  as `CommandHost` declares it
        """Run a coroutine on an event loop of its own, as a command does."""
        return asyncio.run(work)

    def print_table(self, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table as tab-separated values, as to a file."""
        for row in (headings, *rows):
            click.echo("\t".join(row))
