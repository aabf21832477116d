"""Load files of resources into a data provider."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

import msgspec

from helios_core.data_providers import SupportsWrites
from helios_core.fhir.versions import FHIRVersion


class Phase(StrEnum):
    """What a load is doing."""

    SCANNING = "scanning"
    """Looking for bundles, whose entries other resources may refer to."""
    LOADING = "loading"
    """Parsing and writing."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a load is; bytes are those on disk, compressed where the file is."""

    phase: Phase
    bytes_done: int
    bytes_total: int
    resources: int
    """Resources written so far, 0 while scanning."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One resource, or one whole file, that could not be loaded."""

    path: Path
    line: int | None
    """From 1; None for a file that holds a single document, or cannot be read."""
    entry: int | None
    """The index in the bundle's `entry`, from 0; None outside a bundle."""
    reason: str
    """What is wrong, without showing the content."""

    def __str__(self) -> str:
        line = f", line {self.line}" if self.line is not None else ""
        entry = f", entry {self.entry}" if self.entry is not None else ""
        return f"{self.path}{line}{entry}: {self.reason}"


class LoadSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a load did."""

    files: int
    read: int
    """Resources seen, bad ones included."""
    created: int
    updated: int
    unchanged: int
    deleted: int
    bad: int
    problems: tuple[Problem, ...]
    """The first of the bad ones, at most `MAX_PROBLEMS`."""
    unresolved: int
    """References to a `urn:` that no loaded bundle explains, kept as they are."""
    unresolved_distinct: int
    """How many different ones among them."""
    unresolved_by_file: tuple[tuple[Path, int], ...]
    """The files that hold them and how many each, in the order of loading."""
    stopped: bool
    """Whether a strict load stopped at its first bad resource."""
    seconds: float

    @property
    def rate(self) -> float:
        """Resources read per second."""
        return self.read / self.seconds if self.seconds else 0.0


MAX_PROBLEMS = 100
"""How many bad resources a summary describes one by one; the rest are counted."""


async def load(
    paths: Sequence[Path],
    provider: SupportsWrites,
    *,
    tenant: str,
    fhir_version: FHIRVersion,
    strict: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    base_urls: tuple[str, ...] = (),
) -> LoadSummary:
    """Load files, and the files in folders."""
    raise NotImplementedError
