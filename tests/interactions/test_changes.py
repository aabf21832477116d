import asyncio

import msgspec
import pytest

from helios_core.errors import (
    InvalidRequest,
    InvalidResource,
    MultipleMatches,
    ResourceExists,
    UnsupportedParameter,
    VersionConflict,
)
from helios_core.interactions.callers import Interaction
from helios_core.interactions.changes import Changes
from helios_core.interactions.conditions import ATTEMPTS, Conditions
from helios_core.interactions.read import read
from helios_core.storage.data_provider import AppliedChange, ChangeResult
from tests.interactions.conftest import change
from tests.interactions.narrowed import OnlyWritable

PATIENT = {
    "resourceType": "Patient",
    "identifier": [{"system": "http://mrn.example", "value": "7"}],
}
CRITERIA = [("identifier", "http://mrn.example|7")]


def decoded(completed):
    return msgspec.json.decode(completed.content())


async def test_a_create_stores_the_body_under_an_id_of_its_own(create, provider, caller):
    completed = await create(PATIENT | {"id": "theirs"})

    stored = await read(provider, caller, "Patient", completed.id)
    assert (completed.outcome, completed.version_id) == (ChangeResult.CREATED, 1)
    assert completed.id != "theirs"
    assert completed.content() == stored.content
    assert completed.last_updated == stored.last_updated


async def test_an_update_creates_changes_or_leaves_a_resource(update):
    outcomes = [
        await update(PATIENT | {"id": "a"}),
        await update(PATIENT | {"id": "a", "active": True}),
        await update(PATIENT | {"id": "a", "active": True}),
    ]

    assert [(each.outcome, each.version_id) for each in outcomes] == [
        (ChangeResult.CREATED, 1),
        (ChangeResult.UPDATED, 2),
        (ChangeResult.UNCHANGED, 2),
    ]
    assert decoded(outcomes[2])["meta"]["versionId"] == "2"


async def test_a_delete_leaves_no_content(update, delete):
    await update(PATIENT | {"id": "a"})

    deleted, again = await delete("Patient", "a"), await delete("Patient", "a")
    never = await delete("Patient", "never")

    assert (deleted.outcome, deleted.version_id) == (ChangeResult.DELETED, 2)
    assert (again.outcome, again.version_id) == (ChangeResult.ABSENT, 2)
    assert (never.outcome, never.version_id, never.last_updated) == (ChangeResult.ABSENT, 0, None)
    assert deleted.content() is None


async def test_a_change_of_another_version_than_the_current_one_is_refused(update, delete):
    await update(PATIENT | {"id": "a"})

    with pytest.raises(VersionConflict):
        await update(PATIENT | {"id": "a", "active": True}, if_match=2)
    with pytest.raises(VersionConflict):
        await delete("Patient", "a", if_match=2)
    assert (await delete("Patient", "a", if_match=1)).version_id == 2


async def test_a_body_of_another_type_or_id_is_refused(create, update):
    with pytest.raises(InvalidResource):
        await update(PATIENT | {"id": "a"}, id="b")
    with pytest.raises(InvalidResource):
        await create(PATIENT | {"meta": 1})


async def test_a_conditional_create_leaves_what_matches(create, update):
    await update(PATIENT | {"id": "a"})

    completed = await create(PATIENT | {"active": True}, criteria=CRITERIA)

    assert (completed.outcome, completed.id) == (ChangeResult.UNCHANGED, "a")
    assert "active" not in decoded(completed)


async def test_a_conditional_create_of_an_invalid_body_is_refused_whatever_matches(create, update):
    await update(PATIENT | {"id": "a"})

    with pytest.raises(InvalidResource):
        await create(PATIENT | {"meta": 1}, criteria=CRITERIA)


async def test_conditional_creates_at_the_same_time_store_one_resource(create):
    outcomes = await asyncio.gather(*(create(PATIENT, criteria=CRITERIA) for _ in range(10)))

    assert sorted(each.outcome for each in outcomes) == ["created", *["unchanged"] * 9]
    assert len({each.id for each in outcomes}) == 1


