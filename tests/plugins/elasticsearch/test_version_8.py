"""Elasticsearch 8: the contract of a search index, and a row of the matrix."""

import pytest

from tests.matrix.cells import VERSIONS
from tests.matrix.stands import a_stand
from tests.matrix.test_rows import (  # noqa: F401 - they are run here
    test_an_export_since_another_has_what_changed_and_what_was_deleted,
    test_exports_of_every_level_have_exactly_what_was_loaded,
    test_filters_and_elements_leave_exactly_what_they_say,
    test_searches_find_exactly_what_was_loaded,
)
from tests.matrix.turns import Cell
from tests.plugins.elasticsearch import test_contract as contract


@pytest.fixture(scope="module")
def elasticsearch_server(elasticsearch_8_server):
    """Use this one where others use the usual one."""
    return elasticsearch_8_server


@pytest.fixture(scope="module")
def stand(request, tmp_path_factory):
    """A server and a worker on a row with Elasticsearch."""
    cell = Cell("sqlite-elasticsearch/local-fs", VERSIONS[0])
    with a_stand(request, tmp_path_factory.mktemp("stand"), cell) as stand:
        yield stand


@pytest.mark.in_turn
class TestElasticsearchIndex(contract.TestElasticsearchIndex):
    """The whole contract."""
