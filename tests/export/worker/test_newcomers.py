"""`_since` at group level and members who joined after it, with real histories."""

import pytest
from msgspec.structs import replace

from helios_core.export.cohorts import resolve_view
from helios_core.export.kickoff.request import ExportPolicy
from helios_core.model.exports import TypeConstraint
from helios_core.model.jobs import JobStatus
from helios_core.model.parts import PartKind
from helios_core.storage.permitted_reads import permitted_backends
from tests.export.worker.hospital import group, observation, patient

TYPES = ("_type", "Patient,Observation")


def member(reference, start=None):
    entry = {"entity": {"reference": reference}}
    return entry if start is None else {**entry, "period": {"start": start}}


@pytest.fixture
async def ward(clinic):
    """Two patients with an observation each, both older than what follows."""
    await clinic.store(
        patient("old"), observation("of-old", "old"), patient("new"), observation("of-new", "new")
    )
    return clinic


@pytest.fixture
def excluding(ward):
    ward.policy = ExportPolicy(include_newly_added=False)
    return ward


async def since_export(ward, since, **options):
    return await ward.export(TYPES, ("_since", since), group="g", **options)


async def test_a_member_added_after_since_brings_older_data(ward):
    """B2-P-06"""
    await ward.store(group("g", "Patient/old"))
    since = await ward.now()
    await ward.store(group("g", "Patient/old", "Patient/new"))

    assert await since_export(ward, since) == ["Observation/of-new", "Patient/new"]


async def test_changes_of_old_and_new_members_are_exported_once(ward):
    await ward.store(group("g", "Patient/old"))
    since = await ward.now()
    await ward.store(
        group("g", "Patient/old", "Patient/new"),
        patient("new", active=True),
        observation("later", "new"),
        observation("of-old", "old", issued="2024-01-01T00:00:00Z"),
    )

    exported = await since_export(ward, since)

    assert exported == [
        "Observation/later",
        "Observation/of-new",
        "Observation/of-old",
        "Patient/new",
    ]


async def test_what_belongs_to_an_old_and_a_new_member_is_exported_once(ward):
    both = {"performer": [{"reference": "Patient/old"}]}
    await ward.store(group("g", "Patient/old"), observation("older", "new", **both))
    since = await ward.now()
    await ward.store(group("g", "Patient/old", "Patient/new"), observation("newer", "new", **both))

    exported = await since_export(ward, since)

    assert exported == [
        "Observation/newer",
        "Observation/of-new",
        "Observation/older",
        "Patient/new",
    ]


async def test_many_shards_of_both_views_have_names_of_their_own(ward):
    await ward.store(*(observation(f"n{number}", "new") for number in range(50)))
    await ward.store(group("g", "Patient/old"))
    since = await ward.now()
    await ward.store(
        group("g", "Patient/old", "Patient/new"),
        *(observation(f"o{number}", "old") for number in range(50)),
    )

    exported = await since_export(ward, since, shard_bytes=1000)

    assert len(exported) == 50 + 50 + 2


@pytest.mark.parametrize("joined", ["2999-01-01", "2100"])
async def test_a_period_that_has_not_begun_makes_no_member(ward, joined):
    await ward.store(group("g", "Patient/old", member("Patient/new", joined)))

    assert await ward.export(TYPES, group="g") == ["Observation/of-old", "Patient/old"]


@pytest.mark.parametrize("joined", ["2024", "2024-03", "2024-03-05", "2024-03-05T10:00:00Z"])
async def test_a_period_that_began_after_since_is_enough(ward, joined):
    """Whoever wrote the group wrote it once; only the period says who came later."""
    await ward.store(group("g", member("Patient/old", "2020"), member("Patient/new", joined)))
    await ward.store(patient("new"), patient("old"))

    job = await ward.kick_off(TYPES, ("_since", "2023-12-31T23:59:59Z"), group="g")

    assert job.status is JobStatus.ACCEPTED
    assert await since_export(ward, "2023-12-31T23:59:59Z") == [
        "Observation/of-new",
        "Observation/of-old",
        "Patient/new",
        "Patient/old",
    ]


