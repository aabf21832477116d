"""What a load does with good and bad, again and at length."""

import asyncio
import gzip
import itertools
import json
import threading
import tracemalloc

import pytest

from helios_core.errors import BackendUnavailable, StoreBusy, StoreReplaced
from helios_core.fhir.definitions import FHIRVersion
from helios_core.loading import intake
from helios_core.loading.load import MAX_PROBLEMS, WRITE_BYTES, WRITE_CHANGES, LoadPhase, load
from helios_core.memory.data_provider import MemoryDataProvider
from helios_core.storage.data_provider import SupportsWrites
from helios_core.storage.resource_keys import ResourceKey, TypeKey

CANARY = "Ophelia-Vanderbeek"
BUSY = StoreBusy("another write holds the clock")


def patient(number, **more):
    return {"resourceType": "Patient", "id": f"p{number}"} | more


class Recording(SupportsWrites):
    """Counts what it receives, and stores nothing."""

    def __init__(self, provider, *, fail_at=None):
        self._provider = provider
        self._fail_at = fail_at
        self.batches = []

    async def write(self, tenant, fhir_version, changes):
        if self._fail_at == len(self.batches):
            raise BackendUnavailable("the disk is full")
        self.batches.append([len(change.resource.tail) for change in changes])
        return await self._provider.write(tenant, fhir_version, changes)


async def test_loading_again_changes_nothing(store, write):
    path = write("patients.ndjson", *map(patient, range(5)))

    await store.load(path)
    again = await store.load(path)

    assert (again.created, again.updated, again.unchanged) == (0, 0, 5)
    assert (await store.version("Patient/p0")).version_id == 1


async def test_loading_a_changed_resource_updates_it(store, write):
    await store.load(write("old.ndjson", patient(0), patient(1)))
    summary = await store.load(write("new.ndjson", patient(0, active=True), patient(1)))

    assert (summary.created, summary.updated, summary.unchanged) == (0, 1, 1)
    assert (await store.version("Patient/p0")).version_id == 2


async def test_meta_of_an_export_does_not_make_a_version(store, write):
    stamp = {"versionId": "7", "lastUpdated": "2020-01-01T00:00:00Z"}
    await store.load(write("first.ndjson", patient(0)))

    summary = await store.load(write("exported.ndjson", patient(0, meta=stamp)))

    assert summary.unchanged == 1


async def test_everything_stays_inside_the_tenant_and_the_version(store, write):
    await store.load(write("a.ndjson", patient(0)), tenant="other", fhir_version=FHIRVersion.R5)

    assert await store.version("Patient/p0") is None
    assert await store.data_provider.get(ResourceKey("other", FHIRVersion.R5, "Patient", "p0"))


async def test_a_bad_line_is_told_and_the_rest_is_loaded(store, write):
    lines = [
        patient(0),
        "{broken",
        {"resourceType": "Patient"},
        {"resourceType": "Nobody", "id": "x"},
        [],
        patient(1),
    ]
    path = write("mixed.ndjson", *lines)

    summary = await store.load(path)

    assert (summary.read, summary.created, summary.bad) == (6, 2, 4)
    assert [problem.line for problem in summary.problems] == [2, 3, 4, 5]
    assert str(summary.problems[1]) == f"{path}, line 3: the resource has no id"


async def test_problems_do_not_show_the_content(store, write):
    lines = [
        patient(0, id=f"{CANARY}!"),
        patient(0, meta=CANARY),
        f'{{"resourceType":"Patient","id":"p","{CANARY}":{CANARY}}}',
        {"resourceType": CANARY, "id": "x"},
        f'{{"resourceType":"Patient","{CANARY}!":1,"{CANARY}!":2,"id":"p"}}',
    ]

    summary = await store.load(write("lines.ndjson", *lines))

    assert summary.bad == len(lines)
    assert CANARY not in "".join(map(str, summary.problems))


