"""What a cohort costs."""

from pymongo.asynchronous.pool import AsyncConnection

from helios_core import Level
from helios_core.testing import corpus, take_snapshot, write

MANY = 1_000_000
STORED = 300
PATIENT_BYTES = 20


async def test_of_a_million_patients_no_more_is_sent_than_there_is_stored(provider, monkeypatch):
    """P4: where a shard has fewer versions than the cohort patients, these are gone through."""
    for start in range(0, STORED, 100):
        numbers = range(start, start + 100)
        await write(provider, *(corpus.patient(f"p{n}", note="x" * 200) for n in numbers))
        await write(provider, *(corpus.observation(f"o{n}", f"p{n}") for n in numbers))
    members = {f"p{n}" for n in range(0, 3 * MANY, 3)}
    view = corpus.view(
        await provider.transaction_time(), corpus.request(level=Level.GROUP), patients=members
    )
    sent, send = [], AsyncConnection.send_message

    async def noted(connection, message, *arguments):
        sent.append(len(message))
        await send(connection, message, *arguments)

    monkeypatch.setattr(AsyncConnection, "send_message", noted)
    snapshot = await take_snapshot(provider, view, shard_bytes=20_000)

    assert len(snapshot.names) == 2 * STORED // 3
    assert sum(sent) < MANY * PATIENT_BYTES // 10