async def test_a_member_who_left_and_came_back_brings_older_data(ward):
    away = {**member("Patient/new"), "inactive": True}
    await ward.store(group("g", "Patient/old", "Patient/new"))
    await ward.store(group("g", "Patient/old", away))
    since = await ward.now()
    await ward.store(group("g", "Patient/old", "Patient/new"))

    assert await since_export(ward, since) == ["Observation/of-new", "Patient/new"]


async def test_members_of_a_nested_group_bring_older_data_too(ward):
    await ward.store(group("g", "Group/inner"), group("inner", "Patient/old"))
    since = await ward.now()
    await ward.store(group("inner", "Patient/old", "Patient/new"))

    assert await since_export(ward, since) == ["Observation/of-new", "Patient/new"]


async def test_a_nested_group_that_joined_brings_the_data_of_its_members(ward):
    await ward.store(group("g", "Patient/old"), group("inner", "Patient/new"))
    since = await ward.now()
    await ward.store(group("g", "Patient/old", "Group/inner"))

    assert await since_export(ward, since) == ["Observation/of-new", "Patient/new"]


async def test_a_member_who_only_moved_between_nested_groups_has_not_joined(ward):
    await ward.store(
        group("g", "Group/a"), group("a", "Patient/old", "Patient/new"), group("b", actual=True)
    )
    since = await ward.now()
    await ward.store(group("g", "Group/a", "Group/b"), group("a", "Patient/old"))
    await ward.store(group("b", "Patient/new", "Group/a"))

    assert await since_export(ward, since) == []


async def test_everybody_joined_a_group_that_did_not_exist_yet(ward):
    since = await ward.now()
    await ward.store(group("g", "Patient/old"))

    assert await since_export(ward, since) == ["Observation/of-old", "Patient/old"]


@pytest.mark.parametrize("query", ["code:text=odd", "status=amended", "_id=odd,of-old"])
async def test_older_data_passes_the_filters(ward, query):
    odd = observation("odd", "new", code={"text": "odd"}) | {"status": "amended"}
    await ward.store(group("g", "Patient/old"), odd)
    since = await ward.now()
    await ward.store(group("g", "Patient/old", "Patient/new"))

    exported = await ward.export(
        ("_type", "Observation"),
        ("_since", since),
        ("_typeFilter", f"Observation?{query}"),
        group="g",
    )

    assert exported == ["Observation/odd"]


async def test_deletions_are_reported_once(ward):
    await ward.store(group("g", "Patient/old"), observation("gone-before", "new"))
    await ward.delete("Observation", "gone-before")
    since = await ward.now()
    await ward.store(group("g", "Patient/old", "Patient/new"))
    await ward.delete("Observation", "of-new")

    job = await ward.work(await ward.kick_off(TYPES, ("_since", since), group="g"))

    [bundle] = await ward.lines(job, PartKind.DELETED)
    assert [entry["request"]["url"] for entry in bundle["entry"]] == ["Observation/of-new"]
    assert [line["id"] for line in await ward.lines(job)] == ["new"]


async def test_older_data_is_exported_whatever_until_is(ward):
    await ward.store(group("g", "Patient/old"))
    since = await ward.now()
    await ward.store(group("g", "Patient/old", "Patient/new"))
    until = await ward.now()
    await ward.store(patient("new", active=True))

    exported = await ward.export(TYPES, ("_since", since), ("_until", until), group="g")

    assert exported == ["Observation/of-new"]


async def test_named_patients_narrow_the_newcomers(ward):
    await ward.store(group("g", actual=True), patient("third"))
    since = await ward.now()
    await ward.store(group("g", "Patient/old", "Patient/new", "Patient/third"))

    exported = await since_export(ward, since, patients=["third"])

    assert exported == ["Patient/third"]


