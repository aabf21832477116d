"""Links that the store signs; MinIO, since moto looks at no signature."""

import asyncio
from datetime import timedelta

import httpx
import msgspec
import pytest

from helios_core.testing import PART, store_part
from tests.pace import scaled

OTHER = msgspec.structs.replace(PART, job_id="job-2")
MINUTE = timedelta(minutes=1)


@pytest.fixture
def bucket(minio_bucket):
    return minio_bucket


@pytest.fixture
async def client():
    async with httpx.AsyncClient(timeout=60) as client:
        yield client


async def signed(store, key=PART, *, valid_for=MINUTE):
    [url] = await store.signed_urls([key], valid_for=valid_for)
    return url


async def test_a_link_expires(store, client):
    """B3-28, TR-63"""
    await store_part(store, PART, b"content")
    url = await signed(store, valid_for=timedelta(seconds=1))

    async with asyncio.timeout(scaled(20)):
        while (await client.get(url)).status_code != 403:
            await asyncio.sleep(0.1)

    assert (await client.get(await signed(store))).content == b"content"


async def test_a_bucket_refuses_a_token_beside_the_signature(store, client):
    """B3-29: MinIO as Amazon S3; neither repeats the token."""
    await store_part(store, PART, b"content")
    url = await signed(store)

    response = await client.get(url, headers={"Authorization": "Bearer a.b.c"})

    assert response.status_code == 400
    assert "a.b.c" not in response.text
    assert (await client.get(url)).content == b"content"


async def test_a_link_is_good_for_its_part_alone(store, client):
    """B3-28"""
    await store_part(store, PART, b"content")
    await store_part(store, OTHER, b"other")
    url = await signed(store)

    assert (await client.get(url.replace("job-1", "job-2"))).status_code == 403
    assert (await client.get(url.replace("Expires=60", "Expires=6000"))).status_code == 403
    assert (await client.put(url, content=b"forged")).status_code == 403
    assert (await client.delete(url)).status_code == 403
    assert (await client.get(url.partition("?")[0])).status_code == 403


async def test_a_link_serves_ranges(store, client):
    await store_part(store, PART, b"0123456789")
    url = await signed(store)
    etag = (await client.get(url)).headers["etag"]

    part = await client.get(url, headers={"Range": "bytes=4-", "If-Range": etag})

    assert (part.status_code, part.content) == (206, b"456789")


async def test_links_go_through_the_public_endpoint(opened, proxy, client):
    store = opened(public_endpoint=f"{proxy.url}/")
    await store_part(store, PART, b"content")

    url = await signed(store)

    assert url.startswith(f"{proxy.url}/")
    assert (await client.get(url)).content == b"content"


async def test_links_name_the_bucket_in_the_host_where_that_is_the_style(opened, bucket):
    store = opened(
        endpoint="https://s3.example",
        public_endpoint="https://files.example",
        force_path_style=False,
    )

    url = await signed(store)

    assert url.startswith(f"https://{bucket.name}.files.example/clinic/job-1/output-Patient-")
