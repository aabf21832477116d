"""`helios verify`: which manifest it takes from a folder."""

import msgspec
import pytest
from click.testing import CliRunner

from helios_core.cli.commands import app
from helios_core.client.state import STATE_FOLDER
from helios_core.model.completeness import ALGORITHM, KEY, lines_digest

PATIENT = b'{"resourceType":"Patient","id":"p1"}'


def verify(*arguments):
    return CliRunner().invoke(app, ["verify", *map(str, arguments)])


def make_export(folder):
    """Make the folder of an export of one Patient."""
    folder.mkdir(parents=True)
    (folder / "Patient.ndjson").write_bytes(PATIENT + b"\n")
    tally = {"count": 1, "bytes": len(PATIENT) + 1, "digest": f"{lines_digest([PATIENT]):016x}"}
    manifest = {
        "transactionTime": "2026-11-28T00:00:00Z",
        "requiresAccessToken": False,
        "output": [{"type": "Patient", "url": "http://fhir.example/1/Patient.ndjson"}],
        "error": [],
        "extension": {KEY: {"algorithm": ALGORITHM, "output": {"Patient": tally}}},
    }
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))


@pytest.mark.parametrize("path", ["out", "out/manifest.json", ""])
def test_the_manifest_is_found_in_the_folder_of_an_export_and_in_the_one_around_it(tmp_path, path):
    make_export(tmp_path / "out")

    result = verify(tmp_path / path)

    assert result.exit_code == 0, result.output
    assert "output\tPatient\t1\t" in result.stdout


def test_the_manifest_of_a_folder_comes_before_those_below_it(tmp_path):
    make_export(tmp_path / "out")
    make_export(tmp_path / "out/older")
    (tmp_path / "out/older/Patient.ndjson").unlink()

    assert verify(tmp_path / "out").exit_code == 0


def test_the_files_may_be_elsewhere_than_the_folder_with_the_manifest(tmp_path):
    make_export(tmp_path / "out")
    (tmp_path / "files").mkdir()
    (tmp_path / "out/Patient.ndjson").rename(tmp_path / "files/Patient.ndjson")

    assert verify(tmp_path / "out").exit_code == 1
    assert verify(tmp_path / "out", "--dir", tmp_path / "files").exit_code == 0


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    result = verify(tmp_path)

    assert result.exit_code == 2
    assert f"{tmp_path} has no manifest.json" in result.stderr


def test_the_folder_of_an_unfinished_export_is_refused_with_how_to_go_on(tmp_path):
    (tmp_path / STATE_FOLDER).mkdir()
    (tmp_path / STATE_FOLDER / "state.json").touch()

    result = verify(tmp_path)

    assert result.exit_code == 2
    assert f"helios export --resume {tmp_path}" in result.stderr


def test_a_folder_with_several_exports_is_refused_with_a_few_of_their_names(tmp_path):
    for number in range(7):
        make_export(tmp_path / f"{number}")

    result = verify(tmp_path)

    assert result.exit_code == 2
    assert f"has several exports; pass one of {tmp_path}/0, " in result.stderr
    assert "and 2 more" in result.stderr
