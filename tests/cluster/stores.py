"""What the database and the bucket hold, seen behind the back of the plugins."""

import asyncio
import os
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeAlias

import asyncpg
import pymongo

from helios_core import COLLECTION_BITS
from helios_s3.encoding import Row, decode_commit
from tests.services import Bucket, through

CURRENT = f"""
SELECT c.resource_type || '/' || v.id || '/' || v.version_id
FROM helios.versions AS v
JOIN helios.collections AS c ON c.collection = v.seq >> {COLLECTION_BITS}
LEFT JOIN helios.endings AS e ON e.seq = v.seq
WHERE c.tenant = $1 AND NOT v.deleted
  AND v.since_stamp <= $2 AND (e.until_stamp IS NULL OR e.until_stamp > $2)
"""
PUBLISHED = """
SELECT s.completed_under, p.part
FROM helios.parts AS p JOIN helios.shards AS s ON s.job = p.job AND s.number = p.shard
"""


class OnPostgres:
    """Resources and jobs in PostgreSQL."""

    def __init__(self, get: Callable[[str], Any]) -> None:
        self.server = get("postgres_server")
        self._url: str = get("postgres_url")
        self.restartable: bool = self.server.restartable
        self.settings = {
            "HFS_STORAGE_BACKEND": "postgres",
            "HFS_DATABASE_URL": self._url,
            "HFS_POSTGRES_POOL_SIZE": "4",
        }

    def behind(self, port: int) -> dict[str, str]:
        """The settings of a process that reaches it by way of a proxy."""
        return {"HFS_DATABASE_URL": through(self._url, port)}

    def current_at(self, tenant: str, instant: str) -> list[str]:
        """`Type/id/version` of everything a tenant had at an instant, sorted."""
        return sorted(row[0] for row in self.query(CURRENT, tenant, stamp_of(instant)))

    def published(self) -> list[tuple[bytes, int]]:
        """Each part that is listed, and the token under which its shard was completed."""
        return [(row["part"], row["completed_under"]) for row in self.query(PUBLISHED)]

    def query(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        async def ask() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(self._url)
            try:
                return await connection.fetch(statement, *arguments)
            finally:
                await connection.close()

        return asyncio.run(ask())


class OnMongoDB:
    """Resources and jobs in MongoDB, or in what stands in for it and keeps nothing on disk."""

    restartable = False

    def __init__(self, get: Callable[[str], Any]) -> None:
        self.server = get("mongodb_server")
        self._name: str = get("mongodb_database")
        self.settings = {
            "HFS_STORAGE_BACKEND": "mongodb",
            "HFS_DATABASE_URL": self.server.url,
            "HFS_MONGODB_DATABASE": self._name,
        }

    def behind(self, port: int) -> dict[str, str]:
        """The settings of a process that reaches it by way of a proxy."""
        return {"HFS_DATABASE_URL": f"mongodb://127.0.0.1:{port}/?directConnection=true"}

    def current_at(self, tenant: str, instant: str) -> list[str]:
        """`Type/id/version` of everything a tenant had at an instant, sorted."""
        stamp = stamp_of(instant)
        with pymongo.MongoClient[dict[str, Any]](self.server.url) as client:
            raw = client[self._name]
            types = {
                each["_id"]: each["type"] for each in raw.collections.find({"tenant": tenant})
            }
            shown = {"c": {"$in": list(types)}, "d": False, "s": {"$lte": stamp}}
            found = raw.versions.find(shown | {"u": {"$gt": stamp}}, {"c": 1, "i": 1, "v": 1})
            return sorted(f"{types[each['c']]}/{each['i']}/{each['v']}" for each in found)

    def published(self) -> list[tuple[bytes, int]]:
        """Each part that is listed, and the token under which its shard was completed."""
        with pymongo.MongoClient[dict[str, Any]](self.server.url) as client:
            raw = client[self._name]
            tokens = {(each["job"], each["number"]): each["token"] for each in raw.shards.find({})}
            return [
                (each["part"], tokens[each["job"], each["shard"]]) for each in raw.parts.find({})
            ]


class InABucket(OnPostgres):
    """Resources in a bucket on a MinIO of its own, which may be restarted; jobs in PostgreSQL."""

    def __init__(self, get: Callable[[str], Any]) -> None:
        super().__init__(get)
        self.server = get("own_minio")
        self.restartable = True
        self._bucket: Bucket = get("resource_bucket")
        self.settings = {
            "HFS_STORAGE_BACKEND": "s3",
            "HFS_BULK_EXPORT_JOB_STORE": "postgres",
            "HFS_BULK_EXPORT_JOB_STORE_URL": self._url,
            **self._bucket.resource_settings,
        }

    def behind(self, port: int) -> dict[str, str]:
        """The settings of a process that reaches it by way of a proxy."""
        return {"HFS_S3_ENDPOINT": f"http://127.0.0.1:{port}"}

    def current_at(self, tenant: str, instant: str) -> list[str]:
        """
        `Type/id/version` of everything a tenant had at an instant, sorted.

        By the commits alone, which are kept for an hour, and not by what compaction made of them.
        """
        stamp, current = stamp_of(instant), dict[str, Row]()
        keys = [key for key in keys_in(self._bucket) if key.startswith("log/")]
        for number, key in enumerate(keys, 1):
            commit, _ = decode_commit(number, self._body(key))
            for collection, rows in commit.rows:
                of, _, resource_type = collection.split("/")
                current |= {
                    f"{resource_type}/{row.id}": row
                    for row in rows
                    if of == tenant and row.stamp <= stamp
                }
        return sorted(
            f"{name}/{row.version_id}" for name, row in current.items() if not row.deleted
        )

    def _body(self, key: str) -> bytes:
        found = self._bucket.client().get_object(Bucket=self._bucket.name, Key=key)
        body: bytes = found["Body"].read()
        return body


Store: TypeAlias = OnPostgres | OnMongoDB

STORES: dict[str, Callable[[Callable[[str], Any]], Store]] = {
    "postgres": OnPostgres,
    "mongodb": OnMongoDB,
    "s3": InABucket,
}

QUICK = ["postgres", *(["mongodb"] if "HFS_TEST_MONGODB_URL" in os.environ else [])]
"""Those that are fast enough for a cluster, which the stand-in for MongoDB is not."""


def stamp_of(instant: str) -> int:
    """Microseconds since 1970."""
    moment = datetime.fromisoformat(instant)
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def versions(resources: list[dict[str, Any]]) -> list[str]:
    """`Type/id/version` of each, sorted, repeats kept."""
    return sorted(f"{r['resourceType']}/{r['id']}/{r['meta']['versionId']}" for r in resources)


def keys_in(bucket: Bucket) -> list[str]:
    """Name every object of a bucket but its owner's mark, and every unfinished upload."""
    client = bucket.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name)
    keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
    uploads = client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", ())
    keys += [f"{upload['Key']} (upload)" for upload in uploads]
    return sorted(key for key in keys if not key.startswith("."))
