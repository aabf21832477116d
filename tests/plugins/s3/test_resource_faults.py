"""Resources in a bucket whose server fails, or cheats."""

import re

import msgspec
import pytest

from helios_core import BackendUnavailable, ConfigurationError
from helios_core.testing import corpus
from helios_s3 import open_data_provider
from tests.plugins.s3.conftest import address_of
from tests.plugins.s3.resources import put
from tests.proxies import Fault, HTTPProxy

COMMIT = re.compile(rb"^PUT [^ ]*/log/")
READ = re.compile(rb"^GET ")


class CarelessProxy(HTTPProxy):
    """A server that does not know of conditional writes."""

    async def _relay(self, reader, writer, *, fault, head, body):
        head = re.sub(rb"(?i)\r\nif-none-match:[^\r]*", b"", head)
        await super()._relay(reader, writer, fault=fault, head=head, body=body)


async def test_a_server_that_ignores_conditions_is_refused(bucket, resource_settings):
    with CarelessProxy(address_of(bucket), seed=1) as careless:
        opening = open_data_provider(resource_settings(bucket, endpoint=careless.url))
        with pytest.raises(ConfigurationError, match="ignores If-None-Match"):
            await opening.__aenter__()


async def test_a_bucket_that_is_not_there_is_named(bucket, resource_settings):
    nowhere = msgspec.structs.replace(resource_settings(bucket), bucket="helios-nowhere")
    with pytest.raises(ConfigurationError, match=r"no bucket helios-nowhere at .* HFS_S3_BUCKET"):
        async with open_data_provider(nowhere):
            pass


async def test_passing_errors_neither_lose_nor_double_a_write(minio_proxy, resources):
    """Where the answer is lost, the writer finds its own commit in the log."""
    async with resources(endpoint=minio_proxy.url) as provider:
        minio_proxy.faults = {
            Fault.ERROR_503: 0.1,
            Fault.CUT_REQUEST: 0.05,
            Fault.CUT_RESPONSE: 0.2,
        }
        applied = [
            await put(provider, corpus.patient("p", note=str(number))) for number in range(30)
        ]
        minio_proxy.faults = {}
    async with resources() as direct:
        key = corpus.type_key("Patient").resource("p")
        history = await direct.history(key, count=100)

    assert [each.version_id for [each] in applied] == list(range(1, 31))
    assert len(history) == 30
    assert minio_proxy.done[Fault.CUT_RESPONSE] >= 1


@pytest.mark.parametrize("step", [COMMIT, READ], ids=["commit", "read"])
@pytest.mark.usefixtures("impatient")
async def test_a_bucket_that_is_away_is_unavailable(resources, minio_proxy, step):
    async with resources(endpoint=minio_proxy.url) as provider:
        minio_proxy.only, minio_proxy.faults = step, {Fault.ERROR_503: 1.0}
        key = corpus.type_key("Patient").resource("p")
        asked = put(provider, corpus.patient("p")) if step is COMMIT else provider.get(key)
        with pytest.raises(BackendUnavailable, match="the primary bucket"):
            await asked
        minio_proxy.faults = {}

        assert (await put(provider, corpus.patient("p")))[0].version_id == 1
