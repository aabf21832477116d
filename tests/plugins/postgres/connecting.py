"""Ways around the plugin: to its tables, and into the middle of its writes."""

import asyncio
from contextlib import asynccontextmanager

import asyncpg


@asynccontextmanager
async def connected(settings):
    """Return a connection to the same tables with nothing of ours in between."""
    connection = await asyncpg.connect(
        settings.database_url.reveal(), server_settings={"search_path": settings.schema}
    )
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def held_after_its_stamp(provider, write):
    """Stop a write of the provider's own between stamp and commit, until the end of this."""
    stamped, go_on = asyncio.Event(), asyncio.Event()
    stamp_of = provider._clock.write_stamp

    async def held(connection):
        stamp = await stamp_of(connection)
        stamped.set()
        await go_on.wait()
        return stamp

    provider._clock.write_stamp = held
    writing = asyncio.create_task(write)
    try:
        await stamped.wait()
        provider._clock.write_stamp = stamp_of
        yield writing
    finally:
        go_on.set()
        await writing
