"""The rules of transactions (FHIR R4, http.html#trules): order, conditions and links."""

import os
import random

import msgspec
import pytest

from helios_core.errors import InvalidRequest, InvalidResource, MultipleMatches, RequestError
from helios_core.interactions.callers import Interaction
from helios_core.interactions.changes import Changes
from helios_core.interactions.conditions import Conditions
from helios_core.interactions.search_parameters import parse_criteria
from helios_core.interactions.transactions import STEPS
from helios_core.memory import MemoryDataProvider
from helios_core.storage.data_provider import ChangeResult, SearchQuery
from helios_core.storage.resource_keys import TypeKey
from tests.interactions.conftest import CollectedBundles
from tests.interactions.test_bundles import PATIENT, TEMPORARY, entry, observation

OTHER = "urn:uuid:11111111-1cbf-4d64-b04d-cd9187a4c6e0"
RUNS = int(os.environ.get("HFS_TEST_FUZZ_RUNS", "60"))


def patient(number, **elements):
    return PATIENT | {"identifier": [{"system": "http://mrn.example", "value": number}]} | elements


def identifier(number):
    return f"identifier=http://mrn.example|{number}"


@pytest.fixture
def live(provider, caller):
    """Return the live resources of a type by id, without what the server adds."""

    async def live(resource_type="Patient"):
        return await live_resources(provider, caller, resource_type)

    return live


async def live_resources(provider, caller, resource_type):
    query = SearchQuery(filter=parse_criteria(caller, resource_type, []))
    page = await provider.search(TypeKey.of(caller, resource_type), query, count=1000)
    resources = [msgspec.json.decode(stored.content) for stored in page.resources]
    return {
        each["id"]: {k: v for k, v in each.items() if k not in {"id", "meta"}}
        for each in resources
    }


def reference_of(completed, element="subject"):
    return msgspec.json.decode(completed.content())[element]["reference"]


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


async def test_chains_of_conditions_see_what_the_transaction_changes(bundles, caller, store):
    await store(
        patient("7", id="old"),
        observation("Patient/old") | {"id": "theirs"},
        observation("Patient/none") | {"id": "lost"},
    )

    deleted, _, found, created = await bundles.transaction(
        caller,
        [
            entry("DELETE", "Patient/old"),
            entry("POST", "Observation", observation(TEMPORARY) | {"status": "final"}),
            entry(
                "POST",
                "Observation",
                observation("Patient/x"),
                if_none_exist=f"subject:Patient.{identifier(7)}",
            ),
            entry("POST", "Patient", patient("7"), full_url=TEMPORARY),
        ],
    )

    assert found.outcome is ChangeResult.UNCHANGED
    assert reference_of(found) == f"Patient/{created.id}"
    assert deleted.outcome is ChangeResult.DELETED


@pytest.mark.parametrize(
    "criteria",
    [
        f"subject={TEMPORARY}",
        f"subject={TEMPORARY.upper()}",
        f"subject={OTHER},{TEMPORARY}",
        f"subject:Patient={TEMPORARY}",
        "subject=http://other.example/fhir/Patient/1",
        "subject=urn%3Auuid%3A0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0",
    ],
)
async def test_a_condition_may_refer_to_an_entry(bundles, caller, store, criteria):
    await store(patient("7", id="p"), observation("Patient/p") | {"id": "o"})
    url = "http://other.example/fhir/Patient/1" if "other" in criteria else TEMPORARY

    found, _, _ = await bundles.transaction(
        caller,
        [
            entry("POST", "Observation", observation(url), if_none_exist=criteria),
            entry("POST", "Patient", patient("7"), full_url=url, if_none_exist=identifier(7)),
            entry("PUT", "Patient/other", patient("9"), full_url=OTHER),
        ],
    )

    assert (found.outcome, found.id) == (ChangeResult.UNCHANGED, "o")


async def test_urls_may_refer_to_entries(bundles, caller, store):
    await store(patient("7", id="p"), observation("Patient/p") | {"id": "o"})
    patient_entry = entry("PUT", "Patient/p", patient("7"), full_url=TEMPORARY)

    updated, read, _ = await bundles.transaction(
        caller,
        [
            entry(
                "PUT",
                f"Observation?subject={TEMPORARY}",
                observation(TEMPORARY) | {"status": "final"},
            ),
            entry("GET", f"Observation?subject={TEMPORARY}"),
            patient_entry,
        ],
    )
    deleted, _ = await bundles.transaction(
        caller, [entry("DELETE", f"Observation?subject={TEMPORARY}"), patient_entry]
    )

    assert (updated.outcome, updated.id) == (ChangeResult.UPDATED, "o")
    assert [each.id for each in read.matches] == ["o"]
    assert (deleted.outcome, deleted.id) == (ChangeResult.DELETED, "o")


@pytest.mark.parametrize("form", ["/Patient?{}", "Patient/?{}", "http://fhir.example/Patient?{}"])
async def test_a_conditional_reference_may_be_spelled_as_an_address(bundles, caller, store, form):
    await store(patient("7", id="p"))
    reference = form.format(identifier(7))

    [linked] = await bundles.transaction(
        caller, [entry("POST", "Observation", observation(reference))]
    )

    assert reference_of(linked) == "Patient/p"


