import gc
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.elasticsearches import elasticsearch, elasticsearch_of, own_indices
from tests.keycloaks import keycloak
from tests.reaper import start_reaper
from tests.secured import Certificates
from tests.services import a_bucket, minio_endpoint, mongodb, postgres, s3_endpoint
from tests.turns import in_turn, today

start_reaper()
today()

# How long an example takes, and how long to make one, is up to the machine.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

TESTS = Path(__file__).parent

MARKERS = {
    "cli/test_demo.py": ["process"],
    "cli/test_exporting.py": ["crash", "process"],
    "cli/test_running.py": ["process"],
    "cli/test_startup.py": ["process"],
    "cluster": ["crash", "process", "service"],
    "crash": ["crash", "process"],
    "docs/test_conformance.py": ["slow"],
    "docs/test_data_provider_guide.py": ["process", "slow"],
    "docs/test_deidentify_example.py": ["process"],
    "docs/test_extensions_guide.py": ["process"],
    "docs/test_let_clients_in.py": ["process"],
    "docs/test_output_store_guide.py": ["process"],
    "docs/test_walks.py": ["process"],
    "docs/test_words.py": ["slow"],
    "end_to_end": ["process"],
    "export/worker/test_failures.py": ["slow"],
    "export/worker/test_outages.py": ["slow"],
    "fhir/test_bundles.py": ["slow"],
    "http/bulk/test_parameters.py": ["slow"],
    "http/bulk/test_permissions.py": ["slow"],
    "http/rest/test_permissions.py": ["slow"],
    "http/test_capability_statement.py": ["slow"],
    "http/test_cross_product.py": ["slow"],
    "http/test_fuzz.py": ["fuzz"],
    "http/test_hapi_validator.py": ["process"],
    "http/test_noninterference.py": ["slow"],
    "http/test_openapi.py": ["fuzz"],
    "inferno": ["process", "service"],
    "loading/test_load.py": ["slow"],
    "loading/test_parsers.py": ["process"],
    "loading/test_real_data.py": ["slow"],
    "matrix/test_cells.py": ["process"],
    "matrix/test_rows.py": ["crash", "process", "service"],
    "packaging": ["process"],
    "plugins/elasticsearch": ["service"],
    "plugins/elasticsearch/test_version_8.py": ["process"],
    "plugins/keycloak_auth": ["slow"],
    "plugins/localfs/test_errors.py": ["process"],
    "plugins/mongodb": ["service"],
    "plugins/postgres": ["service"],
    "plugins/s3": ["service"],
    "plugins/smart_auth/test_commands.py": ["slow"],
    "plugins/smart_auth/test_processes.py": ["process"],
    "plugins/smart_auth/test_server.py": ["slow"],
    "plugins/sqlite/test_contracts.py": ["slow"],
    "plugins/sqlite/test_processes.py": ["process"],
    "push_down": ["service"],
    "storage/test_indexed_contract.py": ["slow"],
    "test_reaper.py": ["crash", "process", "service"],
    "test_services.py": ["service"],
    "testing/test_broken_backends.py": ["process", "fuzz"],
    "testing/test_broken_extensions.py": ["process"],
    "testing/test_broken_output_stores.py": ["process"],
    "testing/test_suites.py": ["process"],
    "testing/test_table_providers.py": ["slow"],
}
"""What the tests of a folder or a file need; `make test-fast` leaves them out."""

SAMPLED = ("cli", "client", "export/worker", "http", "loading", "plugins", "server", "storage")
"""Folders of tests whose every case costs a server or a database."""

SERVICES = {
    "elasticsearch_8_server",
    "elasticsearch_server",
    "keycloak_server",
    "minio_server",
    "mongodb_server",
    "postgres_server",
    "s3_server",
}
"""Fixtures that start a service; a test that uses one needs `service`."""

NEEDS = {"crash", "process", "service", "fuzz", "slow"}
"""Marks of what `--fast` leaves out."""

PARSERS = "parser processes"
"""The parameter of tests whose loads have processes of their own."""

MACHINES = "_agrees_with_the_model"
"""How the tests of contract suites end that try many generated histories."""


def pytest_configure():
    """Heed interrupts, which a shell has what it starts in the background ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_logreport(report):
    """Show what fails at once, since a run that is cut off has no summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(
            f"\nFAILED {report.nodeid}\n{report.longreprtext[-2000:]}",
            file=sys.__stdout__,
            flush=True,
        )


def pytest_addoption(parser):
    parser.addoption("--fast", action="store_true", help="the tests of make test-fast")


def pytest_ignore_collect(collection_path, config):
    """Do not even import what `--fast` leaves out."""
    if (
        config.getoption("--fast")
        and TESTS in collection_path.parents
        and marks_of(collection_path)
    ):
        return True
    return None


def pytest_collection_modifyitems(config, items):
    """Mark every test with what it needs, so that nobody has to mark them one by one."""
    for item in items:
        names = marks_of(item.path)
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        servers = {"postgres", "mongodb"}.intersection(map(str, parameters))
        if servers or SERVICES.intersection(item.fixturenames):
            names.add("service")
        if PARSERS in parameters:
            names.add("process")
        if getattr(item.obj, "is_hypothesis_test", False) or item.name.endswith(MACHINES):
            names.add("fuzz")
        for name in sorted(names):
            item.add_marker(name)
    if config.getoption("--fast"):
        select(config, items)
    take_turns(config, items)


