"""Resources in a bucket: many writers, killed processes, and servers that fail or cheat."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from random import Random

import msgspec
import pytest

from helios_core import (
    BackendError,
    BackendUnavailable,
    ConfigurationError,
    Delete,
    Put,
    VersionConflict,
)
from helios_core.testing import corpus, take_snapshot
from helios_s3 import (
    buckets,
    compaction,
    compartments,
    encoding,
    extents,
    log,
    open_data_provider,
    planning,
    tail,
)
from helios_s3.encoding import hash_id
from helios_s3.objects import Objects
from tests.proxies import Fault, HTTPProxy

COMMIT = re.compile(rb"^PUT [^ ]*/log/")
EXTENT = re.compile(rb"^PUT [^ ]*/extents/")
READ = re.compile(rb"^GET ")

WRITER = """
import asyncio, json, sys
from helios_core import Put, Secret
from helios_core.testing import corpus
from helios_s3 import S3ResourceSettings, compaction, open_data_provider

async def main(name, rows, settings):
    compaction.TAIL_ROWS, compaction.RUNS_PER_LEVEL = int(rows), 2
    known = json.loads(settings)
    for secret in ("access_key_id", "secret_access_key"):
        known[secret] = Secret(known[secret])
    async with open_data_provider(S3ResourceSettings(**known)) as provider:
        number = 0
        while True:
            changes = [
                Put(resource=corpus.patient(f"{name}-{number}-{each}", note="x" * 500))
                for each in range(10)
            ]
            await provider.write(corpus.TENANT, corpus.VERSION, changes)
            print(number, flush=True)
            number += 1

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def resources(minio_bucket, resource_settings):
    return lambda **changes: open_data_provider(resource_settings(minio_bucket, **changes))


@pytest.fixture
def writer(minio_bucket):
    """Start processes that write ten resources at a time, and say what was accepted."""
    started = []
    settings = json.dumps(
        {
            "bucket": minio_bucket.name,
            "endpoint": minio_bucket.endpoint,
            "allow_http": True,
            "force_path_style": True,
            "region": minio_bucket.region,
            "access_key_id": minio_bucket.access_key,
            "secret_access_key": minio_bucket.secret_key,
        }
    )

    def start(name, *, rows=1_000_000):
        command = [sys.executable, "-c", WRITER, name, str(rows), settings]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.stdout.close()
        process.wait()