async def test_a_strict_load_stops_at_the_first_bad_one(store, write):
    path = write("mixed.ndjson", patient(0), "{broken", "{broken", patient(1))

    summary = await store.load(path, write("z.ndjson", patient(2)), strict=True)

    assert (summary.read, summary.created, summary.bad) == (2, 1, 1)
    assert await store.version("Patient/p0")
    assert await store.version("Patient/p1") is None


async def test_a_strict_load_without_problems_loads_everything(store, write):
    summary = await store.load(write("a.ndjson", *map(patient, range(2500))), strict=True)

    assert (summary.created, summary.bad) == (2500, 0)


async def test_only_the_first_problems_are_described(store, write):
    path = write("bad.ndjson", *["{broken"] * (MAX_PROBLEMS + 50))

    summary = await store.load(path)

    assert (len(summary.problems), summary.bad) == (MAX_PROBLEMS, MAX_PROBLEMS + 50)


async def test_a_file_that_is_not_there_is_a_problem(store, write, tmp_path):
    summary = await store.load(tmp_path / "missing.ndjson", write("a.ndjson", patient(0)))

    assert (summary.created, summary.bad) == (1, 1)
    assert "No such file" in summary.problems[0].reason


@pytest.mark.parametrize("damage", ["cut", "altered"])
async def test_a_damaged_gzip_file_is_a_problem_and_what_was_read_stays(store, tmp_path, damage):
    lines = b"".join(json.dumps(patient(n)).encode() + b"\n" for n in range(40_000))
    content = bytearray(gzip.compress(lines))
    middle = len(content) // 2
    if damage == "cut":
        del content[middle:]
    else:
        content[-8:] = bytes(8)  # the checksum
    path = tmp_path / "a.ndjson.gz"
    path.write_bytes(content)

    summary = await store.load(path)

    assert summary.created > 1000
    assert summary.bad >= 1
    assert "cannot be read further" in str(summary.problems[-1])


