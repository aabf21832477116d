"""Which Groups can be exported, and what is said of members who cannot be resolved."""

import pytest

from helios_core.errors import UnsupportedParameter
from helios_core.export import groups
from helios_core.model.exports import Level
from helios_core.model.parts import PartKind
from tests.export.worker.hospital import group, patient

CHARACTERISTIC = [{"code": {"text": "x"}, "valueBoolean": True, "exclude": False}]
ENDS = (
    "9999-12-31",
    "9999-12",
    "9999",
    "9999-12-31T23:59",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:60Z",
    "9999-12-31T23:59:59.999Z",
    "9999-12-31T23:59:59-05:00",
    "9999-12-31T23:59:59.9999999-14:00",
)
STARTS = ("0001", "0001-01", "0001-01-01", "0001-01-01T00:00", "0001-01-01T00:00:00+14:00")


def member(reference: str = "Patient/a", **more) -> dict:
    return {"entity": {"reference": reference}, **more}


@pytest.fixture
async def ward(hospital):
    await hospital.store(patient("a"), patient("b"))
    return hospital


async def reported(ward, group_id: str = "g", **options) -> tuple[list[str], list[str]]:
    """Return what an export of a group shows, and what it says is missing."""
    job = await ward.work(await ward.kick_off(("_type", "Patient"), group=group_id, **options))
    lines = await ward.lines(job)
    issues = [line["issue"][0] for line in await ward.lines(job, PartKind.ERROR)]
    assert {issue["severity"] for issue in issues} <= {"error"}
    return sorted(line["id"] for line in lines), [issue["diagnostics"] for issue in issues]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("start", STARTS)
async def test_a_member_for_ever_is_a_member(ward, start, end):
    await ward.store(group("g", member(period={"start": start, "end": end})))

    assert await reported(ward) == (["a"], [])


@pytest.mark.parametrize("end", ENDS)
async def test_a_member_for_ever_is_a_newcomer_when_the_period_begins(ward, end):
    since = await ward.now()
    await ward.store(group("g", member(period={"start": "0001-01-01", "end": end})))

    job = await ward.work(await ward.kick_off(("_type", "Patient"), ("_since", since), group="g"))

    assert [line["id"] for line in await ward.lines(job)] == ["a"]


@pytest.mark.parametrize("start", ENDS)
async def test_a_member_at_the_end_of_time_is_not_one_yet(ward, start):
    await ward.store(group("g", member(period={"start": start}), "Patient/b"))

    assert await reported(ward) == (["b"], [])


@pytest.mark.parametrize("end", STARTS)
async def test_a_member_until_the_beginning_of_time_is_none_any_more(ward, end):
    await ward.store(group("g", member(period={"end": end}), "Patient/b"))

    assert await reported(ward) == (["b"], [])


