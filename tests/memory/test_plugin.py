import pytest

from helios_core import memory
from helios_core.storage.hooks import API_LEVEL


@pytest.mark.parametrize(
    "hook",
    [memory.helios_data_provider, memory.helios_job_store, memory.helios_output_store],
    ids=lambda hook: hook.__name__,
)
async def test_the_plugin_opens_what_it_offers(hook):
    backend = hook()

    async with backend.open(backend.settings()) as opened:
        assert isinstance(opened, backend.implementation)
    assert backend.api_level == API_LEVEL


async def test_two_opened_backends_share_nothing():
    backend = memory.helios_job_store()

    async with backend.open(backend.settings()) as one, backend.open(backend.settings()) as two:
        assert one.identity != two.identity
