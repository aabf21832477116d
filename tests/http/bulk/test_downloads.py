import asyncio
import gzip

import msgspec
import pytest

from helios_core.memory import MemoryOutputStore
from helios_core.model.parts import Compression

NUMBER = 300


class Shrunk(MemoryOutputStore):
    """Loses the second half of every part."""

    async def read(self, key, *, start=0, end=None):
        whole = b"".join([chunk async for chunk in super().read(key)])
        yield whole[: len(whole) // 2][start:end]


@pytest.fixture(params=["none", "gzip"])
def compression(request):
    return Compression(request.param)


@pytest.fixture
async def file(site, compression):
    """The URL of a file of many Patients."""
    await site.put(*({"resourceType": "Patient", "id": f"p{n}"} for n in range(NUMBER)))
    manifest = await site.manifest("/$export", limits={"compression": compression})
    return manifest["output"][0]["url"]


@pytest.fixture
async def plain(client, file):
    """The NDJSON of that file."""
    return (await client.get(file, headers={"Accept-Encoding": "identity"})).content


async def test_a_file_is_ndjson_with_as_many_lines_as_the_manifest_says(client, file, plain):
    """B2-FL-01, B2-FL-03, TR-50"""
    lines = plain.split(b"\n")

    assert lines.pop() == b""
    assert len(lines) == NUMBER
    assert {msgspec.json.decode(line)["resourceType"] for line in lines} == {"Patient"}


@pytest.mark.parametrize("accepted", ["gzip", "gzip, deflate, br", "*", "x-gzip", "gzip;q=0.5"])
async def test_clients_that_take_gzip_get_what_is_stored(
    client, file, plain, compression, accepted
):
    """B2-FL-02, B3-30, TR-54, RC-13"""
    async with client.stream("GET", file, headers={"Accept-Encoding": accepted}) as response:
        raw = b"".join([chunk async for chunk in response.aiter_raw()])

    gzipped = compression is Compression.GZIP
    assert response.headers["content-type"] == "application/fhir+ndjson"
    assert response.headers["content-length"] == str(len(raw))
    assert response.headers.get("content-encoding") == ("gzip" if gzipped else None)
    assert response.headers.get("vary") == ("Accept-Encoding" if gzipped else None)
    assert (gzip.decompress(raw) if gzipped else raw) == plain


@pytest.mark.parametrize("accepted", ["identity", "gzip;q=0", "br", "gzip;q=0, *;q=1", ""])
async def test_clients_that_do_not_take_gzip_get_plain_bytes(client, file, plain, accepted):
    """B3-30, TR-54"""
    response = await client.get(file, headers={"Accept-Encoding": accepted})

    assert "content-encoding" not in response.headers
    assert response.headers["content-length"] == str(len(plain))
    assert response.content == plain


@pytest.mark.parametrize(
    "accept",
    ["application/fhir+ndjson", "text/plain", "application/json", "application/fhir+xml", "x/y"],
)
async def test_any_accept_gets_the_file(client, file, accept):
    """B2-FL-04, TR-05"""
    response = await client.get(file, headers={"Accept": accept})

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/fhir+ndjson"


async def test_head_has_everything_but_the_bytes(client, file, plain):
    headers = {"Accept-Encoding": "identity", "X-Request-ID": "same"}

    head, get = [await client.request(m, file, headers=headers) for m in ("HEAD", "GET")]

    assert head.headers == get.headers
    assert head.content == b""


@pytest.mark.parametrize(
    ("requested", "wanted"),
    [
        ("0-0", slice(0, 1)),
        ("5-99", slice(5, 100)),
        ("1000-", slice(1000, None)),
        ("-7", slice(-7, None)),
        ("9-999999999", slice(9, None)),
    ],
)
async def test_a_range_is_exactly_those_bytes(client, file, plain, requested, wanted):
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={requested}"}

    response = await client.get(file, headers=headers)

    first, end, _ = wanted.indices(len(plain))
    assert (response.status_code, response.content) == (206, plain[wanted])
    assert response.headers["content-range"] == f"bytes {first}-{end - 1}/{len(plain)}"
    assert response.headers["content-length"] == str(end - first)


async def test_a_range_of_a_compressed_response_counts_compressed_bytes(client, file):
    async def raw(**headers):
        async with client.stream("GET", file, headers=headers) as response:
            return b"".join([chunk async for chunk in response.aiter_raw()])

    whole = await raw(**{"Accept-Encoding": "gzip"})
    rest = await raw(**{"Accept-Encoding": "gzip", "Range": "bytes=10-"})

    assert rest == whole[10:]


@pytest.mark.parametrize("requested", ["bytes=999999999-", "bytes=-0"])
async def test_a_range_behind_the_end_is_416(client, file, plain, outcome, requested):
    headers = {"Accept-Encoding": "identity", "Range": requested}

    response = await client.get(file, headers=headers)

    outcome(response, 416)
    assert response.headers["content-range"] == f"bytes */{len(plain)}"


@pytest.mark.parametrize("requested", ["bytes=0-1,5-6", "lines=1-2", "bytes=9-5", "bytes=-", "x"])
async def test_a_range_that_is_not_served_gets_the_whole_file(client, file, plain, requested):
    headers = {"Accept-Encoding": "identity", "Range": requested}

    response = await client.get(file, headers=headers)

    assert (response.status_code, response.content) == (200, plain)


async def test_a_resumed_download_is_the_rest_of_the_same_bytes_or_all_of_them(
    client, file, plain
):
    headers = {"Accept-Encoding": "identity", "Range": "bytes=100-"}
    known = (await client.head(file, headers={"Accept-Encoding": "identity"})).headers

    by_tag = await client.get(file, headers=headers | {"If-Range": known["etag"]})
    by_date = await client.get(file, headers=headers | {"If-Range": known["last-modified"]})
    other = await client.get(file, headers=headers | {"If-Range": '"something-else"'})
    nonsense = await client.get(file, headers=headers | {"If-Range": "yesterday"})

    assert [by_tag.status_code, by_date.status_code] == [206, 206]
    assert by_tag.content == by_date.content == plain[100:]
    assert [other.status_code, nonsense.status_code] == [200, 200]
    assert other.content == nonsense.content == plain


async def test_every_form_has_an_etag_of_its_own(client, file, compression):
    tags = {
        (await client.head(file, headers={"Accept-Encoding": coding})).headers["etag"]
        for coding in ("gzip", "identity")
    }

    assert len(tags) == (2 if compression is Compression.GZIP else 1)


async def test_who_has_the_file_gets_304(client, file):
    """TR-53"""
    first = await client.get(file)

    again = await client.get(file, headers={"If-None-Match": first.headers["etag"]})

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


async def test_only_the_names_of_the_manifest_are_files(site, file, outcome):
    """B2-FL-07"""
    folder, _, name = file.rpartition("/")
    job_id = folder.rsplit("/", 1)[1]

    for wrong in (
        "Patient-1-2.ndjson",
        name.lower(),
        "..%2f..%2fetc%2fpasswd",
        "%00",
        f"{name}.gz",
    ):
        outcome(await site.client.get(f"{folder}/{wrong}"), 404, "not-found")
    for wrong in ("none", "..", f"../{job_id}"):
        outcome(await site.client.get(f"/export-file/{wrong}/{name}"), 404, "not-found")


async def test_a_file_of_another_tenant_or_export_is_not_found(site, file, outcome):
    other = await site.kick_off()
    name = file.rsplit("/", 1)[1]

    foreign = await site.client.get(file, headers={"X-Tenant-ID": "other"})
    unfinished = await site.client.get(f"/export-file/{other.rsplit('/', 1)[1]}/{name}")

    outcome(foreign, 404, "not-found")
    outcome(unfinished, 404, "not-found")


async def test_a_part_that_is_gone_says_how_to_go_on_and_no_more(site, file, outcome):
    [(tenant, job_id)] = [job async for job in site.backends.output_store.jobs()]
    await site.backends.output_store.delete(tenant, job_id)

    issue = outcome(await site.client.get(file), 410, "not-found")

    assert "start a new export" in issue["diagnostics"]
    assert "ndjson" not in issue["diagnostics"]


@pytest.mark.parametrize("coding", ["gzip", "identity"])
async def test_a_download_that_breaks_is_never_taken_for_whole(live, compression, coding):
    """TR-65"""
    site = await live(output_store=Shrunk())
    await site.put(*({"resourceType": "Patient", "id": f"p{n}"} for n in range(NUMBER)))
    manifest = await site.manifest(limits={"compression": compression})
    [file] = manifest["output"]

    headers = {"Accept-Encoding": coding, "Connection": "close"}
    response = await raw_get(file["url"], headers)

    head, _, body = response.partition(b"\r\n\r\n")
    promised = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    refused = head.startswith(b"HTTP/1.1 500")
    assert refused or len(body) < promised


async def raw_get(url, headers):
    """Return everything a server sends until it closes the connection."""
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    reader, writer = await asyncio.open_connection(name, int(port))
    lines = [f"GET /{path} HTTP/1.1", f"Host: {host}", *(f"{k}: {v}" for k, v in headers.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "headers",
    [
        {"If-Match": '"another"'},
        {"If-Match": '"another"', "If-None-Match": "*"},
        {"If-Unmodified-Since": "Sun, 06 Nov 1994 08:49:37 GMT", "Range": "bytes=0-9"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_file_that_a_precondition_does_not_name_is_not_sent(client, file, method, headers):
    """RFC 9110 §13.2.2"""
    response = await client.request(method, file, headers=headers)

    assert response.status_code == 412


async def test_a_file_that_a_precondition_names_is_sent(client, file):
    first = await client.get(file)
    headers = {
        "If-Match": first.headers["etag"],
        "If-Unmodified-Since": first.headers["last-modified"],
    }

    assert (await client.get(file, headers=headers)).content == first.content