@pytest.mark.parametrize(
    ("query", "exported"),
    [
        (("_since", "0001-01-01T00:00:00+14:00"), ["a", "b"]),
        (("_since", "0001-01-01T00:00:00Z"), ["a", "b"]),
        (("_since", "9999-12-31T23:59:59Z"), []),
        (("_since", "9999-12-31T23:59:60Z"), []),
        (("_since", "9999-12-31T23:59:59.9999999-14:00"), []),
        (("_until", "9999-12-31T23:59:59-05:00"), ["a", "b"]),
        (("_until", "9999-12-31T23:59:59.9999999Z"), ["a", "b"]),
        (("_until", "0001-01-01T00:00:00+14:00"), []),
    ],
)
@pytest.mark.parametrize("level", Level)
async def test_an_export_may_begin_and_end_with_time(clinic, query, exported, level):
    await clinic.store(patient("a"), patient("b"), group("g", "Patient/a", "Patient/b"))

    options = {"group": "g"} if level is Level.GROUP else {"level": level}
    job = await clinic.work(await clinic.kick_off(query, ("_type", "Patient"), **options))

    assert sorted(line["id"] for line in await clinic.lines(job)) == exported


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        ({"actual": False}, "defines its members"),
        ({"actual": False, "characteristic": CHARACTERISTIC}, "defines its members"),
        ({"membership": "definitional"}, "defines its members"),
        ({"membership": "conceptual"}, "defines its members"),
        ({"characteristic": CHARACTERISTIC}, "by characteristics"),
        ({"actual": True, "characteristic": CHARACTERISTIC}, "by characteristics"),
        ({"actual": True, "quantity": 5}, "has 5 members by its quantity but lists none"),
        ({"modifierExtension": [{"url": "http://example.org/x"}]}, "modifierExtension"),
        ({}, "has no members, and neither"),
        ({"actual": "true"}, "has no members, and neither"),
        ({"actual": 1}, "has no members, and neither"),
        ({"actual": None}, "has no members, and neither"),
        ({"membership": "unheard-of"}, "has no members, and neither"),
        ({"quantity": False}, "has no members, and neither"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
async def test_a_group_whose_members_nobody_knows_is_refused(ward, definition, reason, nested):
    await ward.store(group("def", **definition), group("outer", "Group/def", "Patient/a"))

    with pytest.raises(UnsupportedParameter, match=f"Group/def.*{reason}"):
        await ward.kick_off(group="outer" if nested else "def")


@pytest.mark.parametrize(
    "listed", [{"actual": True}, {"membership": "enumerated"}, {"quantity": 0}]
)
async def test_a_group_without_members_is_an_empty_export(ward, listed):
    """TR-29"""
    await ward.store(group("g", **listed))

    assert await reported(ward) == ([], [])


async def test_a_group_with_members_may_have_characteristics_too(ward):
    await ward.store(
        group("g", "Patient/a", actual=True, characteristic=CHARACTERISTIC, quantity=1)
    )

    assert await reported(ward) == (["a"], [])


@pytest.mark.parametrize("definition", [{"actual": False}, {"membership": "definitional"}])
async def test_a_definition_that_lists_members_says_what_it_lacks(ward, definition):
    await ward.store(group("g", "Patient/a", characteristic=CHARACTERISTIC, **definition))

    patients, [report] = await reported(ward)

    assert patients == ["a"]
    assert report.startswith("Group/g is a definition; ")


async def test_members_beyond_those_listed_are_counted(ward):
    await ward.store(group("g", "Patient/a", quantity=3))

    assert await reported(ward) == (
        ["a"],
        ["Group/g has 2 members more by its quantity than it lists; these were left out."],
    )


@pytest.mark.parametrize(
    ("unresolved", "reason"),
    [
        ({"entity": {"identifier": {"value": "4711"}}}, "are given by an identifier only"),
        ({"entity": {"display": "Jane"}}, "have no reference"),
        ({}, "have no reference"),
        (member("http://elsewhere/Patient/b"), "are not on this server"),
        (member("urn:uuid:11111111-1111-4111-8111-111111111111"), "are not on this server"),
        (member("Patient?identifier=4711"), "are not on this server"),
        (member("#contained"), "are not on this server"),
        (member("Practitioner/b"), "are of type Practitioner"),
        (member("Patient/b", period={"end": "soon"}), "have a period whose"),
        (member("Patient/b", period={"start": "2020-13-45"}), "have a period whose"),
        (member("Patient/b", period={"end": "2026-11-22T24:00:00Z"}), "have a period whose"),
        (member("Patient/b", modifierExtension=[{"url": "x"}]), "have a modifierExtension"),
        (member("Group/b", period={"end": "0000"}), "have a period whose"),
    ],
)
async def test_a_member_who_cannot_be_resolved_is_numbered_with_the_reason(
    ward, unresolved, reason
):
    await ward.store(group("g", "Patient/a", unresolved, unresolved))

    patients, [report] = await reported(ward)

    assert patients == ["a"]
    assert report.startswith(f"2 of 3 members of Group/g were left out, because they {reason}")
    assert report.endswith("number 2, 3 in the order of Group.member.")
    assert "4711" not in report
    assert "Jane" not in report


@pytest.mark.parametrize(
    "former", [{"inactive": True}, {"period": {"end": "2020"}}, {"period": {"start": "9999"}}]
)
async def test_nothing_is_said_of_who_is_no_member_now(ward, former):
    await ward.store(group("g", "Patient/a", member("http://elsewhere/Patient/b", **former)))

    assert await reported(ward) == (["a"], [])


async def test_a_group_of_nobody_who_can_be_resolved_says_so(ward):
    """No shard has anything to export, but one writes the error file."""
    await ward.store(group("g", {"entity": {"identifier": {"value": "4711"}}}))

    patients, reports = await reported(ward)

    assert patients == []
    assert len(reports) == 1


async def test_members_of_nested_groups_are_named_by_their_own_group(ward):
    await ward.store(group("g", "Group/inner"), group("inner", "Patient/a", {}))

    patients, [report] = await reported(ward)

    assert patients == ["a"]
    assert "1 of 2 members of Group/inner" in report


async def test_very_many_left_out_make_one_short_sentence(ward):
    await ward.store(group("g", "Patient/a", *[{}] * 1000))

    _, [report] = await reported(ward)

    assert report.startswith("1000 of 1001 members of Group/g")
    assert "51 and 950 more in the order" in report
    assert len(report) < 400


async def test_elements_nobody_needs_may_have_any_form(ward):
    await ward.store(group("g", "Patient/a", quantity="many", actual="no", characteristic={}))

    assert await reported(ward) == (["a"], [])


@pytest.mark.parametrize("nested", [False, True])
async def test_members_who_never_were_stored_are_counted_without_ids(ward, nested):
    members = ("Patient/a", "Patient/zz-1", "Patient/zz-2")
    await ward.store(
        *((group("g", "Group/inner"), group("inner", *members)) if nested else ()),
        *(() if nested else (group("g", *members),)),
    )

    patients, [report] = await reported(ward)

    assert patients == ["a"]
    assert report.startswith("2 of 3 members of Group/g, those of nested groups included, are ")
    assert "zz" not in report


async def test_a_group_of_nobody_who_is_stored_says_so(ward):
    await ward.store(group("g", "Patient/zz"))

    patients, [report] = await reported(ward)

    assert patients == []
    assert report.startswith("1 of 1 members of Group/g")


async def test_a_member_who_is_stored_later_is_not_stored_yet(ward):
    await ward.store(group("g", "Patient/zz"))
    job = await ward.kick_off(("_type", "Patient"), group="g")
    await ward.store(patient("zz"))

    job = await ward.work(job)

    assert await ward.lines(job) == []
    assert len(await ward.lines(job, PartKind.ERROR)) == 1


async def test_nothing_is_said_of_members_who_were_deleted(ward):
    await ward.store(group("g", "Patient/a", "Patient/b"))
    await ward.delete("Patient", "b")

    assert await reported(ward) == (["a"], [])


async def test_of_very_many_who_are_not_there_only_the_first_are_looked_up(ward, monkeypatch):
    monkeypatch.setattr(groups, "MAX_LOOKUPS", 2)
    await ward.store(group("g", *(f"Patient/zz-{number}" for number in range(5))))

    _, [report] = await reported(ward)

    assert report.startswith("At least 2 of 5 members of Group/g")


@pytest.mark.parametrize("others", [[], ["one"], ["one", "two"]])
async def test_groups_that_only_contain_each_other_are_refused(ward, others):
    names = ["g", *others]
    for name, inner in zip(names, [*others, "g"], strict=True):
        await ward.store(group(name, f"Group/{inner}", member("Patient/a", inactive=True)))

    with pytest.raises(UnsupportedParameter, match="only contain each other"):
        await ward.kick_off(group="g")


async def test_a_cycle_that_leads_to_an_empty_group_too_is_an_empty_export(ward):
    empty = group("empty", actual=True)
    await ward.store(group("g", "Group/g", "Group/empty"), empty)

    assert await reported(ward) == ([], [])
