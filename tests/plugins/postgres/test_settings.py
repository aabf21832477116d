import pytest

from helios_core import ConfigurationError, Secret
from helios_core.config.selection import configure
from helios_postgres import PostgresSettings

ADDRESS = "postgresql://somebody:canary@127.0.0.1/helios"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_an_address_of_postgresql_is_taken(scheme):
    url = Secret(f"{scheme}://host/helios")

    assert PostgresSettings(database_url=url, read_url=url).schema == "helios"


@pytest.mark.parametrize("url", ["sqlite:///canary.db", "mongodb://canary/x", "data/canary.db"])
@pytest.mark.parametrize("field", ["database_url", "read_url"])
def test_an_address_of_another_database_is_refused(field, url):
    urls = {"database_url": Secret(ADDRESS)} | {field: Secret(url)}

    with pytest.raises(ConfigurationError, match="HFS_") as caught:
        PostgresSettings(**urls)

    assert "canary" not in str(caught.value)


def test_settings_come_from_variables():
    selection = configure(
        {
            "HFS_STORAGE_BACKEND": "postgres",
            "HFS_DATABASE_URL": ADDRESS,
            "HFS_POSTGRES_SCHEMA": "exports",
            "HFS_POSTGRES_POOL_SIZE": "3",
            "HFS_POSTGRES_STATEMENT_TIMEOUT": "0.5",
        }
    )

    settings = selection.job_store.settings
    assert selection.data_provider.settings == settings
    assert settings.database_url.reveal() == ADDRESS
    assert (settings.schema, settings.pool_size) == ("exports", 3)
    assert settings.statement_timeout_ms == 500
    assert "canary" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HFS_POSTGRES_SCHEMA", "Two Words"),
        ("HFS_POSTGRES_POOL_SIZE", "0"),
        ("HFS_POSTGRES_SETTLE_TIMEOUT", "-1"),
        ("HFS_DATABASE_URL", ""),
        ("HFS_DATABASE_URL", "sqlite:///canary"),
    ],
)
def test_what_cannot_be_is_refused_by_name(name, value):
    environ = {"HFS_STORAGE_BACKEND": "postgres", "HFS_DATABASE_URL": ADDRESS, name: value}

    with pytest.raises(ConfigurationError, match=name) as caught:
        configure(environ)

    assert "canary" not in str(caught.value)
