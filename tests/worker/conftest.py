import pytest

from tests.worker.hospital import Hospital


@pytest.fixture
def hospital() -> Hospital:
    return Hospital()
