"""Conditional references and conditional changes find what the files and the store hold."""

import json

import pytest

from helios_core.fhir.definitions import FHIRVersion
from helios_core.loading.link_index import Match
from helios_core.loading.load import load
from helios_core.storage.data_provider import SupportsWrites
from tests.loading.linked import UUID, bundle, entry, observation, resource, stored, subject

NPI = "http://hl7.org/fhir/sid/us-npi"
DOCTOR = f"Practitioner?identifier={NPI}|99"


def doctor(resource_id, value="99"):
    return resource(f"Practitioner/{resource_id}", identifier=[{"system": NPI, "value": value}])


def seen_by(resource_id, reference):
    return observation(resource_id, "Patient/p", performer=[{"reference": reference}])


async def performer(store, resource_id):
    content = await stored(store, f"Observation/{resource_id}")
    return content["performer"][0]["reference"]


@pytest.mark.parametrize(
    "search",
    [
        DOCTOR,
        "Practitioner?identifier=http%3A%2F%2Fhl7.org%2Ffhir%2Fsid%2Fus-npi%7C99",
        "Practitioner?identifier=99",
        "Practitioner?identifier=98,99&active:not=false",
        "Practitioner?name=strange&_format=json",
        "Practitioner?_id=dr",
    ],
)
@pytest.mark.parametrize("in_bundles", [True, False])
@pytest.mark.parametrize("order", ["1", "9"])
@pytest.mark.usefixtures("anywhere")
async def test_a_conditional_reference_finds_what_the_files_hold(
    store, write, search, in_bundles, order
):
    found = doctor("dr") | {"name": [{"family": "Strange"}]}
    lines = [found, doctor("other", "97")]
    doctors = [bundle(*map(entry, lines), kind="batch")] if in_bundles else lines
    paths = [
        write(f"{order}.ndjson", *doctors),
        write("5.json", bundle(entry(seen_by("o", search)))),
    ]

    summary = await store.load(*sorted(paths))

    assert summary.is_good
    assert await performer(store, "o") == "Practitioner/dr"


@pytest.mark.parametrize("mark", ["\\u003f", "\\u003F"])
async def test_a_conditional_reference_may_be_spelled_with_escapes(store, write, mark):
    text = json.dumps(seen_by("o", DOCTOR)).replace("?", mark)

    summary = await store.load(write("a.ndjson", doctor("dr"), text))

    assert summary.is_good
    assert await performer(store, "o") == "Practitioner/dr"


@pytest.mark.usefixtures("anywhere")
async def test_a_conditional_reference_finds_what_is_stored(store, write):
    await store.load(write("1.ndjson", doctor("dr")))
    path = write("2.ndjson", seen_by("o", DOCTOR))

    summary, again = await store.load(path), await store.load(path)

    assert summary.is_good
    assert again.unchanged == 1
    assert await performer(store, "o") == "Practitioner/dr"


async def test_what_is_stored_and_loaded_again_is_one_match(store, write):
    paths = [write("1.ndjson", doctor("dr")), write("2.ndjson", seen_by("o", DOCTOR))]

    await store.load(*paths)
    again = await store.load(*paths)

    assert again.is_good
    assert again.unchanged == 2


@pytest.mark.parametrize("changed_in", ["store", "files"])
@pytest.mark.parametrize("change", ["update", "delete"])
@pytest.mark.usefixtures("anywhere")
async def test_what_the_load_changes_no_longer_matches_as_it_was(store, write, changed_in, change):
    old = write("1.ndjson", doctor("old"))
    if changed_in == "store":
        await store.load(old)
    gone = (
        bundle(entry(doctor("old", "0"), None, "PUT", "Practitioner/old"))
        if change == "update"
        else bundle({"request": {"method": "DELETE", "url": "Practitioner/old"}})
    )
    paths = [
        *([old] if changed_in == "files" else []),
        write("2.json", gone),
        write("3.ndjson", doctor("new"), seen_by("o", DOCTOR)),
    ]

    summary = await store.load(*paths)

    assert summary.is_good
    assert await performer(store, "o") == "Practitioner/new"


async def test_a_reference_to_what_the_load_deletes_is_reported(store, write):
    await store.load(write("1.ndjson", doctor("dr")))
    delete = bundle({"request": {"method": "DELETE", "url": "Practitioner/dr"}})

    summary = await store.load(write("2.json", delete), write("3.ndjson", seen_by("o", DOCTOR)))

    assert summary.unmatched_by_reason == ((Match.NOTHING, 1),)
    assert await performer(store, "o") == DOCTOR


async def test_matches_behind_many_changed_ones_are_found(store, write):
    before = [doctor(f"a{number:03}") for number in range(30)]
    await store.load(write("1.ndjson", *before, doctor("z")))
    after = [doctor(f"a{number:03}", "0") for number in range(30)]

    summary = await store.load(write("2.ndjson", *after, seen_by("o", DOCTOR)))

    assert summary.is_good
    assert await performer(store, "o") == "Practitioner/z"