@pytest.fixture
def impatient(monkeypatch):
    """Stop trying after a second instead of minutes."""
    monkeypatch.setattr(log, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(buckets, "RETRIES", buckets.retries(most=2, seconds=1))


async def put(provider, *resources, if_match=None):
    changes = [Put(resource=each, if_match=if_match) for each in resources]
    return await provider.write(corpus.TENANT, corpus.VERSION, changes)


async def everything(provider):
    shown = corpus.view(await provider.transaction_time())
    return await take_snapshot(provider, shown)


async def test_sixteen_writers_lose_nothing(resources):
    """Each reads a counter and raises it on condition, until all have done so four times."""
    async with AsyncExitStack() as stack:
        writers = [await stack.enter_async_context(resources()) for _ in range(16)]
        await put(writers[0], corpus.patient("counter", note="0"))
        key = corpus.type_key("Patient").resource("counter")

        async def count(provider):
            done = 0
            while done < 4:
                stored = await provider.get(key)
                raised = corpus.patient("counter", note=str(stored.version_id))
                try:
                    await put(provider, raised, if_match=stored.version_id)
                except VersionConflict:
                    continue
                done += 1

        await asyncio.gather(*map(count, writers))

        seen = {(await each.get(key)).version_id for each in writers}
        history = await writers[0].history(key, count=100)
        stamps = [version.last_updated for version in history]
    assert seen == {65}
    assert [version.version_id for version in history] == list(range(65, 0, -1))
    assert stamps == sorted(set(stamps), reverse=True)


@pytest.mark.crash
async def test_a_killed_writer_leaves_whole_writes_and_all_it_acknowledged(writer, resources):
    processes = [writer(name) for name in ("a", "b", "c")]
    accepted = {}
    for name, process in zip("abc", processes, strict=True):
        for _ in range(5):
            accepted[name] = int(await asyncio.to_thread(process.stdout.readline))
        process.send_signal(signal.SIGKILL)
        for line in await asyncio.to_thread(process.stdout.readlines):
            accepted[name] = int(line)

    async with resources() as provider:
        names = (await everything(provider)).names

    for name, last in accepted.items():
        own = [int(each.split("-")[1]) for each in names if each.startswith(f"Patient/{name}-")]
        assert set(range(last + 1)) <= set(own) <= set(range(last + 2))
        assert all(own.count(number) == 10 for number in own)


@pytest.mark.crash
async def test_a_kill_amid_compaction_loses_and_doubles_nothing(writer, resources, monkeypatch):
    """The process compacts all the time; another one goes on where it was killed, and exports."""
    monkeypatch.setattr(compaction, "TAIL_ROWS", 20)
    monkeypatch.setattr(compaction, "RUNS_PER_LEVEL", 2)
    async with resources() as provider:
        expected = set()
        for attempt in range(4):
            process = writer(f"k{attempt}", rows=20)
            last = -1
            for _ in range(7 + attempt):
                last = int(await asyncio.to_thread(process.stdout.readline))
            snapshot = await everything(provider)
            process.send_signal(signal.SIGKILL)
            for line in await asyncio.to_thread(process.stdout.readlines):
                last = int(line)
            expected |= {
                f"Patient/k{attempt}-{number}-{each}"
                for number in range(last + 1)
                for each in range(10)
            }
            assert len(set(snapshot.names)) == len(snapshot.names)

        await put(provider, corpus.patient("z"))
        await provider._compactor.compact(everything=True)
        names = (await everything(provider)).names
    assert expected <= set(names)
    assert len(set(names)) == len(names)


async def test_an_export_goes_on_while_its_extents_are_merged_and_removed(resources, monkeypatch):
    monkeypatch.setattr(compaction, "RUNS_PER_LEVEL", 2)
    monkeypatch.setattr(compaction, "GRACE_SECONDS", -3600.0)
    monkeypatch.setattr(compaction, "EXTENT_GRACE_SECONDS", -3600.0)
    patients = [corpus.patient(f"p{number:03}", note="x" * 300) for number in range(200)]
    async with resources() as provider, resources() as exporter:
        await put(provider, *patients[::2])
        await provider._compactor.compact(everything=True)
        shown = corpus.view(await exporter.transaction_time())
        [shard] = await exporter.plan(shown, shard_bytes=1 << 30)
        reading = exporter.read(shown, shard, batch_bytes=1)
        first = await anext(reading)
        await put(provider, *patients[1::2])
        await provider._compactor.compact(everything=True)
        await provider._compactor.clean()

        lines = [*first.lines, *[line async for batch in reading for line in batch.lines]]
        again = await take_snapshot(exporter, shown)

    assert len(lines) == 100
    assert len(again.names) == 100


async def test_what_superseded_checkpoints_named_is_removed_and_nothing_else(
    resources, minio_bucket, monkeypatch
):
    monkeypatch.setattr(compaction, "GRACE_SECONDS", -3600.0)
    monkeypatch.setattr(compaction, "EXTENT_GRACE_SECONDS", -3600.0)
    async with resources() as provider:
        for number in range(12):
            await put(provider, corpus.patient(f"p{number}"))
            await provider._compactor.compact(everything=True)
        await put(provider, corpus.patient("last"))
        await provider._compactor.clean()
        before = (await everything(provider)).names
    client = minio_bucket.client()
    found = client.list_objects_v2(Bucket=minio_bucket.name)["Contents"]
    folders = [each["Key"].split("/")[0] for each in found]

    async with resources() as provider:
        assert (await everything(provider)).names == before

    assert len(before) == 13
    assert folders.count("checkpoints") == 1
    assert folders.count("extents") <= 2 * compaction.RUNS_PER_LEVEL
    assert folders.count("log") < 12


async def test_a_merge_that_took_too_long_changes_nothing(resources, monkeypatch):
    """Its first extents may have been removed as those of a process that was killed."""
    async with resources() as provider:
        await put(provider, corpus.patient("p"))
        with monkeypatch.context() as slow:
            slow.setattr(compaction, "LONGEST_SECONDS", -1.0)
            await provider._compactor.compact(everything=True)
            assert provider._rows.log.state.checkpoint.runs == ()
        await provider._compactor.compact(everything=True)

        assert len(provider._rows.log.state.checkpoint.runs) == 1
        assert (await everything(provider)).names == ["Patient/p"]


async def test_a_commit_that_is_gone_is_noticed_at_start(resources, minio_bucket):
    async with resources() as provider:
        for number in range(3):
            await put(provider, corpus.patient(f"p{number}"))
    client = minio_bucket.client()
    client.delete_object(Bucket=minio_bucket.name, Key="log/0000000000000002")

    with pytest.raises(BackendError, match="commit 2 is missing"):
        await resources().__aenter__()


async def test_a_writer_that_stood_still_does_not_take_a_number_that_was_used(
    resources, monkeypatch
):
    """Its next number looks free, since the commit that had it was merged and removed."""
    monkeypatch.setattr(compaction, "GRACE_SECONDS", -3600.0)
    monkeypatch.setattr(compaction, "EXTENT_GRACE_SECONDS", -3600.0)
    async with resources() as provider, resources() as sleeper:
        await put(sleeper, corpus.patient("p", note="1"))
        elapsed = log.elapsed
        await put(provider, corpus.patient("p", note="2"))
        await put(provider, corpus.patient("q"))
        await provider._compactor.compact(everything=True)
        await provider._compactor.clean()
        monkeypatch.setattr(log, "elapsed", lambda: elapsed() + log.GRACE_SECONDS)

        [applied] = await put(sleeper, corpus.patient("p", note="3"))

        key = corpus.type_key("Patient").resource("p")
        assert applied.version_id == 3
        assert (await provider.get(key)).version_id == 3


class CarelessProxy(HTTPProxy):
    """A server that does not know of conditional writes."""

    async def _relay(self, reader, writer, *, fault, head, body):
        head = re.sub(rb"(?i)\r\nif-none-match:[^\r]*", b"", head)
        await super()._relay(reader, writer, fault=fault, head=head, body=body)


async def test_a_server_that_ignores_conditions_is_refused(bucket, resource_settings):
    host, _, port = bucket.endpoint.removeprefix("http://").partition(":")
    with CarelessProxy((host, int(port)), seed=1) as careless:
        opening = open_data_provider(resource_settings(bucket, endpoint=careless.url))
        with pytest.raises(ConfigurationError, match="ignores If-None-Match"):
            await opening.__aenter__()


async def test_a_bucket_that_is_not_there_is_named(bucket, resource_settings):
    nowhere = msgspec.structs.replace(resource_settings(bucket), bucket="helios-nowhere")
    with pytest.raises(ConfigurationError, match=r"no bucket helios-nowhere at .* HFS_S3_BUCKET"):
        async with open_data_provider(nowhere):
            pass


async def test_passing_errors_neither_lose_nor_double_a_write(
    minio_bucket, resource_settings, resources
):
    """Where the answer is lost, the writer finds its own commit in the log."""
    host, _, port = minio_bucket.endpoint.removeprefix("http://").partition(":")
    with HTTPProxy((host, int(port)), seed=3) as proxy:
        async with open_data_provider(
            resource_settings(minio_bucket, endpoint=proxy.url)
        ) as provider:
            proxy.faults = {
                Fault.ERROR_503: 0.1,
                Fault.CUT_REQUEST: 0.05,
                Fault.CUT_RESPONSE: 0.2,
            }
            applied = [
                await put(provider, corpus.patient("p", note=str(number))) for number in range(30)
            ]
            proxy.faults = {}
            assert sum(proxy.done.values()) >= 1
    async with resources() as direct:
        key = corpus.type_key("Patient").resource("p")
        history = await direct.history(key, count=100)

    assert [each.version_id for [each] in applied] == list(range(1, 31))
    assert len(history) == 30


@pytest.mark.parametrize("step", [COMMIT, READ], ids=["commit", "read"])
async def test_a_bucket_that_is_away_is_unavailable(
    impatient, minio_bucket, resource_settings, step
):
    host, _, port = minio_bucket.endpoint.removeprefix("http://").partition(":")
    with HTTPProxy((host, int(port)), seed=1) as proxy:
        async with open_data_provider(
            resource_settings(minio_bucket, endpoint=proxy.url)
        ) as provider:
            proxy.only, proxy.faults = step, {Fault.ERROR_503: 1.0}
            key = corpus.type_key("Patient").resource("p")
            asked = put(provider, corpus.patient("p")) if step is COMMIT else provider.get(key)
            with pytest.raises(BackendUnavailable, match="the primary bucket"):
                await asked
            proxy.faults = {}

            assert (await put(provider, corpus.patient("p")))[0].version_id == 1


async def test_compaction_that_fails_stops_no_write(
    impatient, minio_bucket, resource_settings, monkeypatch
):
    monkeypatch.setattr(compaction, "TAIL_COMMITS", 4)
    monkeypatch.setattr(compaction, "RETRY_SECONDS", 0.01)
    host, _, port = minio_bucket.endpoint.removeprefix("http://").partition(":")
    with HTTPProxy((host, int(port)), seed=1) as proxy:
        async with open_data_provider(
            resource_settings(minio_bucket, endpoint=proxy.url)
        ) as provider:
            proxy.only, proxy.faults = EXTENT, {Fault.ERROR_503: 1.0}
            for number in range(6):
                await put(provider, corpus.patient(f"p{number}"))
            proxy.faults = {}
            await provider._compactor.compact(everything=True)
            names = (await everything(provider)).names

    assert len(names) == 6


async def test_a_load_takes_a_request_for_five_hundred_resources(resources, monkeypatch):
    asked = []

    def count(name):
        ask = getattr(Objects, name)

        async def counted(self, *arguments):
            asked.append(name)
            return await ask(self, *arguments)

        monkeypatch.setattr(Objects, name, counted)

    async with resources() as provider:
        for name in ("get", "ranges", "create", "put"):
            count(name)
        for begin in range(0, 20_000, 1000):
            await put(
                provider, *(corpus.patient(f"p{number}") for number in range(begin, begin + 1000))
            )
    assert len(asked) <= 40


async def test_a_deletion_and_a_new_version_in_one_write_are_one_commit(resources):
    async with resources() as provider:
        await put(provider, corpus.patient("p"))
        number = provider._rows.log.state.number
        applied = await provider.write(
            corpus.TENANT,
            corpus.VERSION,
            [Delete(resource_type="Patient", id="p"), Put(resource=corpus.patient("p", note="2"))],
        )

        assert [each.version_id for each in applied] == [2, 3]
        assert provider._rows.log.state.number == number + 1


LOSSES = ["gone", "empty", "halved", "cut by a byte", "swapped", "overwritten"]


def spoilt(loss, body, other):
    """Return what is there instead of an object; None if nothing is."""
    return {
        "gone": None,
        "empty": b"",
        "halved": body[: len(body) // 2],
        "cut by a byte": body[:-1],
        "swapped": other,
        "overwritten": (other * len(body))[: len(body)],
    }[loss]


@pytest.fixture
def spoil(minio_bucket):
    """Spoil the objects of a folder, one after the other, and yield while each is so."""
    client = minio_bucket.client()

    def spoil(folder, loss):
        pages = client.list_objects_v2(Bucket=minio_bucket.name, Prefix=f"{folder}/")
        keys = sorted(each["Key"] for each in pages["Contents"])
        bodies = [
            client.get_object(Bucket=minio_bucket.name, Key=key)["Body"].read() for key in keys
        ]
        for place, key in enumerate(keys):
            instead = spoilt(loss, bodies[place], bodies[place - 1])
            client.delete_object(Bucket=minio_bucket.name, Key=key)
            if instead is not None:
                client.put_object(Bucket=minio_bucket.name, Key=key, Body=instead)
            yield key
            client.put_object(Bucket=minio_bucket.name, Key=key, Body=bodies[place])

    return spoil


async def is_noticed(opening, shown, before):
    """Return whether exports or lookups say that something is wrong; else all must be there."""
    ids = [name.removeprefix("Patient/") for name in before.names]
    of_patients = corpus.view(shown.transaction_time, shown.request, patients=ids)
    try:
        async with opening as provider:
            snapshot = await take_snapshot(provider, shown)
            assert snapshot.damaged or snapshot.lines == before.lines
            by_patient = await take_snapshot(provider, of_patients)
            assert by_patient.damaged or by_patient.lines == before.lines
            missing = await provider.missing(
                corpus.type_key("Patient"), ids, at=shown.transaction_time
            )
    except BackendError:
        return True
    assert not missing
    return bool(snapshot.damaged or by_patient.damaged)


@pytest.mark.parametrize("loss", LOSSES)
async def test_whatever_is_lost_of_the_extents_is_noticed(resources, spoil, monkeypatch, loss):
    """Of those sorted by id by whoever reads all, of the others by whoever reads a group."""
    monkeypatch.setattr(planning, "INDEXED_SHARE", 1000.0)
    async with resources() as provider:
        for number in range(3):
            await put(provider, *(corpus.patient(f"p{number}-{each}") for each in range(20)))
            await provider._compactor.compact(everything=True)
        shown = corpus.view(await provider.transaction_time())
        before = await take_snapshot(provider, shown)

    keys = []
    for key in spoil("extents", loss):
        assert await is_noticed(resources(), shown, before), key
        keys.append(key)

    assert len(keys) == 6
    assert not await is_noticed(resources(), shown, before)


@pytest.mark.parametrize("loss", LOSSES)
async def test_whatever_is_lost_of_the_log_is_noticed(resources, spoil, loss):
    """By whoever starts then; of what a checkpoint made superfluous nothing is missed."""
    async with resources() as provider:
        await put(provider, corpus.patient("first"))
        await provider._compactor.compact(everything=True)
        for number in range(2):
            await put(provider, corpus.patient(f"p{number}"), corpus.patient("changed"))
        await provider.write(
            corpus.TENANT, corpus.VERSION, [Delete(resource_type="Patient", id="first")]
        )
        shown = corpus.view(await provider.transaction_time())
        before = await take_snapshot(provider, shown)
        superfluous = log.commit_key(provider._rows.log.state.checkpoint.through)

    keys = []
    for key in spoil("log", loss):
        if key > superfluous:
            assert await is_noticed(resources(), shown, before), key
            keys.append(key)

    assert len(keys) == 5
    assert not await is_noticed(resources(), shown, before)


@pytest.fixture
def small(monkeypatch):
    """Let a few resources fill several runs, extents and pieces."""
    monkeypatch.setattr(compaction, "TAIL_ROWS", 60)
    monkeypatch.setattr(compaction, "RUNS_PER_LEVEL", 2)
    monkeypatch.setattr(extents, "BLOCK_ROWS", 8)
    monkeypatch.setattr(compartments, "PIECE_BYTES", 1000)
    monkeypatch.setattr(compartments, "SEGMENT_BYTES", 2000)
    monkeypatch.setattr(encoding, "MOST_PATIENTS", 3)
    monkeypatch.setattr(compartments, "BATCH_BYTES", 2000)
    monkeypatch.setattr(compartments, "BATCH_PATIENTS", 2)


async def test_compartments_show_of_a_cohort_what_a_scan_shows(resources, small, monkeypatch):
    """While resources come and go from one patient to several others, and are deleted."""
    random = Random(7)
    patients = [f"p{number}" for number in range(8)]
    instants = []
    async with resources() as provider:
        for _ in range(12):
            for _ in range(3):
                changes = []
                for number in random.sample(range(40), 8):
                    of = random.sample(patients, random.choice([0, 1, 1, 2, 6]))
                    note = str(random.random())
                    resource = corpus.observation(f"o{number}", *of, note=note)
                    delete = Delete(resource_type="Observation", id=f"o{number}")
                    changes.append(random.choice([Put(resource=resource)] * 4 + [delete]))
                await provider.write(corpus.TENANT, corpus.VERSION, changes)
            instants.append(await provider.transaction_time())
            if random.random() < 0.7:
                await provider._compactor.compact(everything=True)

        for at in instants[::3]:
            for size in (1, 3, 7):
                cohort = random.sample([*patients, "unknown"], size)
                since = random.choice([None, *instants])
                wanted = corpus.request(types=("Observation",), since=since)
                shown = corpus.view(at, wanted, patients=cohort)
                found = []
                for share in (1000.0, -1.0):
                    monkeypatch.setattr(planning, "INDEXED_SHARE", share)
                    snapshot = await take_snapshot(provider, shown, shard_bytes=1000)
                    found.append((sorted(snapshot.lines), snapshot.deleted, snapshot.damaged))
                assert found[0] == found[1]

    assert any(len(run.segments) > 1 for run in provider._rows.log.state.checkpoint.runs)


async def test_a_cohort_is_read_with_few_requests_and_bytes(resources, monkeypatch):
    """Of two hundred patients two have one hundredth, and that is about what is read."""
    read = []
    ranges = Objects.ranges

    async def counted(self, key, wanted):
        found = await ranges(self, key, wanted)
        read.extend(map(len, found))
        return found

    monkeypatch.setattr(Objects, "ranges", counted)
    observations = [
        corpus.observation(f"{hash_id(str(number)):x}", f"p{number % 200}", note="x" * 1000)
        for number in range(6000)
    ]
    async with resources() as provider:
        for begin in range(0, 6000, 1000):
            await put(provider, *observations[begin : begin + 1000])
        await provider._compactor.compact(everything=True)
        at = await provider.transaction_time()
    async with resources() as provider:
        read.clear()
        wanted = corpus.request(types=("Observation",))
        snapshot = await take_snapshot(provider, corpus.view(at, wanted, patients=["p7", "p77"]))

    assert len(snapshot.lines) == 60
    assert len(read) <= 30
    assert sum(read) <= 500_000


@pytest.mark.parametrize("compacted", [True, False])
async def test_a_patient_with_little_costs_little_among_many(resources, monkeypatch, compacted):
    """Be they in a run, or still in the tail of the log."""
    looked = []
    owner, unpack = compartments._owner, compartments._unpack

    def counted_owner(shown, row):
        looked.append(row)
        return owner(shown, row)

    def counted_unpack(*piece):
        entries = unpack(*piece)
        looked.extend(entries)
        return entries

    monkeypatch.setattr(compartments, "_owner", counted_owner)
    monkeypatch.setattr(compartments, "_unpack", counted_unpack)
    observations = [corpus.observation(f"o{number}", f"p{number}") for number in range(3000)]
    async with resources() as provider:
        await put(provider, *observations)
        if compacted:
            await provider._compactor.compact(everything=True)
        at = await provider.transaction_time()
        wanted = corpus.request(types=("Observation",))
        snapshot = await take_snapshot(provider, corpus.view(at, wanted, patients=["p7"]))

    assert len(snapshot.lines) == 1
    assert 0 < len(looked) < 1000


def test_the_tail_finds_by_patient_what_it_finds_by_a_look_at_all():
    random = Random(3)
    patients = [f"p{number}" for number in range(6)]
    rest = tail.Tail()
    for number in range(1, 60):
        rows = []
        for name in random.sample(range(8), 3):
            of = " ".join(random.sample(patients, random.choice([0, 1, 2])))
            left = " ".join(random.sample(patients, random.choice([0, 0, 1])))
            rows.append(encoding.Row(f"o{name}", number, number, 2, 0, 0, of, left))
        commit = encoding.Commit(number, "", number, rows=(("north", tuple(rows)),))
        rest.append(number, commit, [b"{}"] * 3)
        rest = rest.after(number - random.choice([20, 5]))

        cohort = frozenset(random.sample(patients, random.choice([1, 5])))
        found = [*rest.in_compartments("north", cohort)]
        assert sorted(map(str, found)) == sorted(
            str((patient, each))
            for _, each in rest.all_rows()
            for patient in cohort.intersection(each.row.compartments)
        )
    assert not [*rest.after(60).in_compartments("north", frozenset(patients))]
