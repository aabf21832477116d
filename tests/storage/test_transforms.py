"""The transforms of a process: what they are held to, and what becomes of a line."""

import json
import threading
from datetime import timedelta

import pytest
import structlog

from helios_core.errors import BackendError
from helios_core.fhir.definitions import FHIRVersion
from helios_core.storage import transform_chain as module
from helios_core.storage.joined_lines import JoinedLines
from helios_core.storage.resource_keys import TypeKey
from helios_core.storage.transform_chain import Transforms
from helios_core.storage.transforms import Coding, RestReads
from tests.storage.transforming import (
    CANARY,
    PATIENTS,
    REDACTED,
    Applying,
    Renaming,
    applying,
    failing,
    keeping,
    opened,
    without,
)

LINE = b'{"resourceType":"Patient","id":"p1","meta":{"versionId":"1"},"name":[{"family":"Doe"}]}'
OTHER = TypeKey("default", FHIRVersion.R4, "Observation")


def decoded(line):
    return json.loads(line)


async def one(transforms, line=LINE):
    return await transforms.apply(PATIENTS, [line])


async def test_without_transforms_lines_are_the_same_object():
    lines = JoinedLines(LINE, [len(LINE) + 1])

    assert (await Transforms().apply(PATIENTS, lines)).lines is lines


async def test_a_type_that_is_not_touched_leaves_as_it_is():
    transforms = applying(without("name"), types=frozenset({"Patient"}))

    assert (await transforms.apply(OTHER, [LINE])).lines == [LINE]
    assert not transforms.touches("Observation")


async def test_what_is_changed_says_so():
    left = await one(applying(without("name")))

    [line] = left.kept
    assert decoded(line) == {
        "resourceType": "Patient",
        "id": "p1",
        "meta": {
            "versionId": "1",
            "security": [{"system": REDACTED.system, "code": "REDACTED"}],
        },
    }


async def test_a_code_that_is_there_is_not_repeated():
    security = [{"system": REDACTED.system, "code": "REDACTED", "display": "redacted"}]
    stored = decoded(LINE) | {"meta": {"security": security}}

    left = await one(applying(without("name")), json.dumps(stored).encode())

    assert decoded(left.kept[0])["meta"]["security"] == security


async def test_tags_and_displays_are_added_as_they_are_declared():
    tag = Coding(system="urn:x", code="y", display="z")

    left = await one(applying(lambda resource: resource, tags=(tag,)))

    assert decoded(left.kept[0])["meta"]["tag"] == [
        {"system": "urn:x", "code": "y", "display": "z"}
    ]


async def test_numbers_keep_their_text():
    numbers = b'"a":1.10,"b":1E-7,"c":123456789012345678901234567890,"d":0.0'
    line = b'{"resourceType":"Patient","id":"p1","meta":{},%b}' % numbers

    left = await one(applying(lambda resource: resource), line)

    assert numbers in left.kept[0]


async def test_a_line_that_is_only_let_pass_is_the_stored_one():
    spaced = b'{"resourceType":"Patient", "id":"p1", "meta":{}}'
    transforms = applying(keeping(lambda _: True), changes=False)

    assert (await one(transforms, spaced)).lines == [spaced]


async def test_what_is_kept_back_leaves_no_trace():
    transforms = applying(keeping(lambda _: False))

    left = await one(transforms)

    assert (left.lines, left.damaged) == ([None], [])


async def test_transforms_are_applied_one_after_the_other():
    def noting(name):
        def note(resource):
            resource.setdefault("contact", []).append(name)
            return resource

        return opened(Applying(note), plugin=name)

    left = await one(Transforms([noting("first"), noting("second")]))

    assert decoded(left.kept[0])["contact"] == ["first", "second"]


async def test_one_that_only_drops_cannot_change_for_the_next():
    def spoil(resource):
        resource.clear()
        return resource

    transforms = Transforms(
        [
            opened(Applying(spoil), changes=False),
            opened(Applying(without("name"))),
        ]
    )

    assert decoded((await one(transforms)).kept[0])["id"] == "p1"


@pytest.mark.parametrize(
    ("transform", "effect", "said"),
    [
        (Applying(failing), {}, "ValueError"),
        (Applying(lambda _: None), {"drops": False}, "drops a resource"),
        (Applying(lambda _: "text"), {}, "changes the type of a resource"),
        (
            Applying(lambda resource: resource | {"resourceType": "Basic"}),
            {},
            "changes the type of a resource",
        ),
        (
            Applying(lambda resource: resource | {"id": "p2"}),
            {},
            "changes the id of a resource",
        ),
        (
            Renaming(lambda resource: resource | {"id": "p1"}),
            {"rest": RestReads.WITHHELD},
            "changes the id of a resource",
        ),
        (Applying(lambda resource: resource | {"meta": "text"}), {}, "AttributeError"),
        (Applying(lambda resource: resource | {"x": {1, object()}}), {}, "TypeError"),
    ],
)
async def test_a_resource_that_cannot_be_transformed_does_not_leave(transform, effect, said):
    transforms = Transforms([opened(transform, **effect)])

    with structlog.testing.capture_logs() as lines:
        left = await transforms.apply(PATIENTS, [LINE, b"broken"])

    assert left.lines == [None, None]
    assert [(each.id, each.reason) for each in left.damaged] == [
        ("p1", "plugin test failed to transform it"),
        ("(unknown)", "its stored content cannot be read as JSON"),
    ]
    [line] = lines
    assert (line["event"], line["plugin"], line["type"]) == ("transform.failed", "test", "Patient")
    assert (line["error"], line["count"]) == (said, 1)
    assert "Doe" not in str(lines)


