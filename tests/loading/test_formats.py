"""The format of a file is detected from its content."""

import gzip
import json

import pytest

PATIENT = {"resourceType": "Patient", "id": "a"}
OTHER = {"resourceType": "Patient", "id": "b"}


async def test_ndjson_is_loaded_line_by_line(store, write):
    summary = await store.load(write("patients.ndjson", PATIENT, OTHER))

    assert (summary.files, summary.read, summary.created, summary.bad) == (1, 2, 2, 0)
    assert await store.text("Patient/b")


@pytest.mark.parametrize("name", ["one.json", "one.ndjson", "one.json.gz", "ONE.NDJSON.GZ"])
async def test_a_single_resource_is_loaded(store, write, name):
    summary = await store.load(write(name, PATIENT))

    assert (summary.created, summary.bad) == (1, 0)


async def test_a_resource_over_many_lines_is_one_document(store, write):
    summary = await store.load(write("pretty.json", PATIENT | {"active": True}, indent=2))

    assert (summary.created, summary.bad) == (1, 0)
    assert '"active":true' in await store.text("Patient/a")


async def test_lines_are_found_in_a_file_called_json(store, write):
    summary = await store.load(write("export.json", PATIENT, OTHER))

    assert summary.created == 2


async def test_lines_are_found_behind_a_broken_first_one(store, write):
    summary = await store.load(write("export.json", '{"resourceType":"Pat', OTHER, PATIENT))

    assert (summary.created, summary.bad) == (2, 1)
    assert summary.problems[0].line == 1


async def test_gzip_is_found_in_a_file_not_called_gz(store, tmp_path):
    path = tmp_path / "patients.ndjson"
    path.write_bytes(gzip.compress(json.dumps(PATIENT).encode() + b"\n"))

    summary = await store.load(path)

    assert summary.created == 1


async def test_plain_text_is_found_in_a_file_called_gz(store, tmp_path):
    path = tmp_path / "patients.ndjson.gz"
    path.write_bytes(json.dumps(PATIENT).encode())

    summary = await store.load(path)

    assert summary.created == 1


async def test_blank_lines_and_carriage_returns_do_no_harm(store, tmp_path):
    path = tmp_path / "windows.ndjson"
    lines = [b"", json.dumps(PATIENT).encode(), b"  ", b"{broken", json.dumps(OTHER).encode(), b""]
    path.write_bytes(b"\r\n".join(lines))

    summary = await store.load(path)

    assert (summary.created, summary.bad) == (2, 1)
    assert summary.problems[0].line == 4


async def test_an_empty_file_holds_nothing(store, write):
    summary = await store.load(write("empty.ndjson", ""), write("blank.json", "\n \n"))

    assert (summary.files, summary.read, summary.bad) == (2, 0, 0)


async def test_a_folder_is_loaded_with_its_folders(store, write, tmp_path):
    write("in/b.ndjson", PATIENT)
    write("in/deep/a.json", OTHER)

    summary = await store.load(tmp_path / "in")

    assert (summary.files, summary.created) == (2, 2)


async def test_other_files_of_a_folder_are_skipped_and_counted(store, write, tmp_path):
    write("in/a.ndjson", PATIENT)
    write("in/README.md", "# about")
    write("in/.hidden.json", "not looked at")

    summary = await store.load(tmp_path / "in")

    assert (summary.files, summary.skipped, summary.bad) == (1, 1, 0)


async def test_a_named_file_is_read_whatever_it_is_called(store, write):
    summary = await store.load(write("patients.txt", PATIENT, OTHER))

    assert summary.created == 2


async def test_a_file_named_twice_is_read_once(store, write, tmp_path):
    path = write("a.ndjson", PATIENT)

    summary = await store.load(path, tmp_path, path)

    assert (summary.files, summary.read) == (1, 1)


async def test_what_goes_in_comes_out(store, write):
    line = (
        '{ "resourceType":"Observation", "id":"n", "status":"final","code":{"text":"é \\u00e9"},'
        ' "valueQuantity":{"value":1.10}, "unknown":[{"huge":123456789012345678901234567890}]}'
    )

    await store.load(write("numbers.ndjson", line))

    text = await store.text("Observation/n")
    assert '"code":{"text":"é \\u00e9"},"valueQuantity":{"value":1.10}' in text
    assert '"unknown":[{"huge":123456789012345678901234567890}]' in text