async def test_writes_are_short_and_in_order(write):
    recording = Recording(MemoryDataProvider())
    many = write("many.ndjson", *map(patient, range(2 * WRITE_CHANGES + 1)))
    text = "x" * (WRITE_BYTES // 3)
    large = [patient(n, text=text) for n in range(7)]
    entries = [{"resource": resource} for resource in large]
    bundle = write("b.json", {"resourceType": "Bundle", "type": "collection", "entry": entries})

    await load([many, bundle], recording, tenant="t", fhir_version=FHIRVersion.R4)

    assert all(len(batch) <= WRITE_CHANGES for batch in recording.batches)
    assert all(sum(batch[:-1]) <= WRITE_BYTES for batch in recording.batches)
    assert sum(map(len, recording.batches)) == 2 * WRITE_CHANGES + 8


async def test_a_provider_that_cannot_write_ends_the_load(write, monkeypatch):
    monkeypatch.setattr("helios_core.loading.load.PATIENCE", 0)
    provider = MemoryDataProvider()
    path = write("many.ndjson", *map(patient, range(3000)))

    with pytest.raises(BackendUnavailable, match="the disk is full"):
        await load([path], Recording(provider, fail_at=1), tenant="t", fhir_version=FHIRVersion.R4)

    patients = TypeKey("t", FHIRVersion.R4, "Patient")
    assert await provider.get(patients.resource("p0"))
    assert await provider.get(patients.resource("p2999")) is None


class Busy(SupportsWrites):
    """Does not respond to its first writes, or to any; a lost answer is that to a write done."""

    def __init__(self, provider, *, busy, error=BUSY, is_lost=False):
        self._provider = provider
        self.busy = busy
        self._error = error
        self._is_lost = is_lost

    async def write(self, tenant, fhir_version, changes):
        if self.busy:
            self.busy -= 1
            if self._is_lost:
                await self._provider.write(tenant, fhir_version, changes)
            raise self._error
        return await self._provider.write(tenant, fhir_version, changes)


@pytest.mark.parametrize("error", [BUSY, BackendUnavailable("it did not answer")])
async def test_a_load_outlasts_a_store_that_does_not_respond(write, monkeypatch, error):
    monkeypatch.setattr("helios_core.loading.load.PAUSE", 0)
    told = []
    path = write("many.ndjson", *map(patient, range(3)))

    summary = await load(
        [path],
        Busy(MemoryDataProvider(), busy=2, error=error),
        tenant="t",
        fhir_version=FHIRVersion.R4,
        on_progress=told.append,
    )

    assert (summary.created, summary.bad) == (3, 0)
    waits = [each for each in told if each.phase is LoadPhase.WAITING]
    assert [each.reason for each in waits] == [str(error)] * 2


async def test_a_write_whose_answer_was_lost_is_not_done_twice(write, monkeypatch):
    """A history has several versions of a resource, each of which is written once."""
    monkeypatch.setattr("helios_core.loading.load.PAUSE", 0)
    versions = [patient(0, active=True), patient(0, active=False), patient(1)]
    entries = [
        {
            "fullUrl": f"http://example.org/Patient/{each['id']}",
            "resource": each | {"meta": {"lastUpdated": f"2020-01-0{day}T00:00:00Z"}},
            "request": {"method": "PUT", "url": f"Patient/{each['id']}"},
        }
        for day, each in enumerate(versions, 1)
    ]
    path = write("h.json", {"resourceType": "Bundle", "type": "history", "entry": entries})
    provider = MemoryDataProvider()

    summary = await load(
        [path],
        Busy(provider, busy=1, is_lost=True),
        tenant="t",
        fhir_version=FHIRVersion.R4,
    )

    key = TypeKey("t", FHIRVersion.R4, "Patient")
    history = await provider.history(key.resource("p0"), count=9)
    assert [version.version_id for version in history] == [2, 1]
    assert (summary.read, summary.bad) == (3, 0)


async def test_a_load_stops_at_once_when_the_store_was_replaced(write):
    path = write("many.ndjson", *map(patient, range(3)))
    replaced = Busy(MemoryDataProvider(), busy=9, error=StoreReplaced("the file was replaced"))

    with pytest.raises(StoreReplaced):
        await load([path], replaced, tenant="t", fhir_version=FHIRVersion.R4)

    assert replaced.busy == 8


class Unsearchable(MemoryDataProvider):
    """Does not respond to its first search."""

    asked = 0

    async def search(self, key, query, *, count, after=None):
        self.asked += 1
        if self.asked == 1:
            raise BackendUnavailable("it did not answer")
        return await super().search(key, query, count=count, after=after)


async def test_a_load_outlasts_a_store_that_does_not_search(write, monkeypatch):
    monkeypatch.setattr("helios_core.loading.load.PAUSE", 0)
    provider = Unsearchable()
    link = {"reference": "Patient?identifier=x|1"}
    known = write("known.ndjson", patient(0, identifier=[{"system": "x", "value": "1"}]))
    path = write("o.ndjson", {"resourceType": "Observation", "id": "o", "subject": link})
    place = {"tenant": "t", "fhir_version": FHIRVersion.R4}
    await load([known], provider, **place)

    summary = await load([path], provider, **place)

    assert (summary.created, summary.unmatched, provider.asked) == (1, 0, 2)


async def test_a_load_gives_up_when_the_store_stays_away(write, monkeypatch):
    monkeypatch.setattr("helios_core.loading.load.PATIENCE", 0)
    path = write("many.ndjson", *map(patient, range(3)))
    busy = Busy(MemoryDataProvider(), busy=9)

    with pytest.raises(StoreBusy, match="another write holds the clock"):
        await load([path], busy, tenant="t", fhir_version=FHIRVersion.R4)


async def test_a_load_that_waits_for_the_store_can_be_stopped(write):
    stopping = asyncio.Event()
    path = write("many.ndjson", *map(patient, range(3)))

    def stop(progress):
        if progress.phase is LoadPhase.WAITING:
            stopping.set()

    summary = await load(
        [path],
        Busy(MemoryDataProvider(), busy=9),
        tenant="t",
        fhir_version=FHIRVersion.R4,
        stopping=stopping,
        on_progress=stop,
    )

    assert (summary.created, summary.interrupted) == (0, True)


async def test_progress_grows_to_the_size_on_disk(store, write):
    told = []
    paths = [write(f"{n}.ndjson.gz", *map(patient, range(3000))) for n in range(2)]

    await store.load(*paths, on_progress=told.append)

    size = sum(path.stat().st_size for path in paths)
    for phase, progress in itertools.groupby(told, key=lambda progress: progress.phase):
        done = [p.bytes_done for p in progress]
        assert done == sorted(done)
        assert done[-1] == size
        assert phase in LoadPhase
    assert {p.bytes_total for p in told} == {size}
    assert told[-1].resources == 6000


async def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "large.ndjson"
    with path.open("w") as file:
        for number in range(300):
            text = f"{number:06}" * 50_000
            file.write(json.dumps(patient(number, text=text)) + "\n")

    class Nowhere:
        async def write(self, tenant, fhir_version, changes):
            return []

    tracemalloc.start()
    await load([path], Nowhere(), tenant="t", fhir_version=FHIRVersion.R4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert path.stat().st_size > 80_000_000
    assert peak < 40_000_000


async def test_a_line_of_many_megabytes_is_loaded(store, write):
    note = {"resourceType": "Binary", "id": "b", "contentType": "text/plain"}
    path = write("large.ndjson", note | {"data": "QUJD" * 7_000_000}, patient(0))

    summary = await store.load(path)

    assert (summary.created, summary.bad) == (2, 0)
    assert len(await store.text("Binary/b")) > 28_000_000


class _Strange(Exception):
    """What nobody expects."""


@pytest.mark.parametrize("error", [OverflowError, RecursionError, MemoryError, _Strange])
async def test_a_bad_line_is_one_bad_line_whatever_raises(store, write, monkeypatch, error):
    parse = intake.parse_resource

    def parse_or_raise(content, *arguments, **options):
        if b"p1" in content:
            raise error(CANARY)
        return parse(content, *arguments, **options)

    monkeypatch.setattr(intake, "parse_resource", parse_or_raise)
    entries = [{"resource": patient(n)} for n in (1, 3)]
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": entries}

    summary = await store.load(write("a.ndjson", patient(0), patient(1), patient(2), bundle))

    assert (summary.created, summary.bad) == (3, 2)
    assert [(problem.line, problem.entry) for problem in summary.problems] == [(2, None), (4, 0)]
    assert error.__name__ in summary.problems[0].reason
    assert CANARY not in "".join(map(str, summary.problems))


DATES = [
    "9999-12-31",
    "9999-12-31T23:59:59.999999999-14:00",
    "0001-01-01T00:00:00+14:00",
    "0000-00-00",
    "2020-01-01T10:00",
    "2020-01-01T24:00:00Z",
    "2016-12-31T23:59:60Z",
    "99999-01-01",
    "",
]


async def test_dates_at_the_ends_of_time_end_no_load(store, write):
    lines = [patient(number, birthDate=date) for number, date in enumerate(DATES)]
    lines += [
        {"resourceType": "Observation", "id": f"o{number}", "effectiveDateTime": date}
        | {"meta": {"lastUpdated": date}}
        for number, date in enumerate(DATES)
    ]

    summary = await store.load(write("a.ndjson", *lines))

    assert summary.read == len(lines)
    assert summary.created + summary.bad == len(lines)


async def test_ids_are_assigned_where_they_are_missing_or_not_allowed(store, write):
    lines = [
        {"resourceType": "Patient", "name": [{"family": "x"}]},
        {"resourceType": "Patient", "id": "under_score"},
        {"resourceType": "Patient", "id": 5},
        {"resourceType": "Patient", "id": None, "active": True},
        {"resourceType": "Patient", "id": "", "active": False},
        {"resourceType": "Patient", "id": "x" * 65},
        {"resourceType": "Patient", "id": "kept"},
        {
            "resourceType": "Observation",
            "id": "o",
            "subject": {"reference": "Patient/under_score"},
            "focus": [{"reference": "Patient/under_score#part"}],
        },
        {"resourceType": "Observation", "id": "v", "subject": {"reference": "Patient/kept"}},
    ]
    path = write("a.ndjson", *lines)

    summary = await store.load(path, assign_ids=True)
    again = await store.load(write("b.ndjson", *reversed(lines)), assign_ids=True)

    assert (summary.created, summary.bad) == (9, 0)
    assert (again.created, again.unchanged) == (0, 9)
    assert "Patient/kept" in store.references()
    about = json.loads(await store.text("Observation/o"))
    subject = about["subject"]["reference"]
    assert subject in store.references("Patient")
    assert about["focus"] == [{"reference": f"{subject}#part"}]
    assert json.loads(await store.text("Observation/v"))["subject"] == {
        "reference": "Patient/kept"
    }


async def test_ids_are_assigned_in_bundles_too(store, write):
    url = "urn:uuid:1"
    entries = [
        {"fullUrl": url, "resource": {"resourceType": "Patient", "id": "under_score"}},
        {"resource": {"resourceType": "Patient", "active": True}},
        {"resource": {"resourceType": "Observation", "id": "o", "subject": {"reference": url}}},
    ]
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": entries}
    path = write("a.json", bundle)

    without = await store.load(path)
    summary = await store.load(path, assign_ids=True)

    assert (without.created, without.bad) == (1, 2)
    assert (summary.created, summary.updated, summary.bad) == (2, 1, 0)
    subject = json.loads(await store.text("Observation/o"))["subject"]["reference"]
    assert subject in store.references("Patient")


async def test_two_resources_of_equal_content_without_ids_are_one(store, write):
    line = {"resourceType": "Patient", "active": True}

    summary = await store.load(write("a.ndjson", line, line), assign_ids=True)

    assert (summary.created, summary.unchanged) == (1, 1)


async def test_a_load_that_is_stopped_returns_what_it_has_done(write):
    stopping = asyncio.Event()
    provider = MemoryDataProvider()

    class Stopping(Recording):
        async def write(self, tenant, fhir_version, changes):
            applied = await super().write(tenant, fhir_version, changes)
            if len(self.batches) == 2:
                stopping.set()
            return applied

    path = write("many.ndjson", *map(patient, range(5 * WRITE_CHANGES)))

    summary = await load(
        [path], Stopping(provider), tenant="t", fhir_version=FHIRVersion.R4, stopping=stopping
    )

    assert summary.interrupted
    assert not summary.is_good
    assert summary.created == 2 * WRITE_CHANGES


@pytest.mark.parametrize("blocking", ["reading", "writing"])
async def test_a_load_stops_although_something_never_ends(store, write, monkeypatch, blocking):
    stopping, going_on = asyncio.Event(), threading.Event()
    path = write("a.ndjson", patient(0))
    if blocking == "reading":

        def parse(*arguments):
            loop.call_soon_threadsafe(stopping.set)
            going_on.wait()
            raise OSError

        loop = asyncio.get_running_loop()
        monkeypatch.setattr("helios_core.loading.load.parse_files", _yielding(parse))
    else:

        async def write_never(*arguments):
            stopping.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(store.data_provider, "write", write_never)

    summary = await store.load(path, stopping=stopping)

    going_on.set()
    assert summary.interrupted
    assert summary.read == 0


def _yielding(function):
    def generator(*arguments):
        yield function(*arguments)

    return generator