async def test_a_since_in_the_future_makes_nobody_a_newcomer(ward):
    await ward.store(group("g", "Patient/old"))

    assert await since_export(ward, "2999-01-01T00:00:00Z") == []


async def test_excluding_leaves_out_members_added_after_since(excluding):
    await excluding.store(group("g", "Patient/old"))
    since = await excluding.now()
    await excluding.store(
        group("g", "Patient/old", "Patient/new"), patient("old"), patient("new", active=True)
    )
    await excluding.store(observation("later", "new"), observation("late", "old"))

    assert await since_export(excluding, since) == ["Observation/late"]


@pytest.mark.parametrize("joined", ["2024", "2024-01-01", "2024-01-01T00:00:00Z"])
async def test_excluding_honours_a_period_without_a_time(excluding, joined):
    await excluding.store(group("g", member("Patient/old", "2020"), member("Patient/new", joined)))

    exported = await since_export(excluding, "2023-12-31T23:59:59Z")

    assert exported == ["Observation/of-old", "Patient/old"]


async def test_excluding_keeps_members_who_may_have_joined_before(excluding):
    await excluding.store(group("g", member("Patient/new", "2024-01-01")))

    exported = await since_export(excluding, "2024-01-01T12:00:00Z")

    assert exported == ["Observation/of-new", "Patient/new"]


async def test_excluding_keeps_the_members_of_nested_groups(excluding):
    await excluding.store(group("g", "Group/inner"), group("inner", "Patient/old"))
    since = await excluding.now()
    await excluding.store(group("inner", "Patient/old", "Patient/new"))
    await excluding.store(observation("late", "old"), observation("later", "new"))

    assert await since_export(excluding, since) == ["Observation/late"]


async def test_excluding_keeps_everybody_when_the_group_itself_is_new(excluding):
    since = await excluding.now()
    await excluding.store(group("g", "Patient/old"), observation("late", "old"))

    assert await since_export(excluding, since) == ["Observation/late"]


async def test_excluding_exports_nothing_of_a_newcomer_who_is_named(excluding):
    await excluding.store(group("g", "Patient/old"))
    since = await excluding.now()
    await excluding.store(group("g", "Patient/old", "Patient/new"), observation("later", "new"))

    assert await since_export(excluding, since, patients=["new"]) == []


async def test_excluding_changes_nothing_without_since(excluding):
    await excluding.store(group("g", "Patient/old", member("Patient/new", "2024")))

    assert len(await excluding.export(TYPES, group="g")) == 4


@pytest.mark.parametrize("unknown", [group("g", type="practitioner"), group("g", "Group/none")])
async def test_excluding_leaves_nobody_out_when_nothing_is_known_about_before(excluding, unknown):
    await excluding.store(unknown)
    since = await excluding.now()
    await excluding.store(group("g", "Patient/old"), observation("late", "old"))

    assert await since_export(excluding, since) == ["Observation/late"]


async def test_clients_who_see_other_versions_of_a_group_have_cohorts_of_their_own(excluding):
    """Even at the same instant: equal keys mean equal patients."""
    await excluding.store(group("g", "Patient/old"))
    since = await excluding.now()
    named = {"identifier": [{"value": "ward"}]}
    await excluding.store(group("g", "Patient/old", "Patient/new", **named))
    job = await excluding.kick_off(TYPES, ("_since", since), group="g")
    limit = TypeConstraint(resource_type="Group", any_of=((("identifier", "ward"),),))
    cohorts = []

    for constraints in ((), (limit,)):
        request, at = replace(job.request, constraints=constraints), job.transaction_time
        own = permitted_backends(excluding.backends, request, at)
        cohorts.append((await resolve_view(own.data_provider, request, at)).cohort)

    assert [each.patients for each in cohorts] == [{"old"}, {"old", "new"}]
    assert cohorts[0].key != cohorts[1].key
