"""
Exports that read from secondaries.

The stand-in has no second member, so this is what is asked of the server, not what one does.
"""

from datetime import timedelta

import msgspec
import pytest
from pymongo import monitoring

from helios_core import BackendUnavailable, Secret
from helios_core.testing import corpus, take_snapshot, view_everything, write
from helios_mongodb import ReadFrom, open_data_provider

LENIENT = [ReadFrom.PRIMARY_PREFERRED, ReadFrom.SECONDARY_PREFERRED, ReadFrom.NEAREST]
"""What a replica set without secondaries serves, too."""


class Commands(monitoring.CommandListener):
    """What clients send that are made while it listens, and when the clock was read."""

    def __init__(self):
        self.sent = []
        self.clock_read_at = None

    def started(self, event):
        self.sent.append(event.command)

    def succeeded(self, event):
        if event.command_name == "find" and "clocks" in event.reply["cursor"]["ns"]:
            self.clock_read_at = event.reply["operationTime"]

    def failed(self, event):
        pass

    def finds(self, name):
        return [each for each in self.sent if each.get("find") == name]


@pytest.fixture
def commands(monkeypatch):
    commands = Commands()
    listeners = monitoring._Listeners([commands], [], [], [], [])
    monkeypatch.setattr(monitoring, "_LISTENERS", listeners)
    return commands


@pytest.fixture
async def of_set(settings, raw):
    """Settings with which the driver chooses among the members, which a direct one does not."""
    hello = await raw.client.admin.command("hello")
    address = settings.database_url.reveal().partition("?")[0]
    return msgspec.structs.replace(
        settings,
        database_url=Secret(f"{address}?replicaSet={hello['setName']}"),
        connect_timeout=timedelta(seconds=2),
    )


def reading_from(settings, read_preference):
    return msgspec.structs.replace(settings, read_preference=read_preference)


async def exported(provider):
    """Return the names of what a view of everything has."""
    return (await take_snapshot(provider, await view_everything(provider))).names


@pytest.mark.parametrize("read_preference", LENIENT)
async def test_a_shard_is_read_from_members_that_have_reached_the_clock(
    provider, of_set, commands, read_preference
):
    await write(provider, corpus.patient("p1"))
    async with open_data_provider(reading_from(of_set, read_preference)) as reader:
        view = corpus.view(await reader.transaction_time(), corpus.request(types=["Patient"]))
        [shard] = await reader.plan(view, shard_bytes=1_000_000)
        commands.sent.clear()
        batches = [batch async for batch in reader.read(view, shard, batch_bytes=1_000_000)]

    assert sum(len(batch.lines) for batch in batches) == 1
    [command] = [each for each in commands.finds("versions") if "$readPreference" in each]
    assert command["$readPreference"] == {"mode": read_preference.value}
    assert command["readConcern"]["level"] == "majority"
    assert command["readConcern"]["afterClusterTime"] >= commands.clock_read_at
    [clock] = commands.finds("clocks")
    assert "$readPreference" not in clock


@pytest.mark.parametrize("read_preference", LENIENT)
async def test_only_exports_are_read_from_secondaries(of_set, commands, read_preference):
    async with open_data_provider(reading_from(of_set, read_preference)) as provider:
        await write(provider, corpus.patient("p1"))
        await provider.transaction_time()
        await provider.get(corpus.type_key("Patient").resource("p1"))
        commands.sent = [each for each in commands.sent if "hello" not in each]
        assert commands.finds("versions")
        assert not [each for each in commands.sent if "$readPreference" in each]


async def test_without_a_secondary_an_export_that_insists_on_one_waits(of_set, provider):
    await write(provider, corpus.patient("p1"))

    async with open_data_provider(reading_from(of_set, ReadFrom.SECONDARY_PREFERRED)) as reader:
        assert await exported(reader) == ["Patient/p1"]
    async with open_data_provider(reading_from(of_set, ReadFrom.SECONDARY)) as reader:
        with pytest.raises(BackendUnavailable, match="ServerSelectionTimeoutError"):
            await exported(reader)
