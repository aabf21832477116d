"""The smallest data that decides every requirement: old and new, members' and others'."""

from datetime import datetime

from tests.export.worker.hospital import Hospital, group, observation, patient

ATTACHMENT = "aGVsbG8="
CONTENT_TYPE = "text/plain"


def about(resource_type: str, resource_id: str, subject: str, **more) -> dict:
    return {
        "resourceType": resource_type,
        "id": resource_id,
        "subject": {"reference": f"Patient/{subject}"},
        **more,
    }


def document(resource_id: str, subject: str, **attachment) -> dict:
    content = [{"attachment": {"contentType": CONTENT_TYPE, **attachment}}]
    return about("DocumentReference", resource_id, subject, status="current", content=content)


def provenance(resource_id: str, *targets: str, recorded: str = "2020-01-01T00:00:00Z") -> dict:
    return {
        "resourceType": "Provenance",
        "id": resource_id,
        "target": [{"reference": target} for target in targets],
        "recorded": recorded,
        "agent": [{"who": {"reference": "Practitioner/prac2"}}],
    }


def binary(resource_id: str, **more) -> dict:
    return {
        "resourceType": "Binary",
        "id": resource_id,
        "contentType": CONTENT_TYPE,
        "data": ATTACHMENT,
        **more,
    }


async def store_old(hospital: Hospital) -> None:
    """What was there before the instant of `filled`."""
    await hospital.store(*(patient(f"p{number}") for number in range(1, 7)))
    await hospital.store(
        *({"resourceType": "Practitioner", "id": each} for each in ("prac1", "prac2", "prac9")),
        *({"resourceType": "Organization", "id": each} for each in ("org1", "org9")),
        {"resourceType": "CodeSystem", "id": "cs1", "status": "active", "content": "complete"},
        group("g1", "Patient/p1", "Patient/p2", "Patient/p3", type="person"),
        group("g2", "Patient/p4", type="person"),
        group("g0", type="person"),
        group("gP", "Practitioner/prac1", type="practitioner"),
    )
    await hospital.store(
        observation("obs-a1", "p1"),
        observation("obs-v", "p1"),
        about("Condition", "cond1", "p1"),
        about("Condition", "cond-del", "p1"),
        about("Condition", "cond-gone", "p1"),
        about("Condition", "cond-back", "p1"),
        about(
            "Encounter",
            "enc1",
            "p1",
            participant=[{"individual": {"reference": "Practitioner/prac1"}}],
            serviceProvider={"reference": "Organization/org1"},
        ),
        about("Encounter", "enc2", "p2"),
        about("Encounter", "enc3", "p3"),
        about("MedicationRequest", "mr-act", "p1", status="active"),
        about("MedicationRequest", "mr-comp", "p1", status="completed", authoredOn="2019-05-01"),
        about("MedicationRequest", "mr-stop", "p2", status="stopped"),
        document("doc1", "p1", url="Binary/bin1"),
        document("doc2", "p2", data=ATTACHMENT),
        binary("bin1"),
        binary("bin9"),
        provenance("prov-old", "Observation/obs-a1", recorded="2020-01-01T00:00:00Z"),
        provenance("prov-new", "Observation/obs-a1", recorded="2021-01-01T00:00:00Z"),
        provenance("prov-org", "Organization/org1"),
    )
    await hospital.delete("Condition", "cond-gone")


async def store_new(hospital: Hospital) -> None:
    """What changed after the instant of `filled`."""
    await hospital.store(
        observation("obs-a2", "p1", status="preliminary"),
        observation("obs-b", "p2"),
        observation("obs-x", "p4", performer=[{"reference": "Patient/p1"}]),
        observation("obs-v", "p1", note=[{"text": "second"}]),
    )
    await hospital.store(observation("obs-v", "p1", note=[{"text": "third"}]))
    await hospital.delete("Condition", "cond-del")
    await hospital.delete("Condition", "cond-back")
    await hospital.store(about("Condition", "cond-back", "p1"))
    await hospital.delete("Patient", "p6")


async def filled(hospital: Hospital) -> datetime:
    """Store everything, and return the instant between old and new."""
    await store_old(hospital)
    between = await hospital.data_provider.transaction_time()
    await store_new(hospital)
    return between
