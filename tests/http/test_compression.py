"""RFC 9110 sections 8.4 and 12.5.3: which JSON is compressed, and for whom."""

import gzip

import pytest

from helios_core.http.compression import MIN_BYTES, compressed
from helios_core.http.negotiation import accepts_identity, prefers_gzip

NOTE = "x" * MIN_BYTES
PATIENT = {"resourceType": "Patient", "id": "p", "name": [{"text": NOTE}]}
LARGE = ["/Patient/p", "/Patient", "/Patient/p/_history", "/_history", "/metadata",
         "/Patient/p/$everything", "/openapi.json"]  # fmt: skip


async def raw(client, method, path, **options):
    """Return a response and its bytes as they came."""
    async with client.stream(method, path, **options) as response:
        return response, b"".join([chunk async for chunk in response.aiter_raw()])


@pytest.fixture
async def stored(site):
    await site.put(PATIENT)
    return site.client


@pytest.mark.parametrize(
    ("header", "gzips", "identity"),
    [
        ([], False, True),
        ([""], False, True),
        (["gzip"], True, True),
        (["x-gzip"], True, True),
        (["gzip, deflate, br"], True, True),
        (["*"], True, True),
        (["br"], False, True),
        (["gzip;q=0"], False, True),
        (["gzip;q=0.1"], True, True),
        (["gzip;q=0.5, identity"], False, True),
        (["gzip;q=0.5, identity;q=0.5"], True, True),
        (["gzip;q=0.5, *;q=1"], False, True),
        (["identity;q=0"], False, False),
        (["identity;q=0, *"], True, False),
        (["*;q=0"], False, False),
        (["*;q=0, gzip"], True, False),
        (["*;q=0, identity;q=0.1"], False, True),
        (["identity;q=0", "gzip"], True, False),
    ],
)
def test_weights_decide(header, gzips, identity):
    assert (prefers_gzip(header), accepts_identity(header)) == (gzips, identity)


@pytest.mark.parametrize("path", LARGE)
async def test_large_json_is_compressed_for_clients_that_take_it(stored, path):
    plain, body = await raw(stored, "GET", path, headers={"Accept-Encoding": "identity"})
    response, packed = await raw(stored, "GET", path, headers={"Accept-Encoding": "gzip"})

    assert response.headers["content-encoding"] == "gzip"
    assert response.headers["content-length"] == str(len(packed))
    assert "content-encoding" not in plain.headers
    assert len(packed) < len(body)
    if path != "/_history" and "everything" not in path:  # their instants differ
        assert gzip.decompress(packed) == body
    for each in (response, plain):
        assert "Accept-Encoding" in each.headers["vary"]
        assert each.headers["content-type"] == plain.headers["content-type"]


@pytest.mark.parametrize("path", LARGE)
async def test_a_head_has_the_coding_of_a_get(stored, path):
    headers = {"Accept-Encoding": "gzip"}
    response, body = await raw(stored, "HEAD", path, headers=headers)
    got, _ = await raw(stored, "GET", path, headers=headers)

    assert (response.status_code, body) == (200, b"")
    assert response.headers["content-encoding"] == "gzip"
    assert response.headers.get("content-length") in (None, got.headers["content-length"])


async def test_small_json_is_sent_as_it_is_unless_that_is_left_out(stored):
    small = "/Patient?_id=none"

    response, _ = await raw(stored, "GET", small, headers={"Accept-Encoding": "gzip"})
    forced, body = await raw(
        stored, "GET", small, headers={"Accept-Encoding": "gzip, identity;q=0"}
    )

    assert "content-encoding" not in response.headers
    assert forced.headers["content-encoding"] == "gzip"
    assert gzip.decompress(body).startswith(b'{"resourceType":"Bundle"')


@pytest.mark.parametrize("header", ["identity;q=0", "*;q=0", "br, identity;q=0"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_a_client_that_takes_nothing_changes_nothing(stored, outcome, method, header):
    changed = PATIENT | {"active": True}
    response = await stored.request(
        method, "/Patient/p", json=changed, headers={"Accept-Encoding": header}
    )

    outcome(response, 406, "not-supported")
    assert (await stored.get("/Patient/p")).headers["etag"] == 'W/"1"'


async def test_bundles_and_errors_are_compressed(stored):
    bundle = {
        "resourceType": "Bundle",
        "type": "batch",
        "entry": [{"request": {"method": "GET", "url": "Patient/p"}}],
    }

    response = await stored.post("/", json=bundle, headers={"Accept-Encoding": "gzip"})

    assert response.headers["content-encoding"] == "gzip"
    assert response.json()["type"] == "batch-response"


async def test_a_manifest_is_compressed_and_a_file_as_it_was(site):
    await site.put(*({"resourceType": "Patient", "id": f"p{n}"} for n in range(50)))
    location = await site.kick_off("/$export?_type=Patient")
    await site.finish(location)
    headers = {"Accept-Encoding": "gzip, identity;q=0"}

    manifest = await site.client.get(location, headers=headers)
    url = manifest.json()["output"][0]["url"]
    file, body = await raw(site.client, "GET", url, headers={"Accept-Encoding": "identity"})

    assert manifest.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in file.headers
    assert body.count(b"\n") == 50


async def test_a_very_long_header_counts_as_absent(stored):
    header = ", ".join(f"x{n};q=0.{n % 10}" for n in range(1000)) + ", gzip"

    response, _ = await raw(stored, "GET", "/Patient/p", headers={"Accept-Encoding": header})

    assert (response.status_code, "content-encoding" in response.headers) == (200, False)


def test_the_same_bytes_are_compressed_to_the_same_bytes():
    assert compressed(b"x" * 5000) == compressed(b"x" * 5000)
    assert gzip.decompress(compressed(b"x" * 5000)) == b"x" * 5000
