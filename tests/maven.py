"""Libraries of Java from Maven Central, with all that they need."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import click

from tests.services import absent
from tests.shared_servers import CACHE

_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"


def is_installed() -> bool:
    """Return whether this machine has Java and Maven."""
    return all(map(shutil.which, ("mvn", "java")))


class Jars(NamedTuple):
    """One version of libraries (`group:name`), in a folder of the user's cache."""

    name: str
    version: str
    artifacts: Sequence[str]
    megabytes: int
    """How large the download is."""

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.name} {self.version}"

    @property
    def folder(self) -> Path:
        """The folder that has the jars of the libraries, and of what they need."""
        return CACHE / self.title.lower().replace(" ", "-")

    def install(self) -> None:
        """Get the jars, unless they are there, and report what happens."""
        if self._are_installed():
            click.echo(f"{self.title} is in {self.folder} already.")
            return
        if not is_installed():
            click.echo(
                f"Java or Maven is not installed, so there is no {self.title}: its tests are"
                " skipped."
            )
            return
        click.echo(
            f"Installing {self.title} into {self.folder}: a download of {self.megabytes} MB."
        )
        try:
            _copy(self)
        except subprocess.CalledProcessError:
            # The empty folder records that it was tried.
            self.folder.mkdir(exist_ok=True)
            click.echo(f"Maven could not get {self.title}, so its tests are skipped.")

    def require(self, advice: str = "") -> None:
        """Skip or fail a test, as `absent` does, if they are not installed."""
        if not self._are_installed():
            absent(
                f"there is no {self.title}: `make services` installs it where there are Java and"
                f" Maven{advice}",
                obtainable=is_installed() and not self.folder.exists(),
            )

    def _are_installed(self) -> bool:
        return any(self.folder.glob("*.jar"))


def _copy(jars: Jars) -> None:
    """
    Copy jars into the folder.

    Raises:
        CalledProcessError: Maven has not got them; it has printed why.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        (folder / "pom.xml").write_text(_project(jars.artifacts, jars.version))
        copy = ["mvn", "-q", "-B", "-Dstyle.color=never", _COPY, "-DincludeScope=runtime"]
        subprocess.run([*copy, f"-DoutputDirectory={folder / 'lib'}"], check=True, cwd=folder)
        with suppress(OSError):  # somebody else was quicker
            (folder / "lib").rename(jars.folder)


def _project(artifacts: Sequence[str], version: str) -> str:
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>"
        f"<version>{version}</version></dependency>"
        for group, artifact in (name.split(":") for name in artifacts)
    )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>helios</groupId><artifactId>tests</artifactId><version>1</version>"
        f"<dependencies>{dependencies}</dependencies></project>"
    )
