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


MARK = b"\xef\xbb\xbf"


def lines(*resources):
    return b"".join(json.dumps(resource).encode() + b"\n" for resource in resources)


def numbered(count):
    return [{"resourceType": "Patient", "id": f"p{number}"} for number in range(count)]


@pytest.mark.parametrize("name", ["a.ndjson", "a.json", "a.txt", "a.ndjson.gz", "a.json.gz"])
@pytest.mark.parametrize(
    "content",
    [
        MARK + lines(PATIENT, OTHER),
        b"\r\n" + MARK + b" \r\n" + lines(PATIENT, OTHER),
        MARK + lines(PATIENT) + MARK + lines(OTHER),
        MARK + MARK.join([b"\n", lines(PATIENT), lines(OTHER)]),
    ],
)
async def test_byte_order_marks_are_skipped(store, tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)

    summary = await store.load(path)

    assert (summary.created, summary.bad) == (2, 0)


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.ndjson"])
async def test_the_mark_of_a_single_document_is_skipped(store, tmp_path, name):
    text = json.dumps(PATIENT, indent=None if name.endswith("ndjson") else 1).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(MARK + text) if name.endswith(".gz") else MARK + text)

    summary = await store.load(path)

    assert (summary.created, summary.bad) == (1, 0)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.ndjson", "a.json", "a.ndjson.gz"])
async def test_other_encodings_are_refused_with_words(store, tmp_path, write, name, encoding):
    content = lines(PATIENT, OTHER).decode().encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)

    summary = await store.load(path, write("z.ndjson", PATIENT))

    assert (summary.created, summary.bad) == (1, 1)
    assert "UTF-16 or UTF-32; convert it to UTF-8" in summary.problems[0].reason


@pytest.mark.parametrize("lost", [1, 4, 8, 9, 20])
async def test_the_lines_before_the_cut_of_a_gzip_file_are_loaded(store, tmp_path, lost):
    path = tmp_path / "cut.ndjson.gz"
    content = gzip.compress(lines(*numbered(20)), compresslevel=0)[:-lost]
    path.write_bytes(content)

    summary = await store.load(path)

    assert summary.created == (20 if lost < 12 else 19)
    assert summary.bad == 1
    assert f"cut off after byte {len(content)}" in summary.problems[0].reason
    assert summary.problems[0].line == (20 if lost in (9, 20) else 21)


async def test_a_line_that_was_cut_is_not_loaded(store, tmp_path):
    path = tmp_path / "cut.ndjson.gz"
    path.write_bytes(gzip.compress(lines(*numbered(3))[:-2], compresslevel=0)[:-8])

    summary = await store.load(path)

    assert (summary.created, summary.bad) == (2, 1)


async def test_a_document_that_is_complete_before_the_cut_is_loaded(store, tmp_path):
    content = gzip.compress(json.dumps(PATIENT, indent=1).encode())
    for number, tail in enumerate([content[:-8], content + b"garbage", content[:-20]]):
        path = tmp_path / f"{number}.json.gz"
        path.write_bytes(tail)

        summary = await store.load(path)

        assert (summary.read - summary.bad, summary.bad) == (0 if number == 2 else 1, 1)


@pytest.mark.parametrize("garbage", [b"x", b"garbage\n", b"\0\0\0x", b"\x1f"])
async def test_what_follows_compressed_data_is_reported_in_the_right_words(
    store, tmp_path, garbage
):
    path = tmp_path / "garbage.ndjson.gz"
    content = gzip.compress(lines(PATIENT, OTHER))
    path.write_bytes(content + garbage)

    summary = await store.load(path)

    assert (summary.created, summary.bad) == (2, 1)
    start = len(content + garbage) - len(garbage.lstrip(b"\0"))
    assert f"is not gzip, from byte {start} on" in summary.problems[0].reason


async def test_what_is_compressed_twice_is_called_so(store, tmp_path):
    path = tmp_path / "a.ndjson.gz"
    path.write_bytes(gzip.compress(gzip.compress(b'{"resourceType":"Patient","id":"a"}')))

    summary = await store.load(path)

    assert summary.bad == 1
    assert "compressed twice" in summary.problems[0].reason


async def test_members_and_the_zeros_around_them_are_one_file(store, tmp_path):
    path = tmp_path / "members.ndjson.gz"
    members = [gzip.compress(lines(resource)) for resource in (PATIENT, OTHER)]
    path.write_bytes(b"".join([members[0], bytes(3), members[1], bytes(2_000_000)]))

    summary = await store.load(path)

    assert (summary.created, summary.bad) == (2, 0)


async def test_a_line_over_the_border_of_two_members_is_one_line(store, tmp_path):
    path = tmp_path / "members.ndjson.gz"
    content = lines(PATIENT, OTHER)
    path.write_bytes(gzip.compress(content[:20]) + gzip.compress(content[20:]))

    summary = await store.load(path)

    assert (summary.created, summary.bad) == (2, 0)
