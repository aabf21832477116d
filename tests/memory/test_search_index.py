"""The reference search index keeps its contract."""

import pytest

from helios_core.memory import MemorySearchIndex
from helios_core.testing import SearchIndexSuite


class TestMemorySearchIndex(SearchIndexSuite):
    outlives_processes = False

    @pytest.fixture
    def index(self):
        return MemorySearchIndex()
