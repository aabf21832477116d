"""What PostgreSQL and the bucket hold, seen behind the back of the plugins."""

import asyncio
from datetime import datetime
from typing import Any

import asyncpg

from helios_core import COLLECTION_BITS
from tests.services import Bucket

CURRENT = f"""
SELECT c.resource_type || '/' || v.id || '/' || v.version_id
FROM helios.versions AS v
JOIN helios.collections AS c ON c.collection = v.seq >> {COLLECTION_BITS}
LEFT JOIN helios.endings AS e ON e.seq = v.seq
WHERE c.tenant = $1 AND c.resource_type LIKE $3 AND NOT v.deleted
  AND v.since_stamp <= $2 AND (e.until_stamp IS NULL OR e.until_stamp > $2)
"""
PUBLISHED = """
SELECT s.number, s.completed_under, convert_from(p.part, 'utf8') AS part
FROM helios.parts AS p JOIN helios.shards AS s ON s.job = p.job AND s.number = p.shard
"""


def query(url: str, statement: str, *arguments: Any) -> list[asyncpg.Record]:
    async def ask() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    return asyncio.run(ask())


def current_at(url: str, tenant: str, instant: str, kind: str = "%") -> list[str]:
    """`Type/id/version` of everything a tenant had at an instant, sorted."""
    moment = datetime.fromisoformat(instant)
    stamp = int(moment.timestamp()) * 1_000_000 + moment.microsecond
    return sorted(row[0] for row in query(url, CURRENT, tenant, stamp, kind))


def versions(resources: list[dict[str, Any]]) -> list[str]:
    """`Type/id/version` of each, sorted, repeats kept."""
    return sorted(f"{r['resourceType']}/{r['id']}/{r['meta']['versionId']}" for r in resources)


def keys_in(bucket: Bucket) -> list[str]:
    """Name every object of a bucket but its owner's mark, and every unfinished upload."""
    client = bucket.client()
    try:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name)
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        uploads = client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", ())
        keys += [f"{upload['Key']} (upload)" for upload in uploads]
    finally:
        client.close()
    return sorted(key for key in keys if not key.startswith("."))