async def test_a_conditional_update_stores_under_the_id_of_the_match(update):
    await update(PATIENT | {"id": "a"})

    completed = await update(PATIENT | {"active": True}, criteria=CRITERIA)

    assert (completed.outcome, completed.id) == (ChangeResult.UPDATED, "a")


async def test_a_conditional_update_without_a_match_creates(update):
    first = await update(PATIENT | {"id": "own"}, criteria=CRITERIA)
    other = [("identifier", "http://mrn.example|8")]

    assert (first.outcome, first.id) == (ChangeResult.CREATED, "own")
    with pytest.raises(ResourceExists):
        await update(PATIENT | {"id": "own"}, criteria=other)
    assert (await update(PATIENT, criteria=other)).outcome is ChangeResult.CREATED


async def test_a_conditional_delete_without_a_match_is_done_already(update, delete):
    await update(PATIENT | {"id": "a"})

    deleted = await delete("Patient", criteria=CRITERIA)
    again = await delete("Patient", criteria=CRITERIA, if_match=1)

    assert (deleted.outcome, deleted.id) == (ChangeResult.DELETED, "a")
    assert (again.outcome, again.id, again.version_id) == (ChangeResult.ABSENT, "", 0)


async def test_a_condition_that_several_resources_meet_changes_nothing(update, create, delete):
    await update(PATIENT | {"id": "a"})
    await update(PATIENT | {"id": "b"})

    for changed in (
        create(PATIENT, criteria=CRITERIA),
        update(PATIENT, criteria=CRITERIA),
        delete("Patient", criteria=CRITERIA),
    ):
        with pytest.raises(MultipleMatches):
            await changed


@pytest.mark.parametrize("criteria", [[], [("_format", "json")], [("bogus", "1")]])
async def test_criteria_that_select_nothing_are_refused(create, criteria):
    with pytest.raises(InvalidRequest):
        await create(PATIENT, criteria=criteria)


async def test_a_conditional_change_names_the_version_of_the_match(update):
    await update(PATIENT | {"id": "a"})

    with pytest.raises(VersionConflict, match="has version 1"):
        await update(PATIENT, criteria=CRITERIA, if_match=2)
    with pytest.raises(VersionConflict, match="does not exist"):
        await update(PATIENT, criteria=[("identifier", "none")], if_match=1)


class Contended:
    """A writer that meets a number of conflicts first."""

    def __init__(self, conflicts):
        self.conflicts = conflicts

    async def write(self, tenant, fhir_version, changes):
        if self.conflicts:
            self.conflicts -= 1
            raise VersionConflict("another process was faster")
        return [
            AppliedChange(outcome=ChangeResult.UPDATED, version_id=2, last_updated=None)
            for _ in changes
        ]


async def test_a_conditional_change_is_attempted_again_after_a_conflict(caller, conditions):
    changes = Changes(Contended(ATTEMPTS - 1), conditions)

    completed = await changes.apply(caller, change(Interaction.UPDATE, PATIENT, criteria=CRITERIA))

    assert completed.version_id == 2


async def test_a_conditional_change_that_always_meets_a_conflict_is_refused(caller, conditions):
    writer = Contended(ATTEMPTS + 2)

    with pytest.raises(VersionConflict):
        await Changes(writer, conditions).apply(
            caller, change(Interaction.UPDATE, PATIENT, criteria=CRITERIA)
        )

    assert writer.conflicts == 2


async def test_an_unconditional_change_is_attempted_once(caller, conditions):
    writer = Contended(2)
    request = change(Interaction.UPDATE, PATIENT | {"id": "a"}, id="a", if_match=1)

    with pytest.raises(VersionConflict):
        await Changes(writer, conditions).apply(caller, request)

    assert writer.conflicts == 1


async def test_without_search_there_are_no_conditions(caller, provider):
    writer = OnlyWritable(provider)
    changes = Changes(writer, Conditions(writer, secret="a secret"))

    with pytest.raises(UnsupportedParameter):
        await changes.apply(caller, change(Interaction.CREATE, PATIENT, criteria=CRITERIA))
    created = await changes.apply(caller, change(Interaction.CREATE, PATIENT))
    assert created.outcome is ChangeResult.CREATED
