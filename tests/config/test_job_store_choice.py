"""HFS_BULK_EXPORT_JOB_STORE: which plugin keeps the jobs, and where."""

import pytest

from helios_core.config.selection import SIDECAR, configure
from helios_core.errors import ConfigurationError


def chosen(folder, **environ):
    environ = {"HFS_DATA_DIR": str(folder), "HFS_BULK_EXPORT_OUTPUT_DIR": str(folder), **environ}
    return configure(environ).job_store


def test_auto_is_the_job_store_of_the_data_provider(tmp_path):
    mongodb = {"HFS_STORAGE_BACKEND": "mongodb", "HFS_DATABASE_URL": "mongodb://db.example.org"}

    assert chosen(tmp_path).plugin.origin.name == "sqlite"
    assert chosen(tmp_path, **mongodb).plugin.origin.name == "mongodb"


def test_sqlite_beside_another_data_provider_is_the_sidecar(tmp_path):
    jobs = chosen(
        tmp_path,
        HFS_STORAGE_BACKEND="mongodb",
        HFS_DATABASE_URL="mongodb://db.example.org",
        HFS_BULK_EXPORT_JOB_STORE="sqlite",
    )

    assert jobs.plugin.origin.name == "sqlite"
    assert jobs.settings.path == tmp_path / SIDECAR


def test_a_job_store_elsewhere_has_an_address_of_its_own(tmp_path):
    jobs = chosen(
        tmp_path,
        HFS_BULK_EXPORT_JOB_STORE="mongodb",
        HFS_BULK_EXPORT_JOB_STORE_URL="mongodb://jobs.example.org",
    )

    assert jobs.plugin.origin.name == "mongodb"
    assert jobs.settings.database_url.reveal() == "mongodb://jobs.example.org"


def test_a_job_store_elsewhere_without_an_address_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="HFS_BULK_EXPORT_JOB_STORE_URL is not set"):
        chosen(tmp_path, HFS_BULK_EXPORT_JOB_STORE="postgres")


@pytest.mark.parametrize("name", ["localfs", "nosuch"])
def test_a_plugin_without_a_job_store_is_refused(tmp_path, name):
    with pytest.raises(ConfigurationError, match="HFS_BULK_EXPORT_JOB_STORE"):
        chosen(tmp_path, HFS_BULK_EXPORT_JOB_STORE=name, HFS_BULK_EXPORT_JOB_STORE_URL="x")


def test_jobs_in_memory_need_no_address(tmp_path):
    assert chosen(tmp_path, HFS_BULK_EXPORT_JOB_STORE="memory").plugin.origin.name == "memory"


WRONG_ADDRESSES = {
    "mongodb": ("nowhere", "postgresql://jobs.example.org/jobs"),
    "postgres": ("nowhere", "mongodb://jobs.example.org"),
    "sqlite": ("mongodb://jobs.example.org", ":memory:"),
}


@pytest.mark.parametrize(
    ("name", "url"), [(k, url) for k, v in WRONG_ADDRESSES.items() for url in v]
)
def test_a_wrong_address_of_the_jobs_is_named_by_its_own_setting(tmp_path, name, url):
    primary = {"HFS_STORAGE_BACKEND": "s3", "HFS_S3_BUCKET": "resources"}
    with pytest.raises(ConfigurationError) as raised:
        chosen(
            tmp_path,
            **primary,
            HFS_BULK_EXPORT_JOB_STORE=name,
            HFS_BULK_EXPORT_JOB_STORE_URL=url,
        ).require_files()

    assert "HFS_DATABASE_URL" not in str(raised.value)


async def test_what_refuses_to_open_names_the_setting_of_the_jobs(tmp_path):
    file = tmp_path / "jobs.db"
    file.write_text("no database at all, and longer than the header of one. " * 10)
    jobs = chosen(
        tmp_path,
        HFS_STORAGE_BACKEND="s3",
        HFS_S3_BUCKET="resources",
        HFS_BULK_EXPORT_JOB_STORE_URL=str(file),
    )

    with pytest.raises(ConfigurationError, match="HFS_BULK_EXPORT_JOB_STORE_URL") as raised:
        async with jobs.open():
            pass
    with pytest.raises(ConfigurationError, match="HFS_BULK_EXPORT_JOB_STORE_URL"):
        await jobs.migrate()

    assert "HFS_DATABASE_URL" not in str(raised.value)


def test_a_missing_address_of_the_jobs_is_the_only_problem(tmp_path):
    with pytest.raises(ConfigurationError) as raised:
        chosen(tmp_path, HFS_BULK_EXPORT_JOB_STORE="mongodb")

    assert "problems" not in str(raised.value)


@pytest.mark.parametrize("name", ["auto", "sqlite"])
def test_an_address_of_jobs_that_are_with_the_resources_is_refused(tmp_path, name):
    with pytest.raises(ConfigurationError, match="HFS_BULK_EXPORT_JOB_STORE_URL is set, but"):
        chosen(
            tmp_path,
            HFS_BULK_EXPORT_JOB_STORE=name,
            HFS_BULK_EXPORT_JOB_STORE_URL="postgresql://jobs.example.org/jobs",
        )
