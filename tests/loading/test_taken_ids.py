"""The id of what an entry creates is a proposal: two resources do not become one for it."""

import json
import os
import random

import pytest

from helios_core.loading.link_scan import DISPLACED, MAX_ROUNDS
from tests.loading.linked import UUID, bundle

OTHER_UUID = "urn:uuid:d9f31445-f448-48c0-af57-295c005e07df"
RUNS = int(os.environ.get("HFS_TEST_FUZZ_RUNS", "40"))
PEOPLE = ("anna", "ben", "cleo")


def entry(resource, full_url=None, **request):
    request = {"method": "POST", "url": resource["resourceType"]} | request
    members = {"fullUrl": full_url, "resource": resource, "request": request}
    return {name: value for name, value in members.items() if value is not None}


def patient(family, resource_id="patient", **more):
    own_id = {"id": resource_id} if resource_id else {}
    return {"resourceType": "Patient"} | own_id | {"name": [{"family": family}]} | more


def observation(subject, resource_id="obs", **more):
    identity = {"resourceType": "Observation", "id": resource_id}
    return identity | {"status": "final", "subject": {"reference": subject}} | more


def producer(family, url="urn:uuid:patient", link=None, kind="transaction"):
    """Return a Bundle as one run of a producer writes it: only the name of the patient differs."""
    entries = [
        entry(patient(family), url),
        entry(observation(link or url), url and f"{url}-obs"),
    ]
    if kind == "collection":
        for each in entries:
            del each["request"]
    return bundle(*entries, kind=kind)


async def seen(store):
    """Return the families of the patients that the observations are about, sorted."""
    families = []
    for reference in store.references("Observation"):
        subject = json.loads(await store.text(reference))["subject"]["reference"]
        current = subject.partition("/_history")[0]
        families.append(json.loads(await store.text(current))["name"][0]["family"])
    return sorted(families)


@pytest.mark.parametrize("kind", ["transaction", "batch", "collection"])
@pytest.mark.parametrize("form", ["json", "json.gz", "ndjson"])
@pytest.mark.usefixtures("anywhere")
async def test_the_people_of_several_producers_stay_apart(store, write, kind, form):
    bundles = [producer(family, kind=kind) for family in PEOPLE]
    if form == "ndjson":
        paths = [write("all.ndjson", *bundles)]
    else:
        paths = [write(f"{number}.{form}", each) for number, each in enumerate(bundles)]

    summary = await store.load(*paths)

    assert (summary.created, summary.updated, summary.bad, summary.clashed) == (6, 0, 0, 4)
    assert not summary.is_good
    assert {clash.reason for clash in summary.clashes} == {DISPLACED}
    assert await seen(store) == list(PEOPLE)
    # The first has its ids.
    assert json.loads(await store.text("Patient/patient"))["name"] == [{"family": "anna"}]
    again = await store.load(*paths)
    assert (again.created, again.updated, again.unchanged, again.clashed) == (0, 0, 6, 4)


@pytest.mark.parametrize(
    ("urls", "link"),
    [
        ((None, None), "Patient/patient"),
        ((None, None), "Patient/patient/_history/1"),
        (("urn:uuid:a", "urn:uuid:b"), "Patient/patient"),
        ((UUID, OTHER_UUID), None),
        ((UUID, OTHER_UUID), "Patient/patient"),
        ((UUID, "http://a.example/Patient/patient"), "Patient/patient"),
        (("http://a.example/Patient/patient",) * 2, None),
        (("http://a.example/Patient/patient",) * 2, "Patient/patient"),
        (("http://a.example/Patient/x",) * 2, "Patient/patient"),
        (("http://a.example/Patient/patient", "http://b.example/Patient/patient"), None),
        (("http://a.example/Patient/x", "http://b.example/Patient/x"), "Patient/patient"),
    ],
)
async def test_they_stay_apart_however_they_are_named_and_linked(store, write, urls, link):
    paths = [
        write(f"{number}.json", producer(PEOPLE[number], url, link))
        for number, url in enumerate(urls)
    ]

    summary = await store.load(*paths)

    assert (summary.created, summary.updated, summary.bad) == (4, 0, 0)
    assert await seen(store) == ["anna", "ben"]


async def test_equal_contents_are_one_whatever_the_names_of_their_links(store, write):
    paths = [
        write(f"{name}.json", producer("anna", f"urn:uuid:{name}")) for name in ("a", "b", "c")
    ]

    summary = await store.load(*paths)

    assert summary.is_good
    assert (summary.created, summary.unchanged) == (2, 4)