def pytest_collection_finish():
    """Look for garbage less often, and not among all the tests: that is a quarter of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def marks_of(path):
    """Return the marks of all tests of a file or folder."""
    name = path.relative_to(TESTS).as_posix()
    return {mark for place in MARKERS if is_within(name, place) for mark in MARKERS[place]}


def is_within(name, place):
    return name == place or name.startswith(f"{place}/")


def select(config, items):
    """Keep what needs nothing, and of tests whose every case costs a server the first case."""
    free = [item for item in items if NEEDS.isdisjoint(mark.name for mark in item.iter_markers())]
    first = dict[str, pytest.Item]()
    for item in sorted(free, key=case):
        name = item.path.relative_to(TESTS).as_posix()
        sampled = any(is_within(name, place) for place in SAMPLED)
        first.setdefault(item.nodeid.partition("[")[0] if sampled else item.nodeid, item)
    kept = set(first.values())
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def take_turns(config, items):
    """Keep of the classes marked `in_turn` the tests whose turn it is."""
    turning = [item for item in items if item.get_closest_marker("in_turn")]
    # Their own order is another one in each run.
    turning.sort(key=lambda item: item.nodeid)
    kept = set(in_turn(turning, today()))
    left = set(turning) - kept
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


def case(item):
    """Return which of the cases of its test an item is."""
    return sorted(item.callspec.indices.items()) if hasattr(item, "callspec") else []


@pytest.fixture(autouse=True)
def logging_of_its_own():
    """Undo what a command run inside of a test sets up for its whole process."""
    before = logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.setLevel(before)
    for handler in logging.root.handlers[:]:
        if type(handler) is logging.StreamHandler:
            logging.root.removeHandler(handler)


@pytest.fixture
def refusing_port():
    """A port that refuses every connection, and that nobody else can take meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture(scope="session")
def postgres_server():
    """One PostgreSQL server for all the tests of this process."""
    with postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server):
    """The URL of an empty PostgreSQL database of this test's own."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture
def migrated_postgres_url(postgres_server):
    """The URL of a PostgreSQL database of this test's own that has every table."""
    with postgres_server.database(migrated=True) as url:
        yield url


@pytest.fixture(scope="session")
def mongodb_server(tmp_path_factory):
    """One MongoDB server for all the tests of this process."""
    with mongodb(tmp_path_factory.mktemp("mongodb")) as server:
        yield server


@pytest.fixture
def mongodb_database(mongodb_server):
    """The name of an empty MongoDB database of this test's own."""
    with mongodb_server.database() as name:
        yield name


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """The endpoint of one S3 server for all the tests of this process."""
    with s3_endpoint(tmp_path_factory.mktemp("s3") / "log") as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_server):
    """An empty S3 bucket of this test's own, gone afterwards with all that is in it."""
    with a_bucket(s3_server) as bucket:
        yield bucket


@pytest.fixture(scope="session")
def minio_server(tmp_path_factory):
    """The endpoint of one MinIO, or of the S3 server that was given."""
    with minio_endpoint(tmp_path_factory.mktemp("minio")) as endpoint:
        yield endpoint


@pytest.fixture
def minio_bucket(minio_server):
    """As `bucket`, on a server that is used in production."""
    with a_bucket(minio_server) as bucket:
        yield bucket


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """An authority of the test run, and a certificate of this machine."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """A folder that all the processes of a test run have in common."""
    folder = tmp_path_factory.getbasetemp()
    # Each process of a parallel run has a folder of its own in that of the run.
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def elasticsearch_server(shared_folder):
    """The URL of one Elasticsearch for all the processes of a test run."""
    folder = shared_folder / "elasticsearch"
    folder.mkdir(exist_ok=True)
    with elasticsearch(folder) as url:
        yield url


@pytest.fixture(scope="session")
def elasticsearch_8_server(shared_folder):
    """The URL of one Elasticsearch 8 for all the processes of a test run."""
    folder = shared_folder / "elasticsearch-8"
    folder.mkdir(exist_ok=True)
    with elasticsearch_of("8", folder) as url:
        yield url


@pytest.fixture
def elasticsearch_prefix(elasticsearch_server):
    """The beginning of the names of this test's own indices, which are gone afterwards."""
    with own_indices(elasticsearch_server) as prefix:
        yield prefix


@pytest.fixture(scope="session")
def keycloak_folder(shared_folder):
    """The folder by which the processes of a test run find the Keycloak they share."""
    folder = shared_folder / "keycloak"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def keycloak_server(keycloak_folder):
    """One Keycloak for all the processes of a test run."""
    with keycloak(keycloak_folder) as server:
        yield server


@pytest.fixture
def realm(keycloak_server):
    """A realm of this test's own, as docs/examples/keycloak has it."""
    with keycloak_server.realm() as realm:
        yield realm
