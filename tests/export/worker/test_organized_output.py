"""Organized output: blocks of one instance and the resources that belong to it."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helios_core.errors import BackendUnavailable, InvalidParameter
from helios_core.export.pipeline.blocks import SCHEMA, Block, BlockBuilder, BlockCutter, BlockPiece
from helios_core.export.pipeline.scratch import scratch_database
from helios_core.export.pipeline.shard_export import PartLimits
from helios_core.fhir.instants import format_instant
from helios_core.model.exports import Level
from helios_core.model.parts import PartKind
from tests.export.worker.fixture import about, document, filled
from tests.export.worker.hospital import group, observation, patient

BY_PATIENT = ("organizeOutputBy", "Patient")


@pytest.fixture
async def ward(clinic):
    clinic.between = await filled(clinic)
    return clinic


def blocks_in(lines: list[dict]) -> dict[str, list[str]]:
    """The blocks of consecutive lines; one that goes on under the same header is one block."""
    blocks = dict[str, list[str]]()
    current = None
    for line in lines:
        if line["resourceType"] == "Parameters":
            [parameter] = line["parameter"]
            assert parameter["name"] == "header"
            current = blocks.setdefault(parameter["valueReference"]["reference"], [])
        else:
            assert current is not None, "a line outside of every block"
            current.append(f"{line['resourceType']}/{line['id']}")
    return blocks


async def organized(hospital, *query, work=None, **options) -> dict[str, list[str]]:
    job = await hospital.kick_off(*query, **options)
    job = await hospital.work(job, **(work or {}))
    blocks = dict[str, list[str]]()
    for part in await hospital.job_store.parts(job.tenant, job.id):
        if part.key.kind is PartKind.OUTPUT:
            found = blocks_in(await lines_of(hospital, part))
            assert part.count == sum(map(len, found.values()))
            for header, names in found.items():
                blocks.setdefault(header, []).extend(names)
    left_out = await reported(hospital, job)
    if job.request.level is Level.SYSTEM:  # at other levels Provenance comes by its targets, too
        plain = [pair for pair in query if pair[0] != "organizeOutputBy"]
        exported = {name for names in blocks.values() for name in names}
        everything = [
            name
            for name in await hospital.export(*plain, **options)
            if not name.startswith("Binary/")
        ]
        assert left_out == len({*everything} - exported)
    return blocks


async def reported(hospital, job) -> int:
    """Return how many resources the error files say are in no block, their only information."""
    issues = [line["issue"] for line in await hospital.lines(job, PartKind.ERROR)]
    texts = [issue["diagnostics"] for [issue] in issues if issue["severity"] == "information"]
    others = [issue["diagnostics"] for [issue] in issues if issue["severity"] != "information"]
    assert all("members of Group/lost" in text for text in others)
    assert all(f"to no {job.request.organize_by} in the output" in text for text in texts)
    assert len(texts) <= 1
    return sum(int(text.split()[0]) for text in texts)


async def lines_of(hospital, part) -> list[dict]:
    data = b"".join([chunk async for chunk in hospital.output_store.read(part.key)])
    return [msgspec.json.decode(line) for line in data.splitlines()]


@pytest.mark.parametrize("level", [Level.SYSTEM, Level.PATIENT])
async def test_a_block_is_a_patient_and_the_compartment(ward, level):
    """B3-13, B3-16, TR-46, RC-15, RV-39"""
    blocks = await organized(ward, BY_PATIENT, level=level)

    assert set(blocks) == {f"Patient/p{number}" for number in range(1, 6)}
    for header, names in blocks.items():
        assert names[0] == header
        assert len(names) == len(set(names))
    assert "Observation/obs-x" in blocks["Patient/p1"]
    assert "Observation/obs-x" in blocks["Patient/p4"]
    assert blocks["Patient/p5"] == ["Patient/p5"]
    assert sorted(blocks["Patient/p3"]) == ["Encounter/enc3", "Group/g1", "Patient/p3"]


async def test_what_has_no_path_to_a_patient_is_left_out(ward):
    """B3-15"""
    names = {name for block in (await organized(ward, BY_PATIENT)).values() for name in block}

    assert {"Organization/org1", "CodeSystem/cs1", "Binary/bin9"}.isdisjoint(names)


async def test_blocks_of_a_group_are_those_of_its_members(ward):
    """B3-13"""
    blocks = await organized(ward, BY_PATIENT, group="g1")

    assert set(blocks) == {"Patient/p1", "Patient/p2", "Patient/p3"}
    assert "Observation/obs-x" in blocks["Patient/p1"]


async def test_a_patient_linked_to_a_member_heads_no_block(ward):
    """B2-P-22"""
    link = [{"other": {"reference": "Patient/p4"}, "type": "seealso"}]
    await ward.store(patient("p5", link=link), observation("obs-p5", "p5"))

    blocks = await organized(ward, BY_PATIENT, group="g2")

    assert set(blocks) == {"Patient/p4"}
    assert "Patient/p5" in blocks["Patient/p4"]
    assert "Observation/obs-p5" not in blocks["Patient/p4"]


async def test_the_instance_heads_its_block_whatever_else_is_requested(ward):
    """B3-13"""
    blocks = await organized(ward, BY_PATIENT, ("_type", "Condition"))

    assert sorted(blocks["Patient/p1"]) == ["Condition/cond-back", "Condition/cond1", "Patient/p1"]
    assert blocks["Patient/p1"][0] == "Patient/p1"
    assert set(blocks) == {"Patient/p1"}


async def test_only_patients_with_changes_have_blocks(ward):
    """B2-P-05, B3-13"""
    blocks = await organized(ward, BY_PATIENT, ("_since", format_instant(ward.between)))

    assert sorted(blocks["Patient/p1"]) == [
        "Condition/cond-back",
        "Observation/obs-a2",
        "Observation/obs-v",
        "Observation/obs-x",
        "Patient/p1",
    ]
    assert blocks["Patient/p2"] == ["Patient/p2", "Observation/obs-b"]
    assert "Patient/p3" not in blocks


async def test_deletions_are_reported_as_usual(ward):
    """B2-MF-14, B3-20"""
    job = await ward.kick_off(BY_PATIENT, ("_since", format_instant(ward.between)))
    bundles = await ward.lines(await ward.work(job), PartKind.DELETED)

    urls = {entry["request"]["url"] for bundle in bundles for entry in bundle["entry"]}
    assert urls == {"Condition/cond-del", "Patient/p6"}


async def test_filters_and_elements_apply_within_blocks(ward):
    """B3-09, B2-P-16"""
    await ward.store(document("doc3", "p5", url="Binary/bin1"))
    query = (("_typeFilter", "DocumentReference?_id=doc1"), ("_elements", "content"))

    job = await ward.work(await ward.kick_off(BY_PATIENT, ("_type", "DocumentReference"), *query))

    [line] = [
        x for x in await hospital_lines(ward, job) if x["resourceType"] == "DocumentReference"
    ]
    assert line["id"] == "doc1"
    assert "subject" not in line
    assert line["content"][0]["attachment"]["url"] == "http://localhost/Binary/bin1"


@pytest.mark.parametrize("shard_bytes", [500, 3000])
async def test_many_shards_hold_each_block_once(ward, shard_bytes):
    """B3-13, TR-56"""
    for number in range(120):
        await ward.store(observation(f"o{number:03}", f"p{number % 5 + 1}"))

    blocks = await organized(ward, BY_PATIENT, shard_bytes=shard_bytes, work={"workers": 4})

    assert blocks == {
        header: names
        for header, names in blocks.items()
        if len(names) == len(set(names)) and names[0] == header
    }
    assert sum(name.startswith("Observation/o") for b in blocks.values() for name in b) >= 120


@pytest.mark.parametrize(
    ("organizer", "header", "names"),
    [
        ("Organization", "Organization/org1", {"Encounter/enc1", "Provenance/prov-org"}),
        ("Practitioner", "Practitioner/prac1", {"Encounter/enc1", "Group/gP"}),
    ],
)
async def test_an_instance_of_another_type_heads_what_refers_to_it(ward, organizer, header, names):
    """B3-13"""
    blocks = await organized(ward, ("organizeOutputBy", organizer))

    assert blocks[header][0] == header
    assert set(blocks[header][1:]) == names


async def test_a_group_heads_what_refers_to_it(ward):
    """B3-13"""
    about = {"resourceType": "Observation", "id": "og", "status": "final"}
    await ward.store(about | {"subject": {"reference": "Group/g1"}})

    blocks = await organized(ward, ("organizeOutputBy", "Group"))

    assert blocks["Group/g1"] == ["Group/g1", "Observation/og"]


async def test_a_missing_instance_heads_no_block(ward):
    """B3-15, TR-60"""
    await ward.store(observation("obs-d", "p1", performer=[{"reference": "Organization/gone"}]))

    blocks = await organized(ward, ("organizeOutputBy", "Organization"))

    assert "Organization/gone" not in blocks


async def test_an_unsupported_organizer_is_refused_or_reported(ward):
    """B3-17, RV-15"""
    with pytest.raises(InvalidParameter, match="organizeOutputBy"):
        await ward.kick_off(("organizeOutputBy", "CodeSystem"))

    job = await ward.kick_off(("organizeOutputBy", "CodeSystem"), handling="lenient")
    lines = await ward.lines(await ward.work(job))

    assert job.request.organize_by is None
    assert "Parameters" not in {line["resourceType"] for line in lines}


async def test_nothing_to_export_makes_no_blocks(clinic):
    """B2-MF-07"""
    assert await organized(clinic, BY_PATIENT) == {}


async def test_a_damaged_patient_loses_no_more_than_itself(hospital):
    """B2-ST-11"""
    await hospital.store(patient("p1"), observation("o1", "p1"))
    hospital.damage("Patient", "p1")

    job = await hospital.work(await hospital.kick_off(BY_PATIENT))

    assert blocks_in(await hospital_lines(hospital, job)) == {"Patient/p1": ["Observation/o1"]}
    [outcome] = await hospital.lines(job, PartKind.ERROR)
    assert "Patient/p1" in outcome["issue"][0]["diagnostics"]


async def hospital_lines(hospital, job) -> list[dict]:
    parts = await hospital.job_store.parts(job.tenant, job.id)
    found = [await lines_of(hospital, p) for p in parts if p.key.kind is PartKind.OUTPUT]
    return [line for lines in found for line in lines]


async def test_small_parts_repeat_the_header_and_say_that_they_continue(ward):
    """B3-14"""
    for number in range(30):
        await ward.store(observation(f"o{number:02}", "p1"))
    job = await ward.kick_off(BY_PATIENT, ("_type", "Observation"))
    ward.limits = PartLimits(part_bytes=1500)

    job = await ward.work(job)

    parts = [
        p for p in await ward.job_store.parts(job.tenant, job.id) if p.key.kind is PartKind.OUTPUT
    ]
    assert len(parts) > 3
    for part in parts:
        lines = await lines_of(ward, part)
        assert lines[0]["resourceType"] == "Parameters"
        assert part.plain_size <= 1500
    last_headers = [list(blocks_in(await lines_of(ward, part)))[-1] for part in parts]
    first_headers = [next(iter(blocks_in(await lines_of(ward, part)))) for part in parts]
    for number, part in enumerate(parts[:-1]):
        assert part.continues is (last_headers[number] == first_headers[number + 1])
    assert parts[-1].continues is False
    assert sum(part.continues for part in parts) >= 2


async def cut(blocks: list[list[int]], *, max_bytes: int, max_rows: int | None):
    """The lines of each part, and whether it goes on, for blocks of lines of these sizes."""

    async def pieces():
        for number, sizes in enumerate(blocks):
            header = b"H%d" % number
            lines = [b"%d" % number + b"x" * size for size in sizes]
            whole = sum(len(line) + 1 for line in (header, *lines))
            for place in range(0, len(lines), 2):
                yield BlockPiece(
                    header=header,
                    lines=lines[place : place + 2],
                    opens=place == 0,
                    block_rows=len(lines),
                    block_bytes=whole,
                )

    cutter = BlockCutter(pieces(), max_bytes=max_bytes, max_rows=max_rows)
    parts = []
    while await cutter.more():
        data = b"".join([chunk async for chunk in cutter.part()])
        lines = data.splitlines()
        assert cutter.bytes == len(data)
        assert cutter.rows == sum(not line.startswith(b"H") for line in lines)
        parts.append((lines, cutter.continues))
    return parts


@given(
    blocks=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=8), max_size=8),
    max_bytes=st.integers(1, 200),
    max_rows=st.none() | st.integers(1, 10),
)
@settings(max_examples=200)
async def test_blocks_are_cut_only_where_a_part_cannot_hold_them(blocks, max_bytes, max_rows):
    """B3-14"""
    parts = await cut(blocks, max_bytes=max_bytes, max_rows=max_rows)

    seen = dict[bytes, int]()
    for number, (lines, continues) in enumerate(parts):
        headers = [line for line in lines if line.startswith(b"H")]
        assert lines[0] in headers
        assert len(headers) == len(set(headers))
        for header in headers:
            seen[header] = seen.get(header, 0) + 1
        if continues:
            assert parts[number + 1][0][0] == headers[-1]
    expected = [b"%d" % n + b"x" * size for n, sizes in enumerate(blocks) for size in sizes]
    assert [x for lines, _ in parts for x in lines if not x.startswith(b"H")] == expected
    for number, sizes in enumerate(blocks):
        header = b"H%d" % number
        whole = len(header) + 1 + sum(len(str(number)) + size + 1 for size in sizes)
        if whole <= max_bytes and (max_rows is None or len(sizes) <= max_rows):
            assert seen[header] == 1


async def test_blocks_hold_the_lines_that_were_placed_in_them():
    async with scratch_database(SCHEMA) as scratch:
        builder = BlockBuilder(scratch)
        await builder.open(["b", "a", "empty"])
        await builder.place([(["a", "b"], b"1"), (["a"], b"2"), (["new"], b"333")])
        await builder.require(["a"])

        blocks = [block async for page in builder.blocks(2) for block in page]
        contents = {
            block.id: [line async for lines in builder.lines(block, 1) for line in lines]
            for block in blocks
        }

    assert contents == {"b": [b"1"], "a": [b"1", b"2"], "new": [b"333"]}
    assert blocks[1] == Block(number=2, id="a", rows=2, bytes=4)


async def test_a_full_scratch_database_raises_backend_unavailable():
    def fail(connection):
        connection.execute("PRAGMA max_page_count = 1")
        connection.execute("CREATE TABLE more (x)")

    async with scratch_database("CREATE TABLE t (x);") as scratch:
        with pytest.raises(BackendUnavailable, match="temporary"):
            await scratch.run(fail)


@pytest.mark.parametrize("level", [Level.PATIENT, Level.GROUP])
async def test_what_refers_to_nobody_who_is_stored_is_counted(ward, level):
    """A deleted patient heads no block, but is not forgotten without a word."""
    await ward.store(observation("gone", "p6"), observation("never", "p7"))
    await ward.store(observation("both", "p6", performer=[{"reference": "Patient/p1"}]))
    await ward.store(group("lost", "Patient/p1", "Patient/p6", "Patient/p7"))
    options = {"group": "lost"} if level is Level.GROUP else {"level": level}

    job = await ward.work(await ward.kick_off(BY_PATIENT, **options))

    assert await reported(ward, job) == 2


async def test_only_what_matches_is_counted(ward):
    filtered = ("_typeFilter", "Organization?_id=org1")

    job = await ward.work(await ward.kick_off(BY_PATIENT, filtered, ("_type", "Organization")))

    assert await reported(ward, job) == 1


async def test_the_count_is_there_although_nobody_heads_a_block(hospital):
    await hospital.store({"resourceType": "Organization", "id": "org1"})

    job = await hospital.work(await hospital.kick_off(BY_PATIENT))

    assert await reported(hospital, job) == 1


async def test_a_resource_in_a_block_that_is_there_is_not_counted(ward):
    """Organized by another type: beside one whose instance is missing."""
    participants = [
        {"individual": {"reference": f"Practitioner/{each}"}} for each in ("none", "prac1")
    ]
    await ward.store(about("Encounter", "both", "p1", participant=participants))
    await ward.store(about("Encounter", "one", "p1", participant=participants[:1]))
    query = (("organizeOutputBy", "Practitioner"), ("_type", "Encounter"))

    blocks = await organized(ward, *query)

    assert "Encounter/both" in blocks["Practitioner/prac1"]
    assert not any("Encounter/one" in names for names in blocks.values())
