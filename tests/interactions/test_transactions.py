"""The rules of transactions (FHIR R4, http.html#trules): order and conditions."""

import os
import random

import msgspec
import pytest

from helios_core.errors import InvalidRequest, InvalidResource, MultipleMatches, RequestError
from helios_core.interactions.callers import Interaction
from helios_core.interactions.changes import Changes
from helios_core.interactions.conditions import Conditions
from helios_core.interactions.transactions import STEPS
from helios_core.memory import MemoryDataProvider
from helios_core.storage.data_provider import ChangeResult
from tests.interactions.conftest import CollectedBundles
from tests.interactions.entries import (
    PATIENT,
    TEMPORARY,
    entry,
    identifier,
    live_resources,
    observation,
    patient,
    reference_of,
)

RUNS = int(os.environ.get("HFS_TEST_FUZZ_RUNS", "60"))
OTHER = "urn:uuid:11111111-1cbf-4d64-b04d-cd9187a4c6e0"


@pytest.mark.parametrize("deletion", ["Patient/old", f"Patient?{identifier(7)}"])
async def test_a_create_does_not_match_what_the_transaction_deletes(
    bundles, caller, store, live, deletion
):
    await store(patient("7", id="old"))

    created, deleted, linked = await bundles.transaction(
        caller,
        [
            entry(
                "POST", "Patient", patient("7"), full_url=TEMPORARY, if_none_exist=identifier(7)
            ),
            entry("DELETE", deletion),
            entry("POST", "Observation", observation(TEMPORARY)),
        ],
    )

    assert (created.outcome, deleted.outcome) == (ChangeResult.CREATED, ChangeResult.DELETED)
    assert list(await live()) == [created.id] != ["old"]
    assert reference_of(linked) == f"Patient/{created.id}"


async def test_replacing_a_resource_again_and_again_leaves_one(bundles, caller, live):
    for number in range(4):
        await bundles.transaction(
            caller,
            [
                entry("DELETE", f"Patient?{identifier(7)}"),
                entry(
                    "POST",
                    "Patient",
                    patient("7", multipleBirthInteger=number),
                    if_none_exist=identifier(7),
                ),
            ],
        )

        assert [each["multipleBirthInteger"] for each in (await live()).values()] == [number]


async def test_an_update_does_not_match_what_the_transaction_deletes(bundles, caller, store, live):
    await store(patient("7", id="old"))

    updated, _ = await bundles.transaction(
        caller,
        [
            entry("PUT", f"Patient?{identifier(7)}", patient("7", id="new")),
            entry("DELETE", "Patient/old"),
        ],
    )

    assert (updated.outcome, updated.id) == (ChangeResult.CREATED, "new")
    assert list(await live()) == ["new"]


async def test_of_several_matches_the_deleted_ones_do_not_count(bundles, caller, store, live):
    await store(*(patient("7", id=f"p{number}") for number in range(9)))

    results = await bundles.transaction(
        caller,
        [
            *(entry("DELETE", f"Patient/p{number}") for number in range(8)),
            entry("POST", "Patient", patient("7"), if_none_exist=identifier(7)),
        ],
    )

    assert (results[8].outcome, results[8].id) == (ChangeResult.UNCHANGED, "p8")
    assert list(await live()) == ["p8"]


@pytest.mark.parametrize("turned", [False, True])
async def test_a_conditional_create_matches_a_plain_one(bundles, caller, live, turned):
    entries = [
        entry("POST", "Patient", patient("7", active=True)),
        entry("POST", "Patient", patient("7"), full_url=TEMPORARY, if_none_exist=identifier(7)),
        entry("POST", "Observation", observation(TEMPORARY)),
    ]
    if turned:
        entries.reverse()

    results = await bundles.transaction(caller, entries)

    created, found, linked = reversed(results) if turned else results
    assert (found.outcome, found.id, found.version_id) == (ChangeResult.UNCHANGED, created.id, 1)
    assert found.content() == created.content()
    assert reference_of(linked) == f"Patient/{created.id}"
    assert list(await live()) == [created.id]