async def test_what_is_shared_stays_shared(store, write):
    ward = {"resourceType": "Organization", "id": "ward", "name": "Ward"}
    bundles = [producer(family) for family in PEOPLE]
    for each in bundles:
        each["entry"].append(entry(ward))
        each["entry"][0]["resource"]["managingOrganization"] = {"reference": "Organization/ward"}

    summary = await store.load(write("all.ndjson", *bundles))

    assert (summary.created, summary.unchanged, summary.clashed) == (7, 2, 4)
    for reference in store.references("Patient"):
        assert '"Organization/ward"' in await store.text(reference)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("form", ["line", "PUT", "document"])
@pytest.mark.usefixtures("anywhere")
async def test_who_names_an_id_has_it_in_any_order(store, write, order, form):
    named = patient("zoe")
    if form == "PUT":
        named = bundle(entry(named, method="PUT", url="Patient/patient"))
    documents = [json.dumps(named, indent=1 if form == "document" else None), producer("anna")]
    suffix = "ndjson" if form == "line" else "json"
    paths = [write(f"{n}.{suffix}", each) for n, each in enumerate(documents)]

    summary = await store.load(*paths[::order])

    assert (summary.created, summary.updated, summary.clashed) == (3, 0, 1)
    assert '"zoe"' in await store.text("Patient/patient")
    assert await seen(store) == ["anna"]


async def test_of_what_names_an_id_the_last_is_kept(store, write):
    puts = [
        bundle(entry(patient(f), "urn:uuid:patient", method="PUT", url="Patient/patient"))
        for f in PEOPLE
    ]

    summary = await store.load(write("all.ndjson", *puts, patient("line"), patient("zoe")))

    assert summary.is_good
    assert (summary.created, summary.updated) == (1, 4)
    assert '"zoe"' in await store.text("Patient/patient")


async def test_a_line_with_the_same_content_is_one_with_what_is_created(store, write):
    summary = await store.load(write("all.ndjson", producer("anna"), patient("anna")))

    assert summary.is_good
    assert (summary.created, summary.unchanged) == (2, 1)


@pytest.mark.parametrize("kind", ["transaction", "collection"])
async def test_two_versions_with_one_real_uuid_are_one_resource(store, write, kind):
    doctor = {"resourceType": "Practitioner", "id": "d"}
    versions = [entry(doctor | {"active": active}, UUID) for active in (True, False)]
    if kind == "collection":
        for each in versions:
            del each["request"]

    summary = await store.load(write("all.ndjson", *(bundle(v, kind=kind) for v in versions)))

    assert summary.is_good
    assert (summary.created, summary.updated) == (1, 1)


async def test_a_real_uuid_takes_nothing_from_another_patient(store, write):
    bundles = [
        bundle(entry(patient(family), "urn:uuid:p"), entry(observation("urn:uuid:p"), UUID))
        for family in PEOPLE
    ]

    summary = await store.load(write("all.ndjson", *bundles))

    assert (summary.created, summary.updated) == (6, 0)
    assert await seen(store) == list(PEOPLE)


async def test_links_from_other_files_follow_a_real_uuid(store, write):
    bundles = [producer("anna", UUID), producer("ben", OTHER_UUID)]
    elsewhere = [observation(url, f"o{number}") for number, url in enumerate((UUID, OTHER_UUID))]

    summary = await store.load(write("all.ndjson", *elsewhere, *bundles))

    assert summary.unresolved == 0
    assert await seen(store) == ["anna", "anna", "ben", "ben"]


@pytest.mark.parametrize("length", [3, 2 * MAX_ROUNDS])
async def test_what_is_behind_long_chains_of_links_stays_apart(store, write, length):
    def chain(family):
        links = ["Patient/patient", *(f"Observation/o{number}" for number in range(length - 1))]
        observations = (
            {"resourceType": "Observation", "id": f"o{number}", "focus": [{"reference": link}]}
            for number, link in enumerate(links)
        )
        return bundle(entry(patient(family)), *map(entry, observations))

    summary = await store.load(write("all.ndjson", chain("anna"), chain("ben")))

    assert (summary.created, summary.updated, summary.bad) == (2 + 2 * length, 0, 0)
    links = {
        json.loads(await store.text(each))["focus"][0]["reference"]
        for each in store.references("Observation")
    }
    assert len(links) == 2 * length


