"""Plugins installed for the length of a test, with real metadata on the import path."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Install = Callable[..., None]

PROVIDER_ONLY = """
from helios_core import hookimpl, memory

@hookimpl
def helios_data_provider():
    return memory.helios_data_provider()
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution with one plugin made of `source`."""
    count = iter(range(100))

    def installing(name: str, source: str = "", *, distribution: str = "") -> None:
        folder = tmp_path / f"site-{next(count)}"
        distribution = distribution or f"helios-{name}"
        module = distribution.replace("-", "_").lower()
        metadata = folder / f"{module}-1.2.dist-info"
        metadata.mkdir(parents=True)
        (folder / f"{module}.py").write_text(source)
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n"
        )
        (metadata / "entry_points.txt").write_text(f"[helios]\n{name} = {module}\n")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return installing
