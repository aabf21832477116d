"""Parsing in other processes changes the speed and nothing else."""

import asyncio
import multiprocessing
import os
import signal

import pytest

from helios_core.errors import BackendUnavailable
from helios_core.fhir.definitions import FHIRVersion
from helios_core.loading import parsers
from helios_core.loading.inputs import find_files
from helios_core.loading.link_index import Definition, LinkIndex
from helios_core.loading.load import load
from helios_core.loading.parsers import parse_files
from helios_core.loading.resources import LoadOptions

UUID = "6c5d9ca9-54d7-42f5-bfae-a7c19cd217f2"


@pytest.fixture(autouse=True)
def in_processes(monkeypatch):
    monkeypatch.setattr(parsers, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)


@pytest.fixture
def mixed(write):
    deletion = {"request": {"method": "DELETE", "url": "Patient/p1"}}
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [deletion]}
    lines = [{"resourceType": "Patient", "id": f"p{number}"} for number in range(5000)]
    resolvable = {"resourceType": "Observation", "subject": {"reference": f"urn:uuid:{UUID}"}}
    lost = resolvable | {"subject": {"reference": "urn:uuid:nobody"}}
    found = [resolvable | {"id": "known"}, lost | {"id": "lost"}]
    return write("mixed.ndjson", *lines, "{broken", bundle, *found)


def together(intake, path):
    found = list(parse_files(intake, find_files([path])))
    changes = [change for chunk in found for change in chunk.changes]
    problems = [problem for chunk in found for problem in chunk.problems]
    unresolved = [pair for chunk in found for pair in chunk.unresolved]
    return changes, problems, unresolved, found[-1].bytes_done


def test_the_result_is_that_of_one_process(mixed, monkeypatch):
    with LinkIndex.temporary() as index:
        index.define(Definition(f"urn:uuid:{UUID}", "Patient/p7", 0))
        index.publish()
        options = LoadOptions(fhir_version=FHIRVersion.R4, index_path=str(index.path))
        parallel = together(options, mixed)
        monkeypatch.setattr(parsers, "PARALLEL_BYTES", 1 << 40)

        alone = together(options, mixed)

    assert parallel == alone
    changes, problems, unresolved, done = parallel
    assert (len(changes), len(problems), len(unresolved)) == (5003, 1, 1)
    assert changes[-2].resource.patients == ("p7",)
    assert done == mixed.stat().st_size


async def test_a_load_in_processes_counts_everything(store, mixed):
    summary = await store.load(mixed)

    assert (summary.created, summary.deleted, summary.bad) == (5002, 1, 1)
    assert summary.unresolved_by_file == ((mixed, 2),)


async def test_a_strict_load_in_processes_stops(store, mixed):
    summary = await store.load(mixed, strict=True)

    assert (summary.created, summary.deleted, summary.bad) == (5000, 0, 1)
    assert multiprocessing.active_children() == []


async def test_a_parser_that_is_killed_ends_the_load_with_a_reason(write):
    path = write(
        "many.ndjson", *({"resourceType": "Patient", "id": f"p{n}"} for n in range(20_000))
    )

    class Killing:
        async def write(self, tenant, fhir_version, changes):
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
            return []

    with pytest.raises(BackendUnavailable, match="a parsing process was killed"):
        await load([path], Killing(), tenant="t", fhir_version=FHIRVersion.R4)


async def test_a_cancelled_load_leaves_no_process(write):
    path = write(
        "many.ndjson", *({"resourceType": "Patient", "id": f"p{n}"} for n in range(20_000))
    )
    writing = asyncio.Event()

    class Waiting:
        async def write(self, tenant, fhir_version, changes):
            writing.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(load([path], Waiting(), tenant="t", fhir_version=FHIRVersion.R4))
    await writing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert multiprocessing.active_children() == []
