"""The right to publish one shard for a while."""

import msgspec

from helios_core.exports import Shard
from helios_core.jobs import Job


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's claim on one shard, valid only while its token is the newest."""

    job: Job
    shard: Shard
    token: int
    """The fencing token: it grows at every claim, and at cancel and delete."""
    worker: str
    attempt: int
    """From 1; claims that were handed back do not count."""
