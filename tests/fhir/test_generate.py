from importlib.resources import files

import pytest

from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.definitions.generate import generate, main


@pytest.mark.parametrize("version", FHIRVersion)
def test_the_committed_files_are_what_the_generator_returns(version, definitions):
    committed = (files("helios_core.fhir.definitions") / f"{version.value}.json").read_text(
        "utf-8"
    )

    assert generate(definitions, version) == committed


def test_generated_text_holds_one_line_per_type_and_parameter(definitions):
    lines = generate(definitions, FHIRVersion.R4).splitlines()

    assert sum(line.startswith('"Observation":{"') for line in lines) == 1
    assert sum('"code":"clinical-status"' in line for line in lines) == 2
    assert max(map(len, lines)) < 4000


def test_all_files_are_written_at_once(definitions, tmp_path):
    main(definitions, tmp_path)

    assert {path.stem for path in tmp_path.iterdir()} == set(FHIRVersion)
    assert (tmp_path / "R5.json").read_text("utf-8") == generate(definitions, FHIRVersion.R5)
