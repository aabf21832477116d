"""Whatever is lost of the objects in which resources are is noticed."""

import pytest

from helios_core import BackendError, Delete
from helios_core.testing import corpus, take_snapshot
from helios_s3 import log, planning
from tests.plugins.s3.resources import put

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
