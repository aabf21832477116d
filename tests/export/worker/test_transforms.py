"""Whatever leaves in an export has passed the transforms of plugins, or does not leave."""

import threading
from datetime import timedelta

import msgspec
import pytest

from helios_core.errors import UnsupportedParameter
from helios_core.export.kickoff.request import ExportPolicy
from helios_core.model.completeness import line_digests, sum_digests
from helios_core.model.exports import AssociatedData, Level
from helios_core.model.jobs import JobStatus
from helios_core.model.parts import PartKind
from helios_core.storage.backends import Backends
from helios_core.storage.transform_chain import NO_TRANSFORMS, Transforms
from helios_core.storage.transforms import RestReads
from tests.export.worker.fixture import binary, document, filled, provenance
from tests.export.worker.hospital import Hospital, group, observation, patient
from tests.storage.transforming import (
    CANARY,
    REDACTED,
    Applying,
    Renaming,
    applying,
    failing,
    keeping,
    opened,
)

EVERY_KIND = [
    pytest.param({}, id="system"),
    pytest.param({"level": Level.PATIENT}, id="patient"),
    pytest.param({"group": "g1"}, id="group"),
]


class Clinic(Hospital):
    """A hospital all of whose processes have the same transforms."""

    def __init__(self, transforms: Transforms, provider=None) -> None:
        super().__init__(provider)
        self.transforms = transforms
        self.policy = ExportPolicy(
            transforms=transforms,
            referenced_types=("Practitioner", "Organization", "Location"),
        )

    @property
    def backends(self) -> Backends:
        return msgspec.structs.replace(super().backends, transforms=self.transforms)

    async def raw(self, job, kind=None) -> bytes:
        """Every byte that was published, of one kind or of all."""
        content = b""
        for part in await self.job_store.parts(job.tenant, job.id):
            if kind in (None, part.key.kind):
                content += b"".join([chunk async for chunk in self.output_store.read(part.key)])
        return content

    async def decoded(self, job) -> list[dict]:
        """Every line of the output, headers of blocks included."""
        return [
            msgspec.json.decode(line)
            for line in (await self.raw(job, PartKind.OUTPUT)).splitlines()
        ]


def scrub(resource):
    """Drop every text; what is left are codes, references and the mandatory rest."""
    resource.pop("text", None)
    resource.pop("name", None)
    resource.pop("note", None)
    return resource


def with_canary(resource):
    """Add something to a resource that must never leave."""
    return resource | {"text": {"status": "additional", "div": f"<div>{CANARY}</div>"}}


def rename_all(resource):
    """Rename every reference as `Renaming` renames ids."""

    def renamed(value):
        if isinstance(value, dict):
            return {
                key: _renamed_reference(each) if key == "reference" else renamed(each)
                for key, each in value.items()
            }
        return [renamed(each) for each in value] if isinstance(value, list) else value

    return renamed(resource)


def _renamed_reference(reference):
    resource_type, _, resource_id = reference.rpartition("/")
    return f"{resource_type}/{resource_id[::-1]}"


async def stocked(clinic):
    """Store something of every kind that an export can bring, each with the canary in it."""
    await clinic.store(
        *(
            with_canary(each)
            for each in (
                patient("p1"),
                patient("p2"),
                {"resourceType": "Practitioner", "id": "prac1"},
                {"resourceType": "Practitioner", "id": "prac2"},
                {"resourceType": "Organization", "id": "org1"},
                group("g1", "Patient/p1", "Patient/p2", type="person"),
            )
        )
    )
    await clinic.store(
        *(
            with_canary(each)
            for each in (
                observation("o1", "p1", performer=[{"reference": "Practitioner/prac1"}]),
                observation("o2", "p2", performer=[{"reference": "Organization/org1"}]),
                document("d1", "p1", url="Binary/b1"),
                provenance("v1", "Observation/o1"),
                provenance("v2", "Organization/org1"),
            )
        ),
        binary("b1") | {"data": "aGVsbG8=", "contentType": f"text/{CANARY}"},
        binary("b2") | {"contentType": f"text/{CANARY}"},
    )


def no_canary(resource):
    scrub(resource)
    if resource["resourceType"] == "Binary":
        resource["contentType"] = "text/plain"
    return resource


