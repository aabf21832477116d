"""Links mean what they mean in their own Bundle; between files only what means one thing."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from helios_core.fhir.definitions import FHIRVersion
from helios_core.loading import parsers
from helios_core.loading.link_index import Match
from helios_core.loading.load import MAX_PROBLEMS, load
from helios_core.memory.data_provider import MemoryDataProvider
from helios_core.storage.data_provider import SupportsWrites

UUID = "urn:uuid:6c5d9ca9-54d7-42f5-bfae-a7c19cd217f2"
OID = "urn:oid:1.2.36.146.595"
CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"


def bundle(*entries, kind="transaction"):
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries)}


def entry(resource, full_url=None, method="POST", url=None):
    request = {"method": method, "url": url or resource["resourceType"]}
    members = {"fullUrl": full_url, "resource": resource, "request": request}
    return {name: value for name, value in members.items() if value is not None}


def resource(reference, **elements):
    type_, _, resource_id = reference.partition("/")
    return {"resourceType": type_} | ({"id": resource_id} if resource_id else {}) | elements


def observation(resource_id, subject, **elements):
    return resource(
        f"Observation/{resource_id}", status="final", subject={"reference": subject}, **elements
    )


async def stored(store, reference):
    return json.loads(await store.text(reference))


async def subject(store, resource_id):
    return (await stored(store, f"Observation/{resource_id}"))["subject"]["reference"]


def producer(name, url="urn:uuid:patient", *, with_id=True):
    """Return a Bundle as one run of a producer writes it: always with the same fullUrls."""
    patient = resource(f"Patient/{name}" if with_id else "Patient", name=[{"family": name}])
    return bundle(entry(patient, url), entry(observation(f"obs-{name}", url), "urn:uuid:obs"))


@pytest.mark.parametrize(
    "url", ["urn:uuid:patient", "urn:uuid:1", "urn:oid:x", "cid:p", "p", UUID]
)
@pytest.mark.parametrize("form", ["json", "json.gz", "ndjson", "ndjson.gz"])
@pytest.mark.usefixtures("anywhere")
async def test_a_full_url_means_something_in_its_own_bundle_only(store, write, url, form):
    bundles = [producer(name, url) for name in ("one", "two", "three")]
    if form.startswith("ndjson"):
        paths = [write(f"all.{form}", *bundles)]
    else:
        paths = [write(f"{number}.{form}", b, indent=1) for number, b in enumerate(bundles)]

    summary = await store.load(*paths)

    assert (summary.created, summary.bad, summary.unresolved) == (6, 0, 0)
    for name in ("one", "two", "three"):
        assert await subject(store, f"obs-{name}") == f"Patient/{name}"


@pytest.mark.parametrize(
    "urls",
    [
        ("urn:uuid:patient", "urn:uuid:patient"),
        ("urn:uuid:1", "urn:uuid:1"),
        ("http://one.example/fhir/Patient/1", "http://two.example/fhir/Patient/1"),
        ("http://one.example/fhir/Patient/1", "urn:uuid:1"),
        ("https://one.example/1", "http://one.example/1"),
        ("urn:x:1", "urn:y:1"),
        ("Patient/1", "Patient/1"),
    ],
)
@pytest.mark.usefixtures("anywhere")
async def test_the_end_of_a_full_url_is_nobodys_id(store, write, urls):
    bundles = [
        producer(name, url, with_id=False) for name, url in zip(("one", "two"), urls, strict=True)
    ]
    explicit = resource("Patient/1", name=[{"family": "explicit"}])
    path = write("all.ndjson", explicit, *bundles)

    summary = await store.load(path)
    again = await store.load(path)

    assert (summary.created, summary.updated, summary.bad) == (5, 0, 0)
    assert (again.created, again.updated, again.unchanged) == (0, 0, 5)
    for name in ("one", "two"):
        patient = await stored(store, await subject(store, f"obs-{name}"))
        assert patient["name"] == [{"family": name}]
    assert (await stored(store, "Patient/1"))["name"] == [{"family": "explicit"}]


async def test_a_real_uuid_is_the_id_in_whatever_case(store, write):
    document = bundle(entry(resource("Patient"), UUID.upper()), entry(observation("o", UUID)))

    await store.load(write("a.json", document))

    assert await subject(store, "o") == f"Patient/{UUID.removeprefix('urn:uuid:')}"
    assert await store.text(await subject(store, "o"))


async def test_an_id_that_is_the_full_url_is_replaced(store, write):
    document = bundle(
        entry(resource(f"Patient/{UUID}"), UUID), entry(observation("o", UUID.upper()))
    )

    summary = await store.load(write("a.json", document))

    assert (summary.created, summary.bad) == (2, 0)
    assert await subject(store, "o") == f"Patient/{UUID.removeprefix('urn:uuid:')}"


async def test_an_address_on_this_server_names_the_id(store, write):
    document = bundle(entry(resource("Patient"), "http://here.example/fhir/Patient/a"))

    await store.load(write("a.json", document), base_urls=("http://here.example/fhir",))

    assert store.references() == ["Patient/a"]


@pytest.mark.parametrize("url", ["1", "#1", "/#1"])
async def test_entries_without_full_url_share_no_id_with_those_that_have_one(store, write, url):
    people = [resource("Patient/x", active=active) for active in (True, False)]
    for person in people:
        del person["id"]
    document = bundle(entry(people[0], url), entry(people[1]))

    summary = await store.load(write("a.json", document))

    assert (summary.created, summary.updated) == (2, 0)


async def test_a_post_without_id_and_full_url_gets_an_id_as_on_a_server(store, write):
    path = write("a.json", bundle(entry(resource("Patient")), entry(resource("Patient"))))

    summary, again = await store.load(path), await store.load(path)

    assert (summary.created, again.created, again.unchanged) == (2, 0, 2)


@pytest.mark.parametrize("url", [UUID, OID])
@pytest.mark.usefixtures("anywhere")
async def test_bundles_are_joined_by_real_uuids_and_oids(store, write, url):
    first = bundle(entry(observation("o", url.upper())))
    second = bundle(entry(resource("Patient/p"), url))

    summary = await store.load(write("1.json", first), write("2.json.gz", second))

    assert summary.is_good
    assert await subject(store, "o") == "Patient/p"


@pytest.mark.parametrize(
    "url",
    [
        "urn:uuid:patient",
        "urn:uuid:00000000-0000-0000-0000-000000000000",
        "urn:uuid:6c5d9ca954d742f5bfaea7c19cd217f2",
        "urn:oid:patient",
        "urn:oid:1.02",
    ],
)
@pytest.mark.usefixtures("anywhere")
async def test_bundles_are_not_joined_by_what_any_producer_could_write(store, write, url):
    first = bundle(entry(observation("o", url)))
    second = bundle(entry(resource("Patient/p"), url))

    summary = await store.load(write("1.json", first), write("2.json", second))

    assert (summary.unresolved, summary.clashed) == (1, 0)
    assert await subject(store, "o") == url


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
@pytest.mark.usefixtures("anywhere")
async def test_a_clash_of_bundles_is_counted_and_joins_nothing(store, write, order):
    documents = [
        bundle(entry(observation("elsewhere", UUID))),
        producer("one", UUID),
        producer("two", UUID.upper()),
    ]
    paths = [write(f"{number}.json", documents[n]) for number, n in enumerate(order)]

    summary = await store.load(*paths)

    assert (summary.created, summary.bad, summary.clashed, summary.unresolved) == (5, 0, 1, 1)
    assert not summary.is_good
    assert "fullUrl is also that of another resource" in summary.clashes[0].reason
    assert summary.clashes[0].entry == 0
    assert await subject(store, "elsewhere") == UUID
    assert await subject(store, "obs-one") == "Patient/one"
    assert await subject(store, "obs-two") == "Patient/two"


async def test_bundles_that_say_the_same_do_not_clash(store, write):
    doctor = entry(resource("Practitioner/d"), UUID)
    without_id = entry(resource("Organization", name="same"), OID)
    paths = [write(f"{n}.json", bundle(doctor, without_id)) for n in range(3)]

    summary = await store.load(*paths)

    assert summary.is_good
    assert summary.created == 2


@pytest.mark.usefixtures("anywhere")
async def test_resources_that_would_get_one_id_are_not_loaded(store, write):
    bundles = [producer(name, UUID, with_id=False) for name in ("one", "two")]

    summary = await store.load(write("all.ndjson", *bundles))

    assert (summary.created, summary.bad, summary.clashed, summary.unresolved) == (2, 2, 1, 2)
    assert store.references("Patient") == []


@pytest.mark.parametrize("with_ids", [True, False])
async def test_a_clash_within_a_bundle_resolves_to_neither(store, write, with_ids):
    url = "urn:uuid:1"
    patients = [
        resource(f"Patient/{name}" if with_ids else "Patient", name=[{"family": name}])
        for name in ("a", "b")
    ]
    document = bundle(*(entry(patient, url) for patient in patients), entry(observation("o", url)))

    summary = await store.load(write("a.json", document))

    assert (summary.clashed, summary.unresolved) == (1, 1)
    assert summary.bad == (0 if with_ids else 2)
    assert await subject(store, "o") == url


@pytest.mark.parametrize(
    ("kind", "urls", "method"),
    [
        ("transaction", ("urn:uuid:a", "urn:uuid:b"), "POST"),
        ("transaction", ("urn:uuid:a", "urn:uuid:b"), "PUT"),
        ("transaction", (None, None), "POST"),
        ("batch", ("urn:uuid:a", UUID), "POST"),
        ("batch", ("http://a.example/Patient/p", UUID), "POST"),
        ("collection", ("urn:uuid:a", UUID), "POST"),
        ("searchset", ("urn:uuid:a", None), "POST"),
    ],
)
async def test_two_resources_of_a_bundle_do_not_become_one(store, write, kind, urls, method):
    patients = [resource("Patient/p", active=active) for active in (True, False)]
    request = (method, "Patient/p" if method == "PUT" else "Patient")
    document = bundle(
        *(entry(each, url, *request) for each, url in zip(patients, urls, strict=True)),
        entry(observation("first", urls[0] or "Patient/p")),
        entry(observation("second", urls[1] or "Patient/p")),
        kind=kind,
    )
    elsewhere = bundle(entry(observation("elsewhere", urls[1] or "Patient/p")))

    summary = await store.load(write("a.json", document), write("b.json", elsewhere))

    assert summary.bad == 1
    assert "same type and id" in summary.problems[0].reason
    assert '"active":true' in await store.text("Patient/p")
    assert await subject(store, "first") == "Patient/p"
    assert await subject(store, "second") == (urls[1] or "Patient/p")
    assert await subject(store, "elsewhere") == (urls[1] or "Patient/p")


@pytest.mark.parametrize("first", ["store", "delete"])
@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("url", ["Patient/p", "Patient/p/_history/1"])
async def test_a_transaction_stores_what_it_also_deletes(store, write, first, method, url):
    patient = resource("Patient/p")
    entries = [
        entry(patient, UUID, method, "Patient/p" if method == "PUT" else "Patient"),
        {"request": {"method": "DELETE", "url": url}},
    ]
    document = bundle(*(entries if first == "store" else reversed(entries)))

    summary = await store.load(write("a.ndjson", document, bundle(entry(observation("o", UUID)))))

    assert (summary.bad, summary.deleted) == (1, 0)
    assert "not deleted" in summary.problems[0].reason
    assert store.references("Patient") == ["Patient/p"]


async def test_a_batch_deletes_what_it_stores_before(store, write):
    entries = [entry(resource("Patient/p")), {"request": {"method": "DELETE", "url": "Patient/p"}}]

    summary = await store.load(write("a.json", bundle(*entries, kind="batch")))

    assert summary.is_good
    assert store.references("Patient") == []


@pytest.mark.parametrize(
    ("kind", "urls", "method"),
    [
        ("batch", ("urn:uuid:a", "urn:uuid:b"), "PUT"),
        ("batch", (UUID, UUID.upper()), "POST"),
        ("collection", ("http://a/Patient/p", "http://a/Patient/p/_history/2"), "POST"),
        ("history", ("urn:uuid:a", "urn:uuid:b"), "POST"),
    ],
)
async def test_two_versions_in_a_bundle_are_one_resource(store, write, kind, urls, method):
    patients = [resource("Patient/p", active=active) for active in (True, False)]
    request = (method, "Patient/p" if method == "PUT" else "Patient")
    entries = [entry(each, url, *request) for each, url in zip(patients, urls, strict=True)]

    summary = await store.load(write("a.json", bundle(*entries, kind=kind)))

    assert (summary.bad, summary.created, summary.updated) == (0, 1, 1)


async def test_a_resource_that_a_bundle_has_twice_is_loaded(store, write):
    entries = [entry(resource("Patient/p"), f"urn:uuid:{name}") for name in "ab"]

    summary = await store.load(
        write("a.json", bundle(*entries, entry(observation("o", "urn:uuid:b"))))
    )

    assert summary.is_good
    assert await subject(store, "o") == "Patient/p"


async def test_the_versions_of_a_history_do_not_clash(store, write):
    versions = [resource("Patient/a", active=active) for active in (True, False)]
    document = bundle(*(entry(v, UUID, "PUT", "Patient/a") for v in versions), kind="history")

    summary = await store.load(write("a.json", document))

    assert summary.is_good
    assert summary.updated == 1


async def test_only_the_first_clashes_are_described(store, write):
    documents = [producer(f"p{number}", UUID) for number in range(MAX_PROBLEMS + 10)]

    summary = await store.load(write("a.ndjson", *documents))

    assert (len(summary.clashes), summary.clashed) == (MAX_PROBLEMS, MAX_PROBLEMS + 9)


@pytest.mark.usefixtures("anywhere")
async def test_links_of_every_kind_are_rewritten(store, write):
    binary = "urn:uuid:11111111-1111-4111-8111-111111111111"
    document = resource(
        "DocumentReference/d",
        subject={"reference": UUID},
        content=[{"attachment": {"url": binary}}],
        extension=[{"url": "http://a.example", "valueUri": binary}],
        text={"div": f'<div><a href="{binary}">x</a></div>'},
        meta={"profile": [binary]},
    )
    first = bundle(entry(document, "urn:uuid:d"), entry(resource("Patient/p"), UUID))
    second = bundle(entry(resource("Binary/b", contentType="text/plain"), binary))

    summary = await store.load(write("1.json", first), write("2.ndjson", second))

    assert summary.is_good
    content = await stored(store, "DocumentReference/d")
    assert content["subject"] == {"reference": "Patient/p"}
    assert content["content"] == [{"attachment": {"url": "Binary/b"}}]
    assert content["extension"][0]["valueUri"] == "Binary/b"
    assert content["text"]["div"] == '<div><a href="Binary/b">x</a></div>'
    assert content["meta"]["profile"] == [binary]


async def test_links_to_an_entry_of_another_server_become_local(store, write):
    base = "http://other.example/fhir"
    absolute = observation("o1", f"{base}/Patient/1")
    relative = observation("o2", "Patient/1")
    document = bundle(
        entry(resource("Patient/new"), f"{base}/Patient/1"),
        entry(absolute, f"{base}/Observation/1"),
        entry(relative, f"{base}/Observation/2"),
        entry(observation("o3", "Patient/1"), UUID),
    )

    await store.load(write("a.json", document))

    assert [await subject(store, f"o{n}") for n in (1, 2, 3)] == [
        "Patient/new",
        "Patient/new",
        "Patient/1",
    ]


async def test_code_systems_named_by_oids_are_not_reported(store, write):
    code = {"coding": [{"system": "urn:oid:2.16.840.1.113883.6.1", "code": "x"}]}
    identifier = [{"system": "urn:ietf:rfc:3986", "value": UUID}]
    line = observation("o", "Patient/p", code=code, identifier=identifier)

    summary = await store.load(write("a.ndjson", line))

    assert summary.unresolved == 0
    assert (await stored(store, "Observation/o"))["code"] == code


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


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not in ../shared/cases")
@pytest.mark.parametrize(
    ("case", "references"),
    [
        (
            "01-urn-reused-across-files",
            {"Observation/obs-one": "Patient/pat-one", "Observation/obs-two": "Patient/pat-two"},
        ),
        ("11-load-conditional-references", {"Encounter/se": "Practitioner/dr"}),
        ("11-load-conditional-references", {"Encounter/se": "Organization/org"}),
    ],
)
async def test_the_cases_that_were_reported(store, case, references):
    summary = await store.load(*sorted((CASES / case).glob("*.json")))

    assert summary.is_good
    for reference, target in references.items():
        assert f'"{target}"' in await store.text(reference)


async def test_no_process_is_left(store, write, monkeypatch):
    monkeypatch.setattr(parsers, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)

    await store.load(write("a.ndjson", producer("one")))

    assert multiprocessing.active_children() == []
    assert isinstance(store.data_provider, MemoryDataProvider)


def from_server(server, reference, kind, **elements):
    """Return an entry of a Bundle of a kind, as a server writes it."""
    document = entry(resource(reference, **elements), f"{server}/{reference}")
    if kind == "history":
        document["request"] = {"method": "PUT", "url": reference}
    elif kind != "batch":
        del document["request"]
    return document


@pytest.mark.parametrize("kind", ["collection", "searchset", "batch", "history"])
@pytest.mark.usefixtures("anywhere")
async def test_a_resource_of_another_server_does_not_replace_the_first(store, write, kind):
    bundles = [
        bundle(
            from_server(server, "Patient/1", kind, gender=gender),
            *(
                from_server(
                    server,
                    f"Observation/{gender}-{n}",
                    kind,
                    status="final",
                    subject={"reference": reference},
                )
                for n, reference in enumerate(("Patient/1", f"{server}/Patient/1"))
            ),
            kind=kind,
        )
        for server, gender in (("http://a.example/r4", "male"), ("http://b.example/r4", "female"))
    ]
    paths = [write(f"{number}.json", document) for number, document in enumerate(bundles)]

    summary = await store.load(*paths)

    assert (summary.created, summary.updated, summary.bad) == (5, 0, 1)
    assert not summary.is_good
    (found,) = summary.problems
    assert (found.path, found.entry) == (str(paths[1]), 0)
    assert "another server's resource has the same type and id" in found.reason
    assert (await stored(store, "Patient/1"))["gender"] == "male"
    for number in range(2):
        assert await subject(store, f"male-{number}") == "Patient/1"
        assert await subject(store, f"female-{number}") == "http://b.example/r4/Patient/1"


async def test_two_servers_in_one_bundle_are_kept_apart(store, write):
    servers = ("http://a.example", "http://b.example")
    entries = (from_server(server, "Patient/1", "searchset", id="1") for server in servers)

    summary = await store.load(write("a.json", bundle(*entries, kind="searchset")))

    assert (summary.created, summary.updated, summary.bad) == (1, 0, 1)


async def test_a_deletion_in_the_history_of_another_server_deletes_nothing(store, write):
    first = bundle(from_server("http://a.example", "Patient/1", "collection"), kind="collection")
    deletion = {
        "fullUrl": "http://b.example/Patient/1",
        "request": {"method": "DELETE", "url": "Patient/1"},
    }

    summary = await store.load(
        write("1.json", first), write("2.json", bundle(deletion, kind="history"))
    )

    assert (summary.created, summary.deleted, summary.bad) == (1, 0, 1)


@pytest.mark.parametrize(
    "server", ["http://a.example", "https://A.example", "http://here.example/fhir", None]
)
@pytest.mark.parametrize("kind", ["collection", "searchset"])
async def test_another_copy_of_the_same_server_is_an_update(store, write, server, kind):
    is_own = server == "http://here.example/fhir"
    first = "http://there.example" if is_own else "http://a.example"
    old = from_server(first, "Patient/1", kind, active=True)
    new = from_server(server, "Patient/1", kind, active=False)
    if server is None:
        del new["fullUrl"]
    own = (first, server) if is_own else ()

    summary = await store.load(
        write("1.json", bundle(old, kind=kind)),
        write("2.json", bundle(new, kind=kind)),
        base_urls=own,
    )

    assert (summary.created, summary.updated, summary.bad) == (1, 1, 0)


async def test_a_put_replaces_what_it_names_whatever_its_server(store, write):
    puts = [
        bundle(entry(resource("Patient/1", active=a), f"http://{s}/Patient/1", "PUT", "Patient/1"))
        for s, a in (("a.example", True), ("b.example", False))
    ]

    summary = await store.load(write("all.ndjson", *puts))

    assert (summary.created, summary.updated, summary.bad) == (1, 1, 0)


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
