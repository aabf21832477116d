"""Wheels of the core and its plugins, as they would be installed from an index."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.services import absent

ROOT = Path(__file__).parents[1]
PROJECTS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
UV = Path(sys.executable).with_name("uv")
NO_NETWORK = re.compile(r"failed to fetch|dns error|error sending request|network", re.IGNORECASE)


def read_project(folder: Path) -> dict[str, Any]:
    """Return the table `project` of a distribution."""
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


def uv(*arguments: str) -> None:
    """Run uv on what it has in its cache, and on the index only if that is not enough."""
    offline = _uv(*arguments, "--offline")
    if offline.returncode == 0:
        return
    online = _uv(*arguments)
    if online.returncode != 0 and NO_NETWORK.search(online.stderr):
        absent("the package index cannot be reached")
    assert online.returncode == 0, online.stderr


def _uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([UV, "--quiet", *arguments], capture_output=True, text=True, check=False)


def build_wheels(projects: Iterable[Path], folder: Path) -> dict[str, str]:
    """Build wheels into a folder and return their URLs by the names of their distributions."""
    if not UV.exists():
        absent("uv is not installed beside the interpreter; `make install` installs it")
    for project in projects:
        uv("build", "--wheel", "--out-dir", str(folder), str(project))
    names = {wheel.name.split("-")[0].replace("_", "-"): wheel for wheel in folder.glob("*.whl")}
    return {name: wheel.as_uri() for name, wheel in names.items()}


def install_wheels(environment: Path, wheels: Mapping[str, str], *requirements: str) -> Path:
    """
    Install requirements into a new environment and return its interpreter.

    Distributions with a wheel come from that, so that the index is not asked for them.
    """
    python = environment / "bin" / "python"
    uv("venv", "--allow-existing", "--python", sys.executable, str(environment))
    overrides = environment / "overrides.txt"
    required = {re.split(r"[\[ ]", requirement)[0] for requirement in requirements}
    overrides.write_text(
        "".join(f"{name} @ {url}\n" for name, url in wheels.items() if name not in required)
    )
    uv(
        *("pip", "install", "--python", str(python)),
        *("--constraint", str(ROOT / "constraints.txt"), "--override", str(overrides)),
        *requirements,
    )
    return python
