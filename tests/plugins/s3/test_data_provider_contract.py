"""The shared suite of data providers, with the bucket looked at behind the plugin's back."""

import time
from contextlib import asynccontextmanager
from datetime import timedelta
from unittest.mock import patch

import msgspec
import pytest

from helios_core.testing import DataProviderSuite
from helios_s3 import (
    compaction,
    compartments,
    encoding,
    extents,
    log,
    objects,
    open_data_provider,
    planning,
)


class TestS3DataProvider(DataProviderSuite):
    powers = DataProviderSuite.known_powers

    @pytest.fixture(autouse=True)
    def reach(self, minio_bucket, resource_settings, monkeypatch):
        # MinIO lets all but the first wait; test_writers.py asks with all of them.
        monkeypatch.setattr(objects, "CONTENDERS", 1)
        self.bucket = minio_bucket
        self.settings = resource_settings

    @asynccontextmanager
    async def opened(self, folder):
        self.behind = timedelta(0)
        with patch.object(log, "_wall", self._wall):
            async with open_data_provider(
                self.settings(self.bucket, prefix=folder.name)
            ) as opened:
                opened.folder = folder.name
                yield opened

    def _wall(self):
        return time.time_ns() // 1000 - self.behind // timedelta(microseconds=1)

    async def set_clock_back(self, provider, by):
        self.behind += by

    async def damage(self, provider, resource_type, resource_id):
        """Spoil the line in the extent; what is in memory is written there first."""
        await provider._compactor.compact(everything=True)
        name = f'"resourceType":"{resource_type}","id":"{resource_id}"'.encode()
        client = self.bucket.client()
        spoilt = 0
        for key, body in objects_of(client, self.bucket.name, f"{provider.folder}/extents/"):
            if name in body:
                other = body.replace(name, name[:-2] + b"?" + name[-1:])
                client.put_object(Bucket=self.bucket.name, Key=key, Body=other)
                spoilt += 1
        assert spoilt == 1

    async def lose(self, provider, resource_type, resource_ids):
        """Remove the extents that have them: nothing smaller can be gone."""
        await provider._compactor.compact(everything=True)
        client = self.bucket.client()
        for key, body in objects_of(client, self.bucket.name, f"{provider.folder}/extents/"):
            if any(
                f'"resourceType":"{resource_type}","id":"{each}"'.encode() in body
                for each in resource_ids
            ):
                client.delete_object(Bucket=self.bucket.name, Key=key)

    async def raw_current(self, provider, tenant, fhir_version):
        """Replay the log, of which nothing is removed within a test."""
        current = {}
        client = self.bucket.client()
        for _, body in objects_of(client, self.bucket.name, f"{provider.folder}/log/"):
            size = int.from_bytes(body[8:16], "big")
            _, _, _, collections, _ = msgspec.msgpack.decode(body[24 : 24 + size])
            for collection, rows in collections:
                owner, version, resource_type = collection.split("/")
                for resource_id, version_id, _, size, *_ in rows:
                    if (owner, version) == (tenant, fhir_version):
                        current[f"{resource_type}/{resource_id}"] = version_id if size >= 0 else 0
        return {name: version_id for name, version_id in current.items() if version_id}


@pytest.mark.slow
@pytest.mark.in_turn
class TestS3DataProviderCompacting(TestS3DataProvider):
    """The same while nearly every write makes a run, and runs are merged all the time."""

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setattr(compaction, "TAIL_ROWS", 5)
        monkeypatch.setattr(compaction, "RUNS_PER_LEVEL", 2)
        monkeypatch.setattr(extents, "BLOCK_ROWS", 4)
        monkeypatch.setattr(extents, "EXTENT_BYTES", 3000)


@pytest.mark.slow
@pytest.mark.in_turn
class TestS3DataProviderByPatient(TestS3DataProviderCompacting):
    """The same where compartments are always read, in small pieces."""

    @pytest.fixture(autouse=True)
    def indexed(self, small, monkeypatch, request):
        monkeypatch.setattr(planning, "INDEXED_SHARE", 1000.0)
        monkeypatch.setattr(compartments, "PIECE_BYTES", 500)
        monkeypatch.setattr(compartments, "SEGMENT_BYTES", 1000)
        monkeypatch.setattr(encoding, "MOST_PATIENTS", 2)
        monkeypatch.setattr(compartments, "BATCH_BYTES", 1000)
        # A hundred thousand patients in threes would take a minute, and prove nothing more.
        if request.node.originalname != "test_a_large_cohort_works":
            monkeypatch.setattr(compartments, "BATCH_PATIENTS", 3)


def objects_of(client, bucket, prefix):
    """Return the keys and contents of objects, by key."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
    return [
        (key, client.get_object(Bucket=bucket, Key=key)["Body"].read()) for key in sorted(keys)
    ]
