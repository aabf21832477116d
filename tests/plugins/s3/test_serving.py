"""Real servers whose output goes to a bucket."""

import gzip
import re
import time

import httpx
import msgspec
import pytest

from helios_core.client.export import ExportOptions, ExportPhase, export
from helios_core.client.kickoff import ClientRequest
from tests.pace import Deadline, wait_for_end
from tests.processes import POLL_SECONDS, Site, names
from tests.proxies import Fault

PATIENTS = [f"Patient/p{number}" for number in range(400)]
SIGNATURES = re.compile(r"X-Amz-(Signature|Credential|Security)", re.IGNORECASE)


@pytest.fixture
def bucket(minio_bucket):
    return minio_bucket


@pytest.fixture
def empty_site(tmp_path, bucket):
    site = Site(
        tmp_path,
        HFS_LOG_LEVEL="debug",
        HFS_BULK_EXPORT_PART_BYTES="2000",
        AWS_EC2_METADATA_DISABLED="true",
        **bucket.settings,
    )
    yield site
    site.end()


@pytest.fixture
def site(empty_site, tmp_path):
    """A site with Patients, a few to each file of an export."""
    file = tmp_path / "patients.ndjson"
    file.write_text("".join(f'{{"resourceType":"Patient","id":"{n[8:]}"}}\n' for n in PATIENTS))
    empty_site.run("load", str(file))
    return empty_site


def lines_of(manifest):
    """Download every file as a client without any token does."""
    content = b"".join(httpx.get(file["url"], timeout=60).content for file in manifest["output"])
    return [msgspec.json.decode(line) for line in content.splitlines()]


def test_files_are_downloaded_from_the_bucket_and_gone_after_delete(site, bucket, keys_in):
    _, client = site.serve()
    status = client.kick_off()

    manifest = client.manifest(status)

    assert manifest["requiresAccessToken"] is False
    assert all(file["url"].startswith(bucket.endpoint) for file in manifest["output"])
    assert names(lines_of(manifest)) == sorted(PATIENTS)
    client.http.delete(status)
    deadline = Deadline(30)
    while keys_in() != [".helios-owner"]:
        assert not deadline.has_passed()
        time.sleep(POLL_SECONDS)


def test_with_a_required_token_the_server_sends_ranges_of_what_the_bucket_has(site):
    _, client = site.serve(HFS_BULK_EXPORT_REQUIRES_ACCESS_TOKEN="true")
    manifest = client.manifest(client.kick_off())
    assert manifest["requiresAccessToken"] is True
    assert names(client.resources(manifest)) == sorted(PATIENTS)
    url = manifest["output"][0]["url"]
    packed = {"Accept-Encoding": "gzip"}
    with client.http.stream("GET", url, headers=packed) as whole:
        content = b"".join(whole.iter_raw())

    asked = packed | {"Range": "bytes=10-", "If-Range": whole.headers["etag"]}
    with client.http.stream("GET", url, headers=asked) as part:
        rest = b"".join(part.iter_raw())
    with client.http.stream("GET", url, headers=asked | {"If-Range": '"other"'}) as other:
        again = b"".join(other.iter_raw())

    assert (part.status_code, rest) == (206, content[10:])
    assert (other.status_code, again) == (200, content)
    assert gzip.decompress(content).startswith(b'{"')


async def test_our_client_exports_and_renews_links_that_have_expired(site, tmp_path):
    _, client = site.serve(HFS_BULK_EXPORT_FILE_URL_TTL="2")
    waited = []

    def wait_until_they_have(progress):
        if progress.phase is ExportPhase.DOWNLOADING and not waited:
            waited.append(time.sleep(3))

    summary = await export(
        ClientRequest(base_url=client.base_url),
        tmp_path / "out",
        ExportOptions(on_progress=wait_until_they_have),
    )

    assert waited
    assert summary.lines == len(PATIENTS)
    site.run("verify", str(tmp_path / "out" / "manifest.json"))


def test_nothing_that_signs_is_logged_even_when_the_bucket_fails(site, proxy, bucket):
    proxy.faults = {Fault.ERROR_503: 0.2, Fault.CUT_RESPONSE: 0.1}
    server, client = site.serve(HFS_BULK_EXPORT_S3_ENDPOINT=proxy.url)
    status = client.kick_off()
    client.manifest(status)
    proxy.faults = {}
    proxy.close()
    client.http.delete(status)
    server.process.terminate()
    server.process.wait()

    for process in site.processes:
        assert process.output()
        assert not SIGNATURES.search(process.output())
        assert bucket.secret_key not in process.output()


def test_an_export_through_a_bad_network_is_exact(site, proxy, keys_in):
    _, client = site.serve(
        HFS_BULK_EXPORT_S3_ENDPOINT=proxy.url, HFS_BULK_EXPORT_REQUIRES_ACCESS_TOKEN="true"
    )
    proxy.faults = {
        Fault.ERROR_500: 0.1,
        Fault.ERROR_503: 0.1,
        Fault.CUT_REQUEST: 0.1,
        Fault.CUT_RESPONSE: 0.1,
    }

    manifest = client.manifest(client.kick_off())

    proxy.faults = {}
    assert names(client.resources(manifest)) == sorted(PATIENTS)
    # A worker that starts meanwhile may fail to remove its probe; the next one does.
    assert len([key for key in keys_in() if "/" in key]) == len(manifest["output"])
    assert sum(proxy.done.values()) > 5


def test_a_bucket_that_cannot_be_used_stops_the_start(empty_site):
    server = empty_site.start("serve", HFS_BULK_EXPORT_S3_BUCKET="nowhere")

    assert wait_for_end(server.process) != 0
    assert "there is no bucket nowhere" in " ".join(server.output().split())


def test_servers_share_a_bucket_where_they_share_the_job_store(empty_site):
    empty_site.serve()
    empty_site.serve()
    other = empty_site.start("serve", HFS_DATA_DIR=str(empty_site.folder / "other"))

    assert wait_for_end(other.process) != 0
    assert "belongs to job store" in " ".join(other.output().split())
