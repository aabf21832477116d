import pytest

from tests.client import scripted


@pytest.fixture
async def server():
    async with scripted.running() as server:
        yield server
