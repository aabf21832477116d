import pytest

from tests.matrix.cells import VERSIONS, of_this_run, rows
from tests.matrix.stands import a_stand
from tests.turns import today


def pytest_generate_tests(metafunc):
    """Test every cell of this run."""
    if "stand" in metafunc.fixturenames:
        cells = of_this_run()
        if metafunc.definition.get_closest_marker("one_version") and today() != "all":
            cells = [cell for cell in cells if cell.version == VERSIONS[0]] or cells
        metafunc.parametrize("stand", cells, ids=str, indirect=True, scope="session")


@pytest.fixture(scope="session")
def stand(request, tmp_path_factory):
    """A server and a worker on the backends of a row, shared by the tests of a cell."""
    cell = request.param
    if not rows()[cell.row].works:
        pytest.skip(rows()[cell.row].reason)
    with a_stand(request, tmp_path_factory.mktemp("stand"), cell) as stand:
        yield stand