@pytest.mark.parametrize("in_store", [True, False])
async def test_several_matches_are_reported_and_counted(store, write, in_store):
    first, second = write("1.ndjson", doctor("a")), write("2.ndjson", doctor("b"))
    if in_store:
        await store.load(first)
    path = write("3.ndjson", seen_by("o", DOCTOR), seen_by("p", DOCTOR))

    summary = await store.load(*([] if in_store else [first]), second, path)

    assert (summary.bad, summary.unmatched) == (0, 2)
    assert summary.unmatched_by_reason == ((Match.SEVERAL, 2),)
    assert summary.unmatched_by_file == ((path, 2),)
    assert not summary.is_good
    assert await performer(store, "o") == DOCTOR


@pytest.mark.parametrize(
    ("search", "reason"),
    [
        (f"Practitioner?identifier={NPI}|0", Match.NOTHING),
        ("Organization?identifier=x|99", Match.NOTHING),
        ("Practitioner?nonsense=1", Match.UNSUPPORTED),
        ("Practitioner?", Match.UNSUPPORTED),
        ("Practitioner?_format=json", Match.UNSUPPORTED),
        ("Nobody?identifier=1", Match.UNSUPPORTED),
        ("PractitionerRole?practitioner.name=x", Match.UNSUPPORTED),
        ("Observation?date=yesterday", Match.UNSUPPORTED),
        ("Practitioner?identifier=%FF", Match.UNSUPPORTED),
    ],
)
@pytest.mark.usefixtures("anywhere")
async def test_what_matches_nothing_is_kept_reported_and_counted(store, write, search, reason):
    path = write("o.ndjson", doctor("dr"), seen_by("o", search))

    summary = await store.load(path)

    assert (summary.created, summary.bad, summary.unmatched) == (2, 0, 1)
    assert summary.unmatched_by_reason == ((reason, 1),)
    assert not summary.is_good
    assert await performer(store, "o") == search


async def test_a_store_without_search_leaves_the_files(write):
    class Writing(SupportsWrites):
        def __init__(self):
            self.resources = []

        async def write(self, tenant, fhir_version, changes):
            self.resources += [change.resource for change in changes]
            return []

    store = Writing()
    paths = [write("1.ndjson", seen_by("o", DOCTOR)), write("2.ndjson", doctor("dr"))]

    summary = await load(paths, store, tenant="t", fhir_version=FHIRVersion.R4)

    assert summary.is_good
    assert b'"reference":"Practitioner/dr"' in store.resources[0].tail


async def test_conditional_references_find_nothing_of_another_tenant(store, write):
    await store.load(write("1.ndjson", doctor("dr")), tenant="other")

    summary = await store.load(write("2.ndjson", seen_by("o", DOCTOR)))

    assert summary.unmatched == 1


async def test_a_conditional_reference_finds_what_gets_its_id_on_the_way(store, write):
    without_id = doctor("")
    documents = [bundle(entry(without_id, "urn:uuid:d")), seen_by("o", DOCTOR)]

    summary = await store.load(write("a.ndjson", *documents))

    assert summary.is_good
    assert store.references("Practitioner") == [await performer(store, "o")]


@pytest.mark.parametrize("form", ["/{}?{}", "{}/?{}", "http://here.example/fhir/{}?{}"])
@pytest.mark.usefixtures("anywhere")
async def test_conditional_references_may_be_spelled_as_addresses(store, write, form):
    spelled = form.format(*DOCTOR.split("?"))
    path = write("a.ndjson", doctor("dr"), seen_by("o", spelled), seen_by("p", DOCTOR))

    summary = await store.load(path, base_urls=("http://here.example/fhir",))

    assert summary.is_good
    assert [await performer(store, name) for name in "op"] == ["Practitioner/dr"] * 2


async def test_a_bundle_that_is_stored_keeps_its_references(store, write):
    inner = seen_by("o", DOCTOR)
    kept = resource("Bundle/b", type="document", entry=[{"resource": inner}])

    summary = await store.load(write("a.ndjson", kept))

    assert summary.is_good
    assert (await stored(store, "Bundle/b"))["entry"][0]["resource"] == inner


async def test_many_conditional_references_are_found_by_terms(store, write):
    doctors = [doctor(f"d{number}", str(number)) for number in range(2000)]
    seen = [
        seen_by(f"o{number}", f"Practitioner?identifier={NPI}|{number}") for number in range(2000)
    ]

    summary = await store.load(write("1.ndjson", *seen), write("2.ndjson", *doctors))

    assert summary.is_good
    assert await performer(store, "o1999") == "Practitioner/d1999"