async def test_a_conditional_reference_may_refer_to_an_entry(bundles, caller):
    _, made, linked = await bundles.transaction(
        caller,
        [
            entry("POST", "Patient", patient("7"), full_url=TEMPORARY),
            entry(
                "POST",
                "Encounter",
                {"resourceType": "Encounter", "subject": {"reference": TEMPORARY}},
            ),
            entry(
                "POST",
                "Observation",
                {
                    "resourceType": "Observation",
                    "encounter": {"reference": f"Encounter?subject={TEMPORARY}"},
                },
            ),
        ],
    )

    assert reference_of(linked, "encounter") == f"Encounter/{made.id}"


@pytest.mark.parametrize(
    "wrong",
    [
        entry("POST", "Observation", PATIENT, if_none_exist=f"subject={OTHER}"),
        entry("PUT", f"Observation?subject={OTHER}", observation("Patient/x")),
        entry("DELETE", f"Observation?subject={OTHER}"),
        entry("GET", f"Observation?subject={OTHER}"),
        entry("POST", "Observation", observation(f"Patient?link={OTHER}")),
        entry("POST", "Observation", observation(OTHER)),
        entry("POST", "Observation", observation(OTHER.upper())),
        entry(
            "POST",
            "DocumentReference",
            {
                "resourceType": "DocumentReference",
                "content": [{"attachment": {"url": OTHER}}],
            },
        ),
    ],
)
async def test_a_link_to_no_entry_is_refused(bundles, caller, live, wrong):
    with pytest.raises(InvalidResource, match=r"^entry 1: .*temporary"):
        await bundles.transaction(caller, [entry("POST", "Patient", PATIENT), wrong])

    assert await live() == {}


async def test_an_identifier_that_reads_like_a_link_is_none(bundles, caller, store):
    system = {"system": "urn:oid:1.2.3", "value": TEMPORARY}
    await store(PATIENT | {"id": "p", "identifier": [system]})

    found, _ = await bundles.transaction(
        caller,
        [
            entry(
                "POST", "Patient", PATIENT, if_none_exist=f"identifier=urn:oid:1.2.3|{TEMPORARY}"
            ),
            entry("PUT", "Patient/q", PATIENT, full_url=TEMPORARY),
        ],
    )
    again, _ = await bundles.transaction(
        caller,
        [
            entry("POST", "Patient", PATIENT, if_none_exist=f"identifier={TEMPORARY}"),
            entry("PUT", "Patient/q", PATIENT, full_url=TEMPORARY),
        ],
    )

    assert found.id == again.id == "p"


async def test_conditions_that_refer_to_each_other_are_refused(bundles, caller, live):
    with pytest.raises(InvalidRequest, match="entry 0"):
        await bundles.transaction(
            caller,
            [
                entry(
                    "POST", "Patient", PATIENT, full_url=TEMPORARY, if_none_exist=f"link={OTHER}"
                ),
                entry(
                    "POST", "Patient", PATIENT, full_url=OTHER, if_none_exist=f"link={TEMPORARY}"
                ),
            ],
        )
    with pytest.raises(InvalidRequest, match="entry 0"):
        await bundles.transaction(
            caller,
            [
                entry("DELETE", f"Observation?subject={TEMPORARY}"),
                entry("PUT", f"Patient?{identifier(7)}", patient("7"), full_url=TEMPORARY),
            ],
        )

    assert await live() == {}


async def test_links_outside_references_become_real(bundles, caller):
    binary, document = await bundles.transaction(
        caller,
        [
            entry(
                "POST",
                "Binary",
                {"resourceType": "Binary", "contentType": "text/plain"},
                full_url=TEMPORARY,
            ),
            entry(
                "POST",
                "DocumentReference",
                {
                    "resourceType": "DocumentReference",
                    "content": [{"attachment": {"url": TEMPORARY.upper()}}],
                    "extension": [{"url": "http://x.example", "valueUri": TEMPORARY}],
                    "text": {
                        "status": "generated",
                        "div": f'<div><a href="{TEMPORARY}">x</a></div>',
                    },
                    "meta": {"profile": [TEMPORARY]},
                },
            ),
        ],
    )

    stored = msgspec.json.decode(document.content())
    target = f"Binary/{binary.id}"
    assert stored["content"] == [{"attachment": {"url": target}}]
    assert stored["extension"][0]["valueUri"] == target
    assert stored["text"]["div"] == f'<div><a href="{target}">x</a></div>'
    assert stored["meta"]["profile"] == [TEMPORARY]


async def test_full_urls_of_another_server_become_ids_of_this_one(bundles, caller):
    base = "http://other.example/fhir"
    made, relative, absolute = await bundles.transaction(
        caller,
        [
            entry("POST", "Patient", PATIENT, full_url=f"{base}/Patient/1"),
            entry(
                "POST", "Observation", observation("Patient/1"), full_url=f"{base}/Observation/2"
            ),
            entry("POST", "Observation", observation(f"{base}/Patient/1")),
        ],
    )

    assert reference_of(relative) == reference_of(absolute) == f"Patient/{made.id}"


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