@pytest.mark.parametrize(
    "query",
    [
        pytest.param((), id="plain"),
        pytest.param((("_elements", "text"),), id="elements"),
        pytest.param((("includeAssociatedData", AssociatedData.RELEVANT),), id="all-provenance"),
        pytest.param((("includeAssociatedData", AssociatedData.LATEST),), id="latest"),
        pytest.param((("organizeOutputBy", "Patient"),), id="by-patient"),
        pytest.param((("organizeOutputBy", "Practitioner"),), id="by-practitioner"),
    ],
)
@pytest.mark.parametrize("level", EVERY_KIND)
async def test_nothing_leaves_untransformed(level, query):
    clinic = Clinic(applying(no_canary))
    await stocked(clinic)

    job = await clinic.work(await clinic.kick_off(*query, **level))

    assert job.status is JobStatus.COMPLETE
    assert CANARY.encode() not in await clinic.raw(job)
    lines = await clinic.decoded(job)
    assert len(lines) >= 3
    for line in lines:
        if line["resourceType"] != "Parameters":
            assert line["meta"]["security"][0]["code"] == REDACTED.code


async def test_the_proof_is_of_what_leaves():
    clinic = Clinic(applying(no_canary))
    await stocked(clinic)

    job = await clinic.work(await clinic.kick_off())

    for part in await clinic.job_store.parts(job.tenant, job.id):
        content = b"".join([chunk async for chunk in clinic.output_store.read(part.key)])
        lines = content.splitlines()
        assert part.count == len(lines)
        assert part.plain_size == len(content)
        assert part.digest_sum == sum_digests(*line_digests(lines))


@pytest.mark.parametrize("query", [(), (("organizeOutputBy", "Patient"),)])
async def test_what_cannot_be_transformed_is_an_error_line(query):
    def picky(resource):
        return failing(resource) if resource["id"] == "o1" else no_canary(resource)

    clinic = Clinic(applying(picky))
    await stocked(clinic)

    job = await clinic.work(await clinic.kick_off(*query, level=Level.PATIENT))

    names = [line.get("id") for line in await clinic.decoded(job)]
    assert "o1" not in names
    assert "o2" in names
    [outcome] = await clinic.lines(job, PartKind.ERROR)
    [issue] = outcome["issue"]
    assert issue["diagnostics"] == (
        "Observation/o1 could not be exported: plugin test failed to transform it"
    )
    assert CANARY.encode() not in await clinic.raw(job)


async def test_what_is_kept_back_is_not_named_when_it_is_deleted():
    clinic = Clinic(applying(keeping(lambda resource: resource["id"] != "secret"), changes=False))
    await clinic.store(patient("p1"), patient("secret"))
    since = await clinic.now()
    await clinic.delete("Patient", "p1")
    await clinic.delete("Patient", "secret")

    job = await clinic.work(await clinic.kick_off(("_since", since)))

    [bundle] = await clinic.lines(job, PartKind.DELETED)
    assert [entry["request"]["url"] for entry in bundle["entry"]] == ["Patient/p1"]
    assert b"secret" not in await clinic.raw(job)


async def test_a_filter_that_would_find_out_what_is_removed_is_refused():
    clinic = Clinic(applying(no_canary))

    with pytest.raises(UnsupportedParameter, match="reveal what is removed"):
        await clinic.kick_off(("_typeFilter", "Patient?name=Doe"))


async def test_a_type_whose_filter_is_refused_is_not_exported_unfiltered():
    clinic = Clinic(applying(no_canary))
    await stocked(clinic)
    query = (("_type", "Patient,Observation"), ("_typeFilter", "Patient?name=Doe"))

    job = await clinic.work(await clinic.kick_off(*query, handling="lenient"))

    assert {line["resourceType"] for line in await clinic.lines(job)} == {"Observation"}


async def test_a_transform_that_conceals_nothing_leaves_filters_alone():
    clinic = Clinic(applying(no_canary, conceals=False))
    await stocked(clinic)

    exported = await clinic.export(("_type", "Patient"), ("_typeFilter", "Patient?_id=p2"))

    assert exported == ["Patient/p2"]


def renaming_clinic(function=rename_all):
    return Clinic(Transforms([opened(Renaming(function), rest=RestReads.WITHHELD)]))


@pytest.mark.parametrize(
    "query", [(), (("organizeOutputBy", "Patient"),), (("organizeOutputBy", "Practitioner"),)]
)
@pytest.mark.parametrize("level", EVERY_KIND)
async def test_no_id_leaves_that_has_been_renamed(level, query):
    def rename_and_scrub(resource):
        for each in resource.get("content", ()):
            each.pop("attachment")
        return no_canary(rename_all(resource))

    clinic = renaming_clinic(rename_and_scrub)
    await clinic.store(
        patient("patient-one"),
        patient("patient-two"),
        {"resourceType": "Practitioner", "id": "practitioner-one"},
        group("g1", "Patient/patient-one", "Patient/patient-two", type="person"),
    )
    performer = [{"reference": "Practitioner/practitioner-one"}]
    await clinic.store(
        observation("observation-one", "patient-one", performer=performer),
        observation("measurement-one", "patient-one", performer=performer),
        document("document-one", "patient-two", url="Binary/binary-one"),
        binary("binary-one"),
        provenance("provenance-one", "Observation/observation-one"),
    )
    since = await clinic.now()
    await clinic.store(
        patient("patient-one", active=True),
        observation("measurement-one", "patient-one", performer=performer, note=[{"text": "x"}]),
    )
    await clinic.delete("Observation", "observation-one")

    for request in (query, (*query, ("_since", since))):
        job = await clinic.work(await clinic.kick_off(*request, **level))

        content = await clinic.raw(job)
        assert job.status is JobStatus.COMPLETE
        assert b"eno-" in content
        assert b"-one" not in content
        assert b"-two" not in content