async def test_equal_creates_on_equal_conditions_are_one(bundles, caller, live):
    first, second, *linked = await bundles.transaction(
        caller,
        [
            entry(
                "POST", "Patient", patient("7"), full_url=TEMPORARY, if_none_exist=identifier(7)
            ),
            entry("POST", "Patient", patient("7"), full_url=OTHER, if_none_exist=identifier(7)),
            entry("POST", "Observation", observation(TEMPORARY)),
            entry("POST", "Observation", observation(OTHER)),
        ],
    )

    assert (first.outcome, second.outcome) == (ChangeResult.CREATED, ChangeResult.UNCHANGED)
    assert list(await live()) == [first.id] == [second.id]
    assert {reference_of(each) for each in linked} == {f"Patient/{first.id}"}


@pytest.mark.parametrize(
    "entries",
    [
        # deleted and changed
        [entry("DELETE", "Patient/old"), entry("PUT", "Patient/old", PATIENT)],
        [entry("DELETE", f"Patient?{identifier(7)}"), entry("PUT", "Patient/old", PATIENT)],
        [entry("DELETE", "Patient/old"), entry("DELETE", f"Patient?{identifier(7)}")],
        # changed twice
        [entry("PUT", "Patient/old", PATIENT), entry("PUT", f"Patient?{identifier(7)}", PATIENT)],
        [
            entry("PUT", f"Patient?{identifier(7)}", patient("7")),
            entry("PUT", "Patient?active=true", patient("7")),
        ],
        # created and changed
        [
            entry("POST", "Patient", patient("8")),
            entry("PUT", f"Patient?{identifier(8)}", patient("8")),
        ],
        [
            entry("POST", "Patient", patient("8"), if_none_exist=identifier(8)),
            entry("PUT", f"Patient?{identifier(8)}", patient("8")),
        ],
        # created twice
        [
            entry("POST", "Patient", patient("8"), if_none_exist=identifier(8)),
            entry("POST", "Patient", patient("8", active=True), if_none_exist=identifier(8)),
        ],
        [
            entry("POST", "Patient", patient("8", gender="male"), if_none_exist=identifier(8)),
            entry("POST", "Patient", patient("8", gender="male"), if_none_exist="gender=male"),
        ],
        [
            entry("PUT", f"Patient?{identifier(8)}", patient("8", id="one")),
            entry("PUT", f"Patient?{identifier(8)}", patient("8", id="two")),
        ],
        [
            entry("PUT", f"Patient?{identifier(8)}", patient("8")),
            entry("PUT", "Patient/new", patient("8")),
        ],
        # one more match, or one less
        [
            entry("PUT", f"Patient?{identifier(7)}", patient("7", active=True)),
            entry("PUT", "Patient/new", patient("7")),
        ],
        # two meanings of one fullUrl
        [
            entry("POST", "Patient", patient("8"), full_url=TEMPORARY),
            entry("POST", "Patient", patient("9"), full_url=TEMPORARY.upper()),
        ],
    ],
)
async def test_what_depends_on_the_order_of_entries_is_refused(
    bundles, caller, store, live, entries
):
    await store(patient("7", id="old", active=True))
    before = await live()

    for ordered in (entries, entries[::-1]):
        with pytest.raises(InvalidRequest, match="entr"):
            await bundles.transaction(caller, ordered)

    assert await live() == before


async def test_two_creates_make_a_condition_ambiguous(bundles, caller, live):
    with pytest.raises(MultipleMatches, match="entry 1"):
        await bundles.transaction(
            caller,
            [
                entry("POST", "Patient", patient("7")),
                entry("POST", "Patient", patient("7"), if_none_exist=identifier(7)),
                entry("POST", "Patient", patient("7")),
            ],
        )

    assert await live() == {}


@pytest.mark.parametrize(
    "change",
    [
        entry("POST", "Patient", patient("7", id="theirs")),
        entry("POST", "Patient", patient("7"), if_none_exist=identifier(7)),
        entry("PUT", "Patient/new", patient("7")),
        entry("PUT", f"Patient?{identifier(7)}", patient("7")),
        entry("PUT", f"Patient?{identifier(8)}", patient("7")),
    ],
)
async def test_a_conditional_reference_sees_all_changes(bundles, caller, store, change):
    await store(patient("7", id="old"), patient("8", id="other"))

    linked, changed, _ = await bundles.transaction(
        caller,
        [
            entry("POST", "Observation", observation(f"Patient?{identifier(7)}")),
            change,
            entry("DELETE", "Patient/old"),
        ],
    )

    assert reference_of(linked) == f"Patient/{changed.id}"


