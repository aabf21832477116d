"""Environments of their own for the plugins of the documentation."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

SCRIPTS = Path(sysconfig.get_path("scripts"))
PUBLIC = {"helios_core", "helios_core.fhir", "helios_core.testing"}


class Elsewhere:
    """A copy of an example, built as a wheel and installed on top of this environment."""

    def __init__(self, folder: Path, example: Path) -> None:
        self.folder = folder
        self.source = folder / example.name
        shutil.copytree(example, self.source)
        environment = folder / "environment"
        self.run(sys.executable, "-m", "venv", "--without-pip", environment)
        self.python = environment / "bin/python"
        layer = next(environment.glob("lib/python*/site-packages")) / "layer.pth"
        layer.write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        wheels = folder / "wheels"
        build = ["build", "--quiet", "--offline", "--wheel", "--out-dir", wheels, self.source]
        self.run(SCRIPTS / "uv", *build)
        [wheel] = wheels.glob("*.whl")
        target = ["--quiet", "--offline", "--no-deps", "--python", self.python, wheel]
        self.run(SCRIPTS / "uv", "pip", "install", *target)
        self.helios = environment / "bin/helios"
        self.helios.write_text(
            f"#!{self.python}\nfrom helios_core.cli.commands import app\napp()\n"
        )
        self.helios.chmod(0o755)

    def run(self, *command: object, folder: Path | None = None, **settings: str) -> str:
        """Run a command to its good end, and give what it printed."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HFS_", "COV_"))}
        run = subprocess.run(
            list(map(str, command)),
            cwd=folder or self.folder,
            env=inherited | settings,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    def run_tests(self) -> str:
        """Run the example's own tests from its own folder."""
        options = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
        return self.run(self.python, "-m", "pytest", *options, folder=self.source)


def imported_from_helios(example: Path) -> set[str]:
    """Return the modules of Helios that the files of an example import."""
    names = set()
    for source in example.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
    return {name for name in names if name.partition(".")[0] == "helios_core"}