def conditional(document, family, method="POST"):
    """Return an entry that creates a patient on the condition that no other has its identifier."""
    patient = resource("Patient", identifier=[{"value": "1"}], name=[{"family": family}])
    made = entry(patient, document, method, None if method == "POST" else "Patient?identifier=1")
    if method == "POST":
        made["request"]["ifNoneExist"] = "identifier=1"
    return made


SECOND = "urn:uuid:22222222-2222-4222-8222-222222222222"


@pytest.mark.usefixtures("anywhere")
async def test_of_two_conditional_creates_the_first_is_loaded(store, write):
    second = SECOND
    paths = [
        write("1.json", bundle(conditional(UUID, "a"), entry(observation("o1", UUID)))),
        write("2.json", bundle(conditional(second, "b"), entry(observation("o2", second)))),
        write("3.json", bundle(entry(observation("o3", second)))),
        write("4.json", observation("o4", "Patient?identifier=1")),
    ]

    for _ in range(2):  # loading again is an update of what was created
        summary = await store.load(*paths)
        assert (summary.bad, summary.unmatched, summary.unresolved) == (1, 0, 0)
    [found] = summary.problems
    assert (found.path, found.entry) == (str(paths[1]), 0)
    assert "another resource matches its condition" in found.reason
    [patient] = store.references("Patient")
    assert [await subject(store, f"o{n}") for n in range(1, 5)] == [patient] * 4
    assert (await stored(store, patient))["name"] == [{"family": "a"}]


@pytest.mark.parametrize("form", ["with a fullUrl", "without one"])
@pytest.mark.usefixtures("anywhere")
async def test_a_conditional_update_updates_what_is_stored_and_matches(store, write, form):
    identifiers = [{"value": "1"}, {"value": "2"}]
    await store.load(write("0.json", resource("Patient/p", identifier=identifiers)))
    put = conditional(UUID, "a", "PUT")
    if form == "without one":
        del put["fullUrl"]
    by_name, by_old = (
        observation(name, f"Patient?{query}")
        for name, query in (("n", "family=a"), ("o", "identifier=2"))
    )
    path = write("1.json", bundle(put, entry(by_name), entry(by_old)))

    summary = await store.load(path)

    assert (summary.created, summary.updated, summary.bad) == (2, 1, 0)
    assert store.references("Patient") == ["Patient/p"]
    patient = await stored(store, "Patient/p")
    assert (patient["name"], len(patient["identifier"])) == ([{"family": "a"}], 1)
    # Conditional references see what is stored after the load.
    assert await subject(store, "n") == "Patient/p"
    assert (await subject(store, "o"), summary.unmatched) == ("Patient?identifier=2", 1)
    again = await store.load(path)
    assert (again.created, again.updated, again.bad) == (0, 0, 0)


@pytest.mark.usefixtures("anywhere")
async def test_of_two_conditional_updates_the_second_updates_what_the_first_creates(store, write):
    paths = [
        write("1.json", bundle(conditional(UUID, "a", "PUT"), entry(observation("o1", UUID)))),
        write("2.json", bundle(conditional(SECOND, "b", "PUT"), entry(observation("o2", SECOND)))),
        write("3.json", bundle(entry(observation("o3", SECOND)))),
        write("4.json", observation("o4", "Patient?identifier=1")),
    ]

    summary = await store.load(*paths)

    assert (summary.bad, summary.unmatched, summary.unresolved) == (0, 0, 0)
    [patient] = store.references("Patient")
    assert [await subject(store, f"o{n}") for n in range(1, 5)] == [patient] * 4
    assert (await stored(store, patient))["name"] == [{"family": "b"}]


async def test_a_conditional_update_with_another_id_than_the_match_is_bad(store, write):
    await store.load(write("0.json", resource("Patient/p", identifier=[{"value": "1"}])))
    put = conditional(UUID, "a", "PUT")
    put["resource"]["id"] = "q"

    summary = await store.load(write("1.json", bundle(put, entry(observation("o", UUID)))))

    assert (summary.created, summary.bad) == (1, 1)
    assert store.references("Patient") == ["Patient/p"]


async def test_what_is_stored_and_matches_keeps_a_conditional_create_away(store, write):
    await store.load(write("0.json", resource("Patient/p", identifier=[{"value": "1"}])))
    document = bundle(conditional(UUID, "a"), entry(observation("o", UUID)))

    summary = await store.load(write("1.json", document))

    assert (summary.created, summary.bad) == (1, 1)
    assert store.references("Patient") == ["Patient/p"]
    assert await subject(store, "o") == "Patient/p"


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_several_matches_keep_a_conditional_create_away(store, write, method):
    others = (resource(f"Patient/{name}", identifier=[{"value": "1"}]) for name in "pq")
    document = bundle(conditional(UUID, "a", method), entry(observation("o", UUID)))

    summary = await store.load(write("0.ndjson", *others), write("1.json", document))

    assert (summary.created, summary.bad, summary.unresolved) == (3, 1, 1)
    assert await subject(store, "o") == UUID
