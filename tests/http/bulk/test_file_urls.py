from datetime import timedelta

import httpx
import pytest

from helios_core.config.selection import configure
from helios_core.config.settings import AccessToken, Settings
from helios_core.errors import BackendUnavailable, ConfigurationError
from helios_core.memory import MemoryOutputStore

PATIENTS = [{"resourceType": "Patient", "id": f"p{number}"} for number in range(5)]


class SigningStore(MemoryOutputStore):
    """Returns addresses of another host, each with a signature of its own."""

    def __init__(self):
        super().__init__()
        self.signed = 0

    async def signed_urls(self, keys, *, valid_for):
        self.signed += 1
        query = f"seconds={valid_for.total_seconds():.0f}&signature={self.signed}"
        return [f"http://bucket.example/{key.job_id}/{key.name}?{query}" for key in keys]


@pytest.fixture
async def signing_site(open_site):
    async def signing_site(**settings):
        site = await open_site(Settings(**settings), output_store=SigningStore())
        await site.put(*PATIENTS)
        return site

    return signing_site


async def test_links_are_signed_where_the_store_can(signing_site):
    site = await signing_site(bulk_export_file_url_ttl=timedelta(seconds=90))

    manifest = await site.manifest()

    assert manifest["requiresAccessToken"] is False
    [file] = manifest["output"]
    assert file["url"].startswith("http://bucket.example/")
    assert "seconds=90" in file["url"]


async def test_every_poll_signs_anew_and_names_the_same_files(signing_site):
    site = await signing_site()
    location = await site.kick_off()
    await site.finish(location, part_rows=2)

    polls = [(await site.client.get(location)).json()["output"] for _ in range(2)]

    urls = [[httpx.URL(file["url"]) for file in files] for files in polls]
    assert [url.path for url in urls[0]] == [url.path for url in urls[1]]
    assert not {str(url) for url in urls[0]} & {str(url) for url in urls[1]}


async def test_with_a_required_token_this_server_sends_the_files(signing_site):
    site = await signing_site(bulk_export_requires_access_token=AccessToken.TRUE)

    manifest = await site.manifest()

    assert manifest["requiresAccessToken"] is True
    [file] = manifest["output"]
    response = await site.client.get(file["url"], headers={"Range": "bytes=0-9"})
    assert response.status_code == 206
    assert site.backends.output_store.signed == 0


async def test_a_store_that_cannot_sign_has_its_files_sent_without_a_token(site):
    await site.put(*PATIENTS)

    manifest = await site.manifest()

    assert manifest["requiresAccessToken"] is False
    assert manifest["output"][0]["url"].startswith("http://fhir.example/export-file/")


def test_links_alone_are_refused_of_a_store_that_cannot_sign():
    with pytest.raises(ConfigurationError, match="localfs cannot sign links") as refused:
        configure({"HFS_BULK_EXPORT_REQUIRES_ACCESS_TOKEN": "false"})

    assert "HFS_BULK_EXPORT_REQUIRES_ACCESS_TOKEN" in str(refused.value)


@pytest.mark.parametrize("ttl", ["0", "-1", "soon"])
def test_links_that_are_never_valid_are_refused(ttl):
    with pytest.raises(ConfigurationError, match="HFS_BULK_EXPORT_FILE_URL_TTL"):
        configure({"HFS_BULK_EXPORT_FILE_URL_TTL": ttl})


async def test_a_block_goes_on_at_the_address_the_manifest_lists(signing_site):
    site = await signing_site()
    observations = [
        {"resourceType": "Observation", "id": f"o{number}", "subject": {"reference": "Patient/p0"}}
        for number in range(9)
    ]
    await site.put(*observations)

    manifest = await site.manifest(
        "/Patient/$export?organizeOutputBy=Patient", limits={"part_rows": 4}
    )

    listed = {file["url"] for file in manifest["output"]}
    continued = {
        file["continuesInFile"] for file in manifest["output"] if "continuesInFile" in file
    }
    assert continued
    assert continued <= listed


async def test_a_page_that_was_shown_keeps_its_files(signing_site):
    site = await signing_site()
    location = await site.kick_off("/$export?allowPartialManifests=true")
    await site.finish(location, part_rows=1)

    pages = [(await site.client.get(f"{location}?page=1")).json() for _ in range(2)]

    first, second = [
        [(httpx.URL(file["url"]).path, file["count"]) for file in page["output"]] for page in pages
    ]
    assert first == second


async def test_a_manifest_that_cannot_be_signed_can_be_polled_again_later(open_site, outcome):
    class Unable(SigningStore):
        async def signed_urls(self, keys, *, valid_for):
            raise BackendUnavailable("there are no credentials")

    site = await open_site(output_store=Unable())
    await site.put(*PATIENTS)
    location = await site.kick_off()
    await site.finish(location)

    outcome(await site.client.get(location), 503, "transient")
