import pytest

import helios_sqlite
from helios_core import Dataset
from helios_core.fhir import FHIRVersion
from helios_elasticsearch import ElasticsearchSettings, open_search_index


@pytest.fixture
def settings(elasticsearch_server, elasticsearch_prefix):
    """Settings for indices of this test's own, none of which is there yet."""
    return ElasticsearchSettings(nodes=(elasticsearch_server,), prefix=elasticsearch_prefix)


@pytest.fixture
async def index(settings):
    async with open_search_index(settings) as index:
        yield index


@pytest.fixture
async def sqlite_provider(tmp_path):
    settings = helios_sqlite.SQLiteSettings(data_dir=str(tmp_path / "data"), synchronous="normal")
    async with helios_sqlite.open_data_provider(settings) as provider:
        yield provider


@pytest.fixture
def dataset():
    return Dataset("clinic", FHIRVersion.R4)