async def test_a_deletion_is_named_as_the_client_knows_it():
    clinic = renaming_clinic()
    await clinic.store(patient("abc"))
    since = await clinic.now()
    await clinic.delete("Patient", "abc")

    job = await clinic.work(await clinic.kick_off(("_since", since)))

    [bundle] = await clinic.lines(job, PartKind.DELETED)
    assert [entry["request"]["url"] for entry in bundle["entry"]] == ["Patient/cba"]


async def test_reports_name_nothing_that_leaves_under_another_id():
    def picky(resource):
        return failing(resource) if resource["id"] == "eno-p" else resource

    clinic = Clinic(
        Transforms(
            [opened(Renaming(picky), rest=RestReads.WITHHELD, conceals=False)],
        )
    )
    await clinic.store(patient("p-one"), patient("p-two"), observation("o-one", "p-two"))
    clinic.damage("Observation", "o-one")
    queries = (
        ("_typeFilter", "Patient?_has:Observation:subject:status=final"),
        ("_type", "Patient"),
    )

    job = await clinic.work(await clinic.kick_off())
    filtered = await clinic.work(await clinic.kick_off(*queries))

    texts = [
        issue["diagnostics"]
        for each in (job, filtered)
        for line in await clinic.lines(each, PartKind.ERROR)
        for issue in line["issue"]
    ]
    assert len(texts) == 3
    assert "one" not in " ".join(texts)


async def test_patients_cannot_be_named_by_ids_that_do_not_leave():
    clinic = renaming_clinic()
    await clinic.store(patient("p1"))

    with pytest.raises(UnsupportedParameter, match="exported under other ids"):
        await clinic.kick_off(level=Level.PATIENT, patients=["Patient/p1"])


async def test_two_transforms_and_every_provider_agree(clinic):
    both = Transforms(
        [
            opened(Applying(keeping(lambda each: each["id"] != "p2")), plugin="a"),
            opened(Applying(no_canary), plugin="b"),
        ]
    )
    filtered = Clinic(both, clinic.data_provider)
    await filled(filtered)

    exported = await filtered.export(("_type", "Patient"))

    assert exported == ["Patient/p1", "Patient/p3", "Patient/p4", "Patient/p5"]


@pytest.mark.parametrize("own", [NO_TRANSFORMS, applying(no_canary, drops=False)])
async def test_a_worker_with_other_transforms_exports_nothing(own):
    clinic = Clinic(Transforms([opened(Applying(no_canary), plugin="deid")]))
    if own is not NO_TRANSFORMS:
        own = Transforms([*own._opened, *clinic.transforms._opened])
    await stocked(clinic)
    job = await clinic.kick_off()

    job = await clinic.work(job, backends=msgspec.structs.replace(clinic.backends, transforms=own))

    assert job.status is JobStatus.ERROR
    assert "accepted with the transforms deid and a worker has" in job.failure
    assert await clinic.raw(job) == b""


async def test_a_worker_with_a_transform_exports_nothing_that_was_accepted_without():
    clinic = Clinic(NO_TRANSFORMS)
    await stocked(clinic)
    job = await clinic.kick_off()
    own = msgspec.structs.replace(clinic.backends, transforms=applying(no_canary))

    job = await clinic.work(job, backends=own)

    assert job.status is JobStatus.ERROR
    assert "accepted with the transforms (none) and a worker has test" in job.failure


async def test_a_transform_that_hangs_fails_the_shard_and_not_the_worker():
    release = threading.Event()

    def hang(resource):
        release.wait()
        return resource

    hanging = Transforms([opened(Applying(hang))], time_limit=timedelta(milliseconds=5))
    clinic = Clinic(hanging)
    await clinic.store(patient("p1"))

    job = await clinic.work(await clinic.kick_off())

    release.set()
    assert job.status is JobStatus.ERROR
    assert "Plugin test took longer than" in job.failure
