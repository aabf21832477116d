"""What an operator reads whose address leads to a server that cannot be used."""

import asyncio
import re
import struct
from contextlib import asynccontextmanager
from datetime import timedelta

import bson
import pytest

from helios_core import BackendUnavailable, ConfigurationError, Secret
from helios_mongodb import MongoSettings, open_data_provider

pytestmark = [
    pytest.mark.usefixtures("collected"),
    pytest.mark.filterwarnings("ignore:unclosed"),
]

STANDALONE = {"isWritablePrimary": True}
NOT_INITIATED = {"isWritablePrimary": False, "isreplicaset": True}
MONGOS = {"isWritablePrimary": True, "msg": "isdbgrid"}
COMMANDS = r"standalone.*mongod --replSet rs0.*mongosh --eval 'rs\.initiate\(\)'"
OP_MSG, OP_REPLY = 2013, 1


@asynccontextmanager
async def a_server(**hello):
    """Yield the port of a server that introduces itself and can do nothing else."""
    answer = {"ok": 1, "minWireVersion": 0, "maxWireVersion": 21, "ismaster": True, **hello}

    async def introduce(reader, writer):
        try:
            while True:
                size, number, _, code = struct.unpack("<4i", await reader.readexactly(16))
                await reader.readexactly(size - 16)
                head = (
                    struct.pack("<iB", 0, 0)
                    if code == OP_MSG
                    else struct.pack("<iqii", 8, 0, 0, 1)
                )
                body = head + bson.encode(answer)
                code = OP_MSG if code == OP_MSG else OP_REPLY
                writer.write(struct.pack("<4i", len(body) + 16, 1, number, code) + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(introduce, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def refusal(port, options, kind=ConfigurationError):
    """Return why the address of a port is refused."""
    settings = MongoSettings(
        database_url=Secret(f"mongodb://127.0.0.1:{port}/?{options}"),
        connect_timeout=timedelta(seconds=1),
    )
    with pytest.raises(kind) as raised:
        async with open_data_provider(settings):
            pass
    return str(raised.value)


@pytest.mark.parametrize("options", ["replicaSet=rs0", "directConnection=true", ""])
async def test_a_standalone_server_is_refused_with_the_commands_for_a_replica_set(options):
    async with a_server(**STANDALONE) as port:
        assert re.search(COMMANDS, await refusal(port, options))


@pytest.mark.parametrize("options", ["replicaSet=rs0", "directConnection=true", ""])
async def test_a_replica_set_that_was_not_initiated_is_refused_with_the_command(options):
    async with a_server(**NOT_INITIATED) as port:
        message = await refusal(port, options)

    assert "was not initiated; run once: mongosh --eval 'rs.initiate()'" in message


async def test_a_member_of_another_replica_set_is_named(mongodb_server):
    message = await refusal(mongodb_server.address()[1], "replicaSet=nosuch")

    named = r"has replicaSet=nosuch.*is a member of the replica set \w+; set that name"
    assert re.search(named, message)


async def test_a_mongos_needs_no_name_of_a_replica_set():
    async with a_server(**MONGOS) as port:
        assert "is a mongos; leave replicaSet out" in await refusal(port, "replicaSet=rs0")


async def test_members_whose_names_lead_nowhere_are_named(refusing_port):
    elsewhere = f"127.0.0.1:{refusing_port}"
    hello = {"isWritablePrimary": True, "setName": "rs0", "setVersion": 1, "hosts": [elsewhere]}
    async with a_server(**hello, me=elsewhere) as port:
        message = await refusal(port, "replicaSet=rs0", BackendUnavailable)

    assert elsewhere in message
    assert "rs.reconfig()" in message


async def test_a_server_that_is_down_is_named_with_the_reason(refusing_port):
    message = await refusal(refusing_port, "directConnection=true", BackendUnavailable)

    assert f"127.0.0.1:{refusing_port}: [Errno " in message
