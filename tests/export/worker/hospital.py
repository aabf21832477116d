"""A hospital in memory, and functions that run its exports."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import msgspec

from helios_core.export.kickoff.accept import accept
from helios_core.export.kickoff.request import ExportPolicy, KickoffRequest
from helios_core.export.pipeline.shard_export import PartLimits
from helios_core.export.worker import Worker, WorkerOptions
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.instants import format_instant
from helios_core.fhir.resources import parse_resource
from helios_core.memory import MemoryDataProvider, MemoryJobStore, MemoryOutputStore
from helios_core.model.exports import Level
from helios_core.model.jobs import Job
from helios_core.model.parts import PartKind
from helios_core.storage.backends import Backends
from helios_core.storage.data_provider import DataProvider, Delete, Put
from helios_core.storage.resource_keys import TypeKey
from tests.pace import scaled

TENANT = "default"


class Hospital:
    """Backends in memory, and what a test does with them."""

    def __init__(self, provider: DataProvider | None = None) -> None:
        self.data_provider = provider or MemoryDataProvider()
        self.policy = ExportPolicy()
        self.limits = PartLimits()
        self.patience = timedelta(hours=1)
        self.job_store = MemoryJobStore()
        self.output_store = MemoryOutputStore()
        self.announced: list[Job] = []

    @property
    def backends(self) -> Backends:
        return Backends(
            data_provider=self.data_provider,
            job_store=self.job_store,
            output_store=self.output_store,
            announce=self.announced.append,
        )

    async def store(self, *resources: dict) -> None:
        bodies = [msgspec.json.encode(resource) for resource in resources]
        puts = [Put(resource=parse_resource(body, FHIRVersion.R4)) for body in bodies]
        await self.data_provider.write(TENANT, FHIRVersion.R4, puts)

    async def now(self) -> str:
        """Return an instant after everything stored so far, and before everything stored later."""
        return format_instant(await self.data_provider.transaction_time())

    async def delete(self, resource_type: str, resource_id: str) -> None:
        gone = Delete(resource_type=resource_type, id=resource_id)
        await self.data_provider.write(TENANT, FHIRVersion.R4, [gone])

    def damage(self, resource_type: str, resource_id: str) -> None:
        """Cut a stored line short, behind the provider's back."""
        key = TypeKey(TENANT, FHIRVersion.R4, resource_type)
        versions = self.data_provider._collections[key][resource_id]
        stored = versions[-1].stored
        cut = msgspec.structs.replace(stored, content=stored.content[:-3])
        versions[-1] = msgspec.structs.replace(versions[-1], stored=cut)

    async def kick_off(
        self,
        *query: tuple[str, str],
        level: Level = Level.SYSTEM,
        group: str | None = None,
        patients: Sequence[str] | None = None,
        handling: str = "strict",
        shard_bytes: int = 1_000_000,
    ) -> Job:
        body = None
        if patients is not None:
            named = [{"name": "patient", "valueString": patient} for patient in patients]
            body = msgspec.json.encode({"resourceType": "Parameters", "parameter": named})
        call = KickoffRequest(
            tenant=TENANT,
            fhir_version=FHIRVersion.R4,
            level=Level.GROUP if group else level,
            group_id=group,
            url="http://localhost/$export",
            query=query,
            body=body,
            base_url="http://localhost",
            policy=self.policy,
            prefer=[f"respond-async, handling={handling}"],
        )
        return await accept(self.backends, call, max_active=4, shard_bytes=shard_bytes)

    async def work(self, job: Job, *, backends: Backends | None = None, workers: int = 2) -> Job:
        """Run workers until the job has ended."""
        stop = asyncio.Event()
        options = WorkerOptions(
            idle=timedelta(milliseconds=5),
            retry_after=timedelta(milliseconds=1),
            first_pause=timedelta(milliseconds=1),
            outage_patience=self.patience,
            limits=self.limits,
        )
        async with asyncio.timeout(scaled(20)), asyncio.TaskGroup() as group:
            for number in range(workers):
                worker = Worker(f"w{number}", backends or self.backends, options, stop=stop)
                group.create_task(worker.run())
            while (job := await self.job_store.get(job.tenant, job.id)).status.active:
                await asyncio.sleep(0.005)
            stop.set()
        return job

    async def lines(self, job: Job, kind: PartKind = PartKind.OUTPUT) -> list[dict]:
        """Return the decoded lines of all published parts of a kind."""
        decoded = []
        for part in await self.job_store.parts(job.tenant, job.id):
            if part.key.kind is kind:
                data = b"".join([chunk async for chunk in self.output_store.read(part.key)])
                assert data.count(b"\n") == part.count
                decoded += [msgspec.json.decode(line) for line in data.splitlines()]
        return decoded

    async def export(self, *query: tuple[str, str], **options) -> list[str]:
        """Kick off, work, and return the references to what was exported."""
        job = await self.work(await self.kick_off(*query, **options))
        return sorted(f"{r['resourceType']}/{r['id']}" for r in await self.lines(job))


def patient(resource_id: str, **more) -> dict:
    return {"resourceType": "Patient", "id": resource_id, **more}


def observation(resource_id: str, subject: str, **more) -> dict:
    return {
        "resourceType": "Observation",
        "id": resource_id,
        "status": "final",
        "subject": {"reference": f"Patient/{subject}"},
        **more,
    }


def group(resource_id: str, *members: dict | str, **more) -> dict:
    entries = [
        {"entity": {"reference": member}} if isinstance(member, str) else member
        for member in members
    ]
    return {"resourceType": "Group", "id": resource_id, "member": entries, **more}
