"""
The validator of HAPI FHIR for the tests: installed, and run on resources without a network.

    python -m tests.hapi_validator

installs it from Maven Central into the user's cache folder and reports what it does.
"""

import subprocess
from collections.abc import Iterable
from pathlib import Path

from helios_core.fhir.definitions import FHIRVersion
from tests.maven import Jars

VERSIONS = (FHIRVersion.R4, FHIRVersion.R4B, FHIRVersion.R5)
"""HAPI has no R6 yet."""

_LAUNCHER = Path(__file__).with_name("HapiValidator.java")
_GROUP = "ca.uhn.hapi.fhir"
HAPI = Jars(
    "HAPI validator",
    "8.8.0",
    artifacts=(
        f"{_GROUP}:hapi-fhir-validation",
        f"{_GROUP}:hapi-fhir-caching-caffeine",
        *(f"{_GROUP}:hapi-fhir-structures-{version.name.lower()}" for version in VERSIONS),
        *(
            f"{_GROUP}:hapi-fhir-validation-resources-{version.name.lower()}"
            for version in VERSIONS
        ),
    ),
    megabytes=170,
)


def errors(
    resources: Iterable[tuple[str, bytes]], version: FHIRVersion, folder: Path
) -> list[str]:
    """
    Return what the validator finds wrong with named resources, each with name and place.

    Warnings are left out: they are advice, and about codes that only a terminology server knows.
    """
    HAPI.require()
    names = dict[str, str]()
    for name, content in resources:
        file = folder / f"{len(names):04}.json"
        file.write_bytes(content)
        names[file.name] = name
    # Half of the time of a run this short is that of the compiler, unless it is the quick one.
    java = [
        "java",
        "-Xmx1g",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-cp",
        f"{HAPI.folder}/*",
    ]
    command = [*java, str(_LAUNCHER), version.name, str(folder)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = (line.split("\t", 2) for line in run.stdout.splitlines())
    return [f"{names[file]}: {place}: {message}" for file, place, message in found]


if __name__ == "__main__":
    HAPI.install()
