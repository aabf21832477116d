"""
The validator of HAPI FHIR for the tests: installed, and run on resources without a network.

    python -m tests.hapi_validator

installs it from Maven Central into the user's cache folder and reports what it does.
"""

import subprocess
from collections.abc import Iterable
from pathlib import Path

import click

from helios_core.fhir.definitions import FHIRVersion
from tests import maven
from tests.services import absent
from tests.shared_servers import CACHE

VERSION = "8.8.0"
HAPI = CACHE / f"hapi-validator-{VERSION}"
NO_HAPI = (
    f"there is no validator of HAPI FHIR {VERSION}: `make services` installs it where there are"
    " Java and Maven"
)
VERSIONS = (FHIRVersion.R4, FHIRVersion.R4B, FHIRVersion.R5)
"""HAPI has no R6 yet."""

_LAUNCHER = Path(__file__).with_name("HapiValidator.java")
_GROUP = "ca.uhn.hapi.fhir"
_ARTIFACTS = (
    f"{_GROUP}:hapi-fhir-validation",
    f"{_GROUP}:hapi-fhir-caching-caffeine",
    *(f"{_GROUP}:hapi-fhir-structures-{version.name.lower()}" for version in VERSIONS),
    *(f"{_GROUP}:hapi-fhir-validation-resources-{version.name.lower()}" for version in VERSIONS),
)


def install() -> None:
    """Install the validator into the cache folder, unless it is there, and report what happens."""
    if _jars():
        click.echo(f"The validator of HAPI is in {HAPI} already.")
        return
    if not maven.is_installed():
        click.echo(
            "Java or Maven is not installed, so there is no validator of HAPI: its tests are"
            " skipped."
        )
        return
    click.echo(f"Installing the validator of HAPI {VERSION} into {HAPI}: a download of 170 MB.")
    try:
        maven.copy_jars(_ARTIFACTS, VERSION, HAPI)
    except subprocess.CalledProcessError:
        # The empty folder records that it was tried.
        HAPI.mkdir(exist_ok=True)
        click.echo("Maven could not get the validator of HAPI, so its tests are skipped.")


def errors(
    resources: Iterable[tuple[str, bytes]], version: FHIRVersion, folder: Path
) -> list[str]:
    """
    Return what the validator finds wrong with named resources, each with name and place.

    Warnings are left out: they are advice, and about codes that only a terminology server knows.
    """
    if not _jars():
        absent(NO_HAPI, obtainable=maven.is_installed() and not HAPI.exists())
    names = dict[str, str]()
    for name, content in resources:
        file = folder / f"{len(names):04}.json"
        file.write_bytes(content)
        names[file.name] = name
    # Half of the time of a run this short is that of the compiler, unless it is the quick one.
    java = ["java", "-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{HAPI}/*"]
    command = [*java, str(_LAUNCHER), version.name, str(folder)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = (line.split("\t", 2) for line in run.stdout.splitlines())
    return [f"{names[file]}: {place}: {message}" for file, place, message in found]


def _jars() -> list[Path]:
    return list(HAPI.glob("*.jar"))


if __name__ == "__main__":
    install()
