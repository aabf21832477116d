"""Links between the entries of a transaction, in references, conditions and URLs."""

import msgspec
import pytest

from helios_core.errors import InvalidRequest, InvalidResource
from helios_core.storage.data_provider import ChangeResult
from tests.interactions.entries import (
    PATIENT,
    TEMPORARY,
    entry,
    identifier,
    observation,
    patient,
    reference_of,
)

OTHER = "urn:uuid:11111111-1cbf-4d64-b04d-cd9187a4c6e0"


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