async def test_ids_that_are_assigned_are_proposals_too(store, write):
    bundles = [
        bundle(entry(patient(family, "under_score")), entry(observation("Patient/under_score")))
        for family in PEOPLE
    ]

    summary = await store.load(write("all.ndjson", *bundles), assign_ids=True)

    assert (summary.created, summary.updated, summary.bad) == (6, 0, 0)
    assert await seen(store) == list(PEOPLE)


async def test_an_address_is_no_reason_to_make_one_of_two(store, write):
    url = "http://localhost:8080/fhir/Patient/1"
    bundles = [
        bundle(entry(patient(family, None), url), entry(observation(url))) for family in PEOPLE
    ]

    summary = await store.load(write("all.ndjson", *bundles))

    assert (summary.created, summary.updated, summary.bad) == (6, 0, 0)
    assert await seen(store) == list(PEOPLE)


@pytest.mark.parametrize(("values", "patients"), [(("1", "2"), 2), (("1", "1"), 1)])
async def test_conditions_decide_by_what_they_search(store, write, values, patients):
    bundles = [
        bundle(
            entry(
                patient(family, identifier=[{"value": value}]),
                "urn:uuid:p",
                ifNoneExist=f"identifier={value}",
            ),
            entry(observation("Patient/patient", f"o-{family}")),
        )
        for family, value in zip(PEOPLE, values, strict=False)
    ]

    summary = await store.load(write("all.ndjson", *bundles))

    assert (summary.created, summary.bad) == (2 + patients, 2 - patients)
    assert len(store.references("Patient")) == patients
    assert await seen(store) == (["anna", "ben"] if patients == 2 else ["anna", "anna"])


async def test_a_load_of_its_own_updates(store, write):
    await store.load(write("1.json", producer("anna")))

    summary = await store.load(write("2.json", producer("ben")))

    assert summary.is_good
    assert (summary.updated, summary.unchanged) == (1, 1)


@pytest.mark.parametrize("wrong", [{"meta": 5}, {"id": "a b"}, {"resourceType": "Nobody"}])
async def test_a_bad_entry_hides_nothing_of_its_bundle(store, write, wrong):
    bundles = [producer(family) for family in PEOPLE]
    for each in bundles:
        each["entry"].insert(0, entry(patient("bad", "bad") | wrong))

    summary = await store.load(write("all.ndjson", *bundles))

    assert (summary.created, summary.updated, summary.bad) == (6, 0, 3)
    assert await seen(store) == list(PEOPLE)


def random_bundle(chance, number):
    """Return a Bundle about one person with ids that others use, and what it observes of whom."""
    family, own_id = chance.choice(PEOPLE), chance.choice("ppq")
    base = chance.choice(["http://x.example/fhir/", f"http://y{number}.example/"])
    url = chance.choice([None, "urn:uuid:p", f"{UUID[:-3]}{number:03}", f"{base}Patient/z"])
    entries, observed = [entry(patient(family, own_id), url)], set()
    previous = []
    for index in range(chance.randint(1, 3)):
        value = chance.choice("abc")
        subject = chance.choice([url or f"Patient/{own_id}", f"Patient/{own_id}"])
        document = observation(subject, chance.choice([f"o{index}", f"o{number}-{index}"]))
        document |= {"valueString": value, "hasMember": previous}
        names = [None, f"urn:uuid:o{index}", f"{base}Observation/o{index}"]
        entries.append(entry(document, chance.choice(names)))
        previous = [{"reference": f"Observation/{document['id']}"}]
        observed.add((family, value))
    chance.shuffle(entries)
    return bundle(*entries, kind=chance.choice(["transaction", "batch"])), observed


@pytest.mark.parametrize("seed", range(RUNS))
async def test_everybody_keeps_what_was_observed_of_them(store, write, seed):
    chance = random.Random(seed)
    made = [random_bundle(chance, number) for number in range(chance.randint(2, 5))]
    path = write("all.ndjson", *(document for document, _ in made))

    summary, again = await store.load(path), await store.load(path)

    assert (summary.updated, summary.bad) == (0, 0)
    assert (again.created, again.updated) == (0, 0)
    families = dict[str, str]()
    observations = [json.loads(await store.text(each)) for each in store.references("Observation")]
    for each in observations:
        about = json.loads(await store.text(each["subject"]["reference"]))
        families[f"Observation/{each['id']}"] = about["name"][0]["family"]
    found = {(families[f"Observation/{each['id']}"], each["valueString"]) for each in observations}
    assert found == set[tuple[str, str]]().union(*(observed for _, observed in made))
    for each in observations:
        for member in each["hasMember"]:
            assert families[member["reference"]] == families[f"Observation/{each['id']}"]
