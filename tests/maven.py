"""Libraries of Java from Maven Central, with all that they need."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.shared_servers import CACHE

_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"


def is_installed() -> bool:
    """Return whether this machine has Java and Maven."""
    return all(map(shutil.which, ("mvn", "java")))


def copy_jars(artifacts: Sequence[str], version: str, target: Path) -> None:
    """
    Copy the jars of artifacts (`group:name`), and of what they need, into a new folder.

    Raises:
        CalledProcessError: Maven has not got them; it has printed why.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        (folder / "pom.xml").write_text(_project(artifacts, version))
        copy = ["mvn", "-q", "-B", "-Dstyle.color=never", _COPY, "-DincludeScope=runtime"]
        subprocess.run([*copy, f"-DoutputDirectory={folder / 'lib'}"], check=True, cwd=folder)
        with suppress(OSError):  # somebody else was quicker
            (folder / "lib").rename(target)


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