async def test_one_failure_costs_no_other_resource():
    def picky(resource):
        return failing(resource) if resource["id"] == "p2" else resource

    lines = [LINE.replace(b'"p1"', b'"p%d"' % number) for number in range(1, 4)]

    left = await applying(picky).apply(PATIENTS, lines)

    assert [decoded(line)["id"] for line in left.kept] == ["p1", "p3"]
    assert [each.id for each in left.damaged] == ["p2"]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
async def test_nothing_that_a_transform_raises_ends_the_process(error):
    def leave(resource):
        raise error

    left = await one(applying(leave))

    assert left.lines == [None]


async def test_lines_are_transformed_in_pieces_of_bounded_size(monkeypatch):
    monkeypatch.setattr(module, "MAX_CALL_LINES", 3)
    monkeypatch.setattr(module, "MAX_CALL_BYTES", 200)
    sizes = []

    def count(call, lines, apply=module._Call.apply):
        sizes.append(len(lines))
        return apply(call, lines)

    monkeypatch.setattr(module._Call, "apply", count)
    long = LINE.replace(b"Doe", b"D" * 300)

    left = await applying(without("name")).apply(PATIENTS, [LINE] * 7 + [long, LINE])

    assert sizes == [2, 2, 2, 1, 1, 1]
    assert len(left.kept) == 9


async def test_a_transform_that_hangs_is_given_up_after_its_time_limit():
    release = threading.Event()

    def hang(resource):
        release.wait()
        return resource

    transforms = Transforms(
        [opened(Applying(hang), plugin="slow")], time_limit=timedelta(milliseconds=1)
    )

    with structlog.testing.capture_logs() as lines, pytest.raises(BackendError) as caught:
        await one(transforms)

    release.set()
    assert "Plugin slow took longer than 0.001 seconds" in str(caught.value)
    assert [(line["event"], line["plugin"]) for line in lines] == [("transform.overdue", "slow")]


async def test_ids_are_renamed_by_every_transform_that_renames():
    transform = Renaming(lambda resource: resource)
    transforms = Transforms([opened(transform, rest=RestReads.WITHHELD)])

    assert await transforms.rename(PATIENTS, ["abc", "de"]) == ["cba", "ed"]
    assert await applying(without("name")).rename(PATIENTS, ["abc"]) == ["abc"]
    assert decoded((await one(transforms)).kept[0])["id"] == "1p"


@pytest.mark.parametrize("given", ["", "a/b", "x" * 65, None, 7])
async def test_an_id_that_is_none_stops_the_shard(given):
    transform = Renaming(lambda resource: resource)
    transform.rename = lambda _: given
    transforms = Transforms([opened(transform, rest=RestReads.WITHHELD)])

    with structlog.testing.capture_logs() as lines, pytest.raises(BackendError) as caught:
        await transforms.rename(PATIENTS, [CANARY])

    assert str(caught.value) == "Plugin test fails to rename a Patient."
    assert CANARY not in str(lines)


@pytest.mark.parametrize(
    ("choices", "strictest"),
    [
        ([], RestReads.UNTOUCHED),
        ([RestReads.UNTOUCHED, RestReads.TRANSFORMED], RestReads.TRANSFORMED),
        ([RestReads.WITHHELD, RestReads.TRANSFORMED], RestReads.WITHHELD),
    ],
)
def test_of_several_choices_the_strictest_counts(choices, strictest):
    transforms = Transforms([opened(Applying(failing), rest=choice) for choice in choices])

    assert transforms.rest is strictest


def test_what_transforms_are_is_told_of_all_of_them():
    transforms = Transforms(
        [
            opened(Applying(failing), plugin="a", conceals=False, drops=False),
            opened(Renaming(failing), plugin="b", types=frozenset({"Patient"})),
        ]
    )

    assert transforms.names == ("a", "b")
    assert transforms.conceals
    assert transforms.renames
    assert transforms.drops("Patient")
    assert not transforms.drops("Observation")
    assert not Transforms().conceals
    assert not Transforms().renames


def test_reads_pass_only_the_transforms_that_concern_them():
    transforms = Transforms(
        [
            opened(Applying(failing), plugin="both"),
            opened(Applying(failing), plugin="exports", rest=RestReads.UNTOUCHED),
        ]
    )

    assert transforms.of_reads.names == ("both",)
