"""The proxies break what they are told to break, and nothing else."""

import asyncio
import time

import asyncpg
import httpx
import msgspec
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.proxies import DELAY_SECONDS, Fault, HTTPProxy, Proxy
from tests.services import through


@pytest.fixture
def proxied(bucket):
    """A proxy before the S3 server, and a client that goes through it."""
    host, _, port = bucket.endpoint.removeprefix("http://").partition(":")
    with HTTPProxy((host, int(port))) as proxy:
        client = msgspec.structs.replace(bucket, endpoint=proxy.url).client(retries=0)
        yield proxy, client
        client.close()


def test_without_faults_bytes_pass_unchanged(proxied, bucket):
    _, client = proxied
    body = bytes(range(256)) * 20_000

    client.put_object(Bucket=bucket.name, Key="k", Body=body)

    assert client.get_object(Bucket=bucket.name, Key="k")["Body"].read() == body


@pytest.mark.parametrize(("fault", "status"), [(Fault.ERROR_500, 500), (Fault.ERROR_503, 503)])
def test_a_request_is_answered_with_an_error_of_s3(proxied, bucket, fault, status):
    proxy, client = proxied
    proxy.faults = {fault: 1.0}

    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket=bucket.name, Key="k", Body=b"x" * 1000)

    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert proxy.done == {fault: 1}


def test_a_request_is_cut(proxied, bucket):
    proxy, client = proxied
    proxy.faults = {Fault.CUT_REQUEST: 1.0}

    with pytest.raises(BotoCoreError):
        client.put_object(Bucket=bucket.name, Key="k", Body=b"x" * 1_000_000)

    proxy.faults = {}
    with pytest.raises(ClientError, match="404"):
        client.head_object(Bucket=bucket.name, Key="k")


def test_an_answer_is_cut(proxied, bucket):
    proxy, client = proxied
    client.put_object(Bucket=bucket.name, Key="k", Body=b"x" * 1_000_000)
    proxy.faults = {Fault.CUT_RESPONSE: 1.0}

    with pytest.raises(BotoCoreError):
        client.get_object(Bucket=bucket.name, Key="k")["Body"].read()


def test_an_answer_is_delayed(proxied, bucket):
    proxy, client = proxied
    proxy.faults = {Fault.DELAY: 1.0}
    began = time.monotonic()

    client.list_objects_v2(Bucket=bucket.name)

    assert time.monotonic() - began >= DELAY_SECONDS


def test_what_is_closed_refuses_until_it_is_open_again(proxied):
    proxy, _ = proxied

    proxy.close()
    with pytest.raises(httpx.TransportError):
        httpx.get(proxy.url, timeout=60)
    proxy.open()

    assert httpx.get(proxy.url, timeout=60).status_code < 500


def test_a_session_of_postgresql_passes_and_is_cut(postgres_server, postgres_url):
    with Proxy(postgres_server.address()) as proxy:

        async def talk():
            connection = await asyncpg.connect(through(postgres_url, proxy.port))
            assert await connection.fetchval("SELECT 41 + 1") == 42
            proxy.cut()
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                await connection.fetchval("SELECT pg_sleep(5)")
            connection.terminate()

        asyncio.run(talk())
