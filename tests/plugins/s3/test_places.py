"""Output and resources in one bucket: what is there is removed by nobody whose it is not."""

import re

import pytest

from helios_core import BackendUnavailable, ConfigurationError, Secret
from helios_s3 import open_data_provider


@pytest.fixture
def resources_in(bucket, resource_settings):
    """Open resources in a folder of the bucket, and close them."""

    async def resources_in(prefix, **changes):
        settings = resource_settings(bucket, prefix=prefix, **changes)
        async with open_data_provider(settings):
            pass

    return resources_in


@pytest.mark.parametrize("output", ["", "clinic", "clinic/helios"])
async def test_resources_in_a_folder_of_output_are_refused(opened, resources_in, output):
    """The sweep of output would remove them as files of exports that nobody knows."""
    await opened(prefix=output).bind("job-store-1")

    with pytest.raises(ConfigurationError, match=r"one of export output.*HFS_S3_PREFIX"):
        await resources_in("clinic/helios")


@pytest.mark.parametrize("output", ["", "clinic", "clinic/helios"])
async def test_output_around_resources_is_refused(opened, resources_in, output):
    """Also before anything is stored."""
    await resources_in("clinic/helios")

    with pytest.raises(ConfigurationError, match="HFS_BULK_EXPORT_S3_PREFIX"):
        await opened(prefix=output).bind("job-store-1")


async def test_output_where_there_were_resources_before_is_refused_at_every_start(
    opened, resources_in, raw, bucket
):
    await opened(prefix="clinic").bind("job-store-1")
    raw.put_object(Bucket=bucket.name, Key="clinic/.helios-resources", Body=b"")

    with pytest.raises(ConfigurationError, match="has the resources of a server"):
        await opened(prefix="clinic").bind("job-store-1")


async def test_output_in_a_folder_of_other_output_is_refused(opened):
    await opened(prefix="exports").bind("job-store-1")

    with pytest.raises(ConfigurationError, match="one of export output"):
        await opened(prefix="exports/other").bind("job-store-2")


async def test_output_and_resources_lie_side_by_side(opened, resources_in, keys_in):
    for _ in range(2):
        await resources_in("resources")
        await opened(prefix="exports").bind("job-store-1")

    assert keys_in() == ["exports/.helios-owner", "resources/.helios-resources"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"secret_access_key": Secret("wrong")}, r"does not accept.*HFS_S3_SECRET_ACCESS_KEY"),
        ({"access_key_id": Secret("wrong")}, r"does not accept.*HFS_S3_ACCESS_KEY_ID"),
    ],
)
async def test_what_prevents_the_start_names_the_settings_of_the_resources(
    minio_bucket, resource_settings, changes, message
):
    with pytest.raises(ConfigurationError) as raised:
        async with open_data_provider(resource_settings(minio_bucket, **changes)):
            pass

    assert re.search(message, str(raised.value))
    assert "BULK_EXPORT" not in str(raised.value)


async def test_a_server_that_is_down_is_named_with_the_settings(
    bucket, resource_settings, refusing_port
):
    nowhere = f"http://127.0.0.1:{refusing_port}"

    with pytest.raises(BackendUnavailable, match=f"reached at {nowhere}.*HFS_S3_ENDPOINT"):
        async with open_data_provider(resource_settings(bucket, endpoint=nowhere)):
            pass
