"""Links mean what they mean in their own Bundle; between files only what means one thing."""

import multiprocessing
import os
from pathlib import Path

import pytest

from helios_core.loading import parsers
from helios_core.loading.load import MAX_PROBLEMS
from helios_core.memory.data_provider import MemoryDataProvider
from tests.loading.linked import UUID, bundle, entry, observation, resource, stored, subject

OID = "urn:oid:1.2.36.146.595"
CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"


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
    else:
        del document["request"]
    return document


@pytest.mark.parametrize("kind", ["collection", "searchset", "history"])
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