@pytest.mark.parametrize(
    "change", [entry("DELETE", "Patient/a"), entry("PUT", "Patient/a", patient("8"))]
)
async def test_a_conditional_reference_to_what_is_no_more_is_refused(
    bundles, caller, store, live, change
):
    await store(patient("7", id="a"))

    with pytest.raises(InvalidResource, match="entry 1"):
        await bundles.transaction(
            caller, [change, entry("POST", "Observation", observation(f"Patient?{identifier(7)}"))]
        )

    assert await live("Observation") == {}


class OnWrite:
    """A provider in which something happens just before its first write."""

    def __init__(self, inner, happening):
        self._inner = inner
        self._happening = happening

    def __getattr__(self, name):
        return getattr(self._inner, name)

    async def search(self, key, query, *, count, after=None):
        return await self._inner.search(key, query, count=count, after=after)

    async def write(self, tenant, fhir_version, changes):
        happening, self._happening = self._happening, None
        if happening is not None:
            await happening()
        return await self._inner.write(tenant, fhir_version, changes)


async def test_a_transaction_looks_again_when_another_writer_was_faster(
    provider, caller, bundles, store, live
):
    await store(patient("7", id="old"))
    replacement = [
        entry("DELETE", f"Patient?{identifier(7)}"),
        entry(
            "POST",
            "Patient",
            patient("7", active=True),
            full_url=TEMPORARY,
            if_none_exist=identifier(7),
        ),
        entry("PUT", "Observation/o", observation(TEMPORARY)),
    ]

    async def faster():
        await bundles.transaction(caller, replacement)

    contended = OnWrite(provider, faster)
    conditions = Conditions(contended, secret="a secret")
    slow = CollectedBundles(contended, Changes(contended, conditions), conditions)

    _, created, linked = await slow.transaction(caller, replacement)

    assert list(await live()) == [created.id]
    assert reference_of(linked) == f"Patient/{created.id}"


NUMBERS = ("1", "2", "3")


def random_entries(chance):
    """Return the entries of a transaction that may or may not be allowed."""
    makers = [
        lambda _, m: entry("POST", "Patient", patient(m)),
        lambda n, m: entry("POST", "Patient", patient(m), if_none_exist=identifier(n)),
        lambda n, m: entry("PUT", f"Patient/p{n}", patient(m)),
        lambda n, m: entry("PUT", f"Patient?{identifier(n)}", patient(m)),
        lambda n, m: entry("PUT", f"Patient?{identifier(n)}", patient(m, id=f"n{m}")),
        lambda n, _: entry("DELETE", f"Patient/p{n}"),
        lambda n, _: entry("DELETE", f"Patient?{identifier(n)}"),
        lambda n, m: entry("PUT", f"Observation/o{n}", observation(f"Patient?{identifier(m)}")),
    ]
    return [
        chance.choice(makers)(chance.choice(NUMBERS), chance.choice((*NUMBERS, "4")))
        for _ in range(chance.randint(2, 4))
    ]


@pytest.mark.parametrize("seed", range(RUNS))
async def test_the_order_of_entries_does_not_matter(caller, seed):
    """FHIR R4, http.html#trules: the outcome SHALL NOT depend on the order of the entries."""
    chance = random.Random(seed)
    entries = random_entries(chance)
    stored = [
        entry("PUT", f"Patient/p{number}", patient(number))
        for number in NUMBERS
        if chance.random() < 0.7
    ]
    outcomes = []
    for _ in range(3):
        provider = MemoryDataProvider()
        conditions = Conditions(provider, secret="a secret")
        bundles = CollectedBundles(provider, Changes(provider, conditions), conditions)
        await bundles.transaction(caller, stored)
        before = await live_resources(provider, caller, "Patient")
        try:
            await bundles.transaction(caller, entries)
        except RequestError:
            outcomes.append("refused")
            assert await live_resources(provider, caller, "Patient") == before
        else:
            patients = await live_resources(provider, caller, "Patient")
            observations = await live_resources(provider, caller, "Observation")
            references = {each["subject"]["reference"] for each in observations.values()}
            assert references <= {f"Patient/{each}" for each in patients}
            outcomes.append(sorted(msgspec.json.encode(each) for each in patients.values()))
        chance.shuffle(entries)

    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_every_interaction_has_its_place_in_the_order():
    assert [sorted(step) for step in STEPS] == [["delete"], ["create"], ["patch", "update"]]
    assert Interaction.READ not in frozenset().union(*STEPS)
