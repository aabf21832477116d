import pytest

from helios_sqlite import SQLiteSettings, open_data_provider
from tests.export.worker.hospital import Hospital


@pytest.fixture
def hospital() -> Hospital:
    return Hospital()


@pytest.fixture(params=["memory", "sqlite"])
async def clinic(request, tmp_path):
    """A hospital on each of the providers that keep histories."""
    if request.param == "memory":
        yield Hospital()
        return
    settings = SQLiteSettings(data_dir=str(tmp_path), synchronous="normal")
    async with open_data_provider(settings) as provider:
        yield Hospital(provider)
