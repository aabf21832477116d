"""Bundles are a way to send resources; their entries are loaded."""

import json

import pytest

from helios_core.fhir.definitions import FHIRVersion
from helios_core.loading.inputs import find_files, read_chunks
from helios_core.loading.intake import Intake
from helios_core.loading.resources import LoadOptions

UUID = "6c5d9ca9-54d7-42f5-bfae-a7c19cd217f2"
OTHER_UUID = "d9f31445-f448-48c0-af57-295c005e07df"


def bundle(kind, *entries, **more):
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries)} | more


def entry(resource, *, full_url=None, method="POST", url=None):
    request = {"method": method, "url": url or resource["resourceType"]}
    found = {"fullUrl": full_url, "resource": resource, "request": request}
    return {name: value for name, value in found.items() if value is not None}


def patient(resource_id=None, **more):
    identity = {"resourceType": "Patient"} | ({"id": resource_id} if resource_id else {})
    return identity | more


def observation(resource_id, subject):
    return {"resourceType": "Observation", "id": resource_id, "subject": {"reference": subject}}


async def subject_of(store, reference):
    return json.loads(await store.text(reference))["subject"]["reference"]


@pytest.mark.parametrize("kind", ["transaction", "batch"])
async def test_a_temporary_reference_becomes_a_real_one(store, write, kind):
    document = bundle(
        kind,
        entry(observation("o", f"urn:uuid:{UUID}")),
        entry(patient("p"), full_url=f"urn:uuid:{UUID}"),
    )

    summary = await store.load(write("bundle.json", document, indent=1))

    assert (summary.created, summary.unresolved) == (2, 0)
    assert await subject_of(store, "Observation/o") == "Patient/p"


async def test_references_resolve_across_bundles_in_either_order(store, write):
    first = bundle("transaction", entry(observation("o", f"urn:uuid:{UUID}")))
    second = bundle("transaction", entry(patient("p"), full_url=f"urn:uuid:{UUID}"))

    await store.load(write("1.json", first), write("2.json.gz", second))

    assert await subject_of(store, "Observation/o") == "Patient/p"


async def test_references_of_bare_resources_resolve_by_the_bundles_beside_them(store, write):
    bare = json.dumps(observation("o", f"urn:uuid:{UUID}"), indent=2)
    document = bundle("collection", {"fullUrl": f"urn:uuid:{UUID}", "resource": patient("p")})

    await store.load(write("bare.json", bare), write("bundle.json", document))

    assert await subject_of(store, "Observation/o") == "Patient/p"


async def test_an_observation_joins_the_compartment_its_reference_resolves_to(write):
    document = bundle(
        "transaction",
        entry(patient("p"), full_url=f"urn:uuid:{UUID}"),
        entry(observation("o", f"urn:uuid:{UUID}")),
    )
    (chunk,) = read_chunks(find_files([write("bundle.json", document)]))

    changes = Intake(LoadOptions(fhir_version=FHIRVersion.R4)).parse_chunk(chunk).changes

    assert [change.resource.patients for change in changes] == [("p",), ("p",)]


async def test_what_cannot_be_resolved_is_kept_and_counted(store, write):
    lost = f"urn:uuid:{OTHER_UUID}"
    first = write("1.ndjson", observation("a", lost), observation("b", lost))
    second = write("2.ndjson", observation("c", lost), observation("d", "urn:oid:1.2.3"))

    summary = await store.load(first, second)

    assert (summary.created, summary.bad) == (4, 0)
    assert (summary.unresolved, summary.unresolved_distinct) == (4, 2)
    assert summary.unresolved_by_file == ((first, 2), (second, 2))
    assert await subject_of(store, "Observation/a") == lost


async def test_an_entry_without_an_id_gets_that_of_its_full_url(store, write):
    document = bundle(
        "transaction",
        entry(patient(), full_url=f"urn:uuid:{UUID}"),
        entry(observation("o", f"urn:uuid:{UUID}")),
    )
    path = write("bundle.json", document)

    await store.load(path)
    again = await store.load(path)

    assert await subject_of(store, "Observation/o") == f"Patient/{UUID}"
    assert (again.created, again.unchanged) == (0, 2)


async def test_an_entry_without_any_id_is_bad(store, write):
    document = bundle("collection", {"resource": patient()}, {"resource": patient("b")})

    summary = await store.load(write("bundle.json", document))

    assert (summary.created, summary.bad) == (1, 1)
    assert (summary.problems[0].line, summary.problems[0].entry) == (None, 0)
    assert str(summary.problems[0]).endswith("bundle.json, entry 0: the resource has no id")


async def test_a_put_names_the_id(store, write):
    document = bundle(
        "transaction",
        entry(patient(), method="PUT", url="Patient/named"),
        entry(patient("b"), method="PUT", url="Patient/another"),
    )

    summary = await store.load(write("bundle.json", document))

    assert await store.text("Patient/named")
    assert (summary.created, summary.bad) == (1, 1)
    assert summary.problems[0].entry == 1


async def test_a_delete_deletes(store, write):
    gone = {"request": {"method": "DELETE", "url": "Patient/a"}}
    never = {"request": {"method": "DELETE", "url": "Patient/never"}}
    conditional = {"request": {"method": "DELETE", "url": "Patient?name=x"}}
    await store.load(write("patients.ndjson", patient("a"), patient("b")))

    summary = await store.load(write("d.ndjson", bundle("transaction", gone, never, conditional)))

    assert (summary.deleted, summary.unchanged, summary.bad) == (1, 1, 1)
    assert (await store.version("Patient/a")).content is None


async def test_entries_that_change_nothing_are_bad(store, write):
    document = bundle("batch", {"request": {"method": "GET", "url": "Patient/a"}})

    summary = await store.load(write("bundle.json", document))

    assert (summary.read, summary.bad) == (1, 1)


async def test_a_history_is_applied_oldest_first(store, write):
    document = bundle(
        "history",
        entry(patient("a", active=False), method="PUT", url="Patient/a"),
        entry(patient("a", active=True), method="PUT", url="Patient/a"),
    )

    summary = await store.load(write("history.json", document))

    assert (summary.created, summary.updated) == (1, 1)
    assert '"active":false' in await store.text("Patient/a")


async def test_a_search_result_is_loaded_without_its_remarks(store, write):
    remark = {"resource": {"resourceType": "OperationOutcome"}, "search": {"mode": "outcome"}}
    match = {"fullUrl": "http://elsewhere.example/Patient/a", "resource": patient()}

    summary = await store.load(write("page.json", bundle("searchset", match, remark)))

    assert (summary.read, summary.created, summary.bad) == (1, 1, 0)
    (key,) = store.references("Patient")
    assert key not in ("Patient/a", "Patient/")


async def test_bundles_may_be_lines(store, write):
    lines = [bundle("transaction", entry(patient(name))) for name in ("a", "b")]

    summary = await store.load(write("bundles.ndjson", *lines))

    assert summary.created == 2


async def test_a_line_that_is_a_bundle_with_an_id_is_stored_as_one(store, write):
    inner = observation("o", f"urn:uuid:{UUID}")
    line = bundle("transaction", entry(inner), id="kept")

    summary = await store.load(write("Bundle.ndjson", line))

    assert (summary.created, summary.unresolved) == (1, 0)
    assert json.loads(await store.text("Bundle/kept"))["entry"][0]["resource"] == inner


async def test_a_document_is_stored_whole(store, write):
    document = bundle("document", {"resource": patient("a")}, id="doc")

    await store.load(write("document.json", document))

    assert await store.text("Bundle/doc")
    assert await store.version("Patient/a") is None


async def test_a_broken_bundle_is_one_problem(store, write):
    broken = bundle("transaction", {"resource": patient("a")})

    summary = await store.load(write("bundle.json", broken), write("b.ndjson", patient("b")))

    assert (summary.created, summary.bad) == (1, 1)
    assert "entry 0" in summary.problems[0].reason
