from pathlib import Path
from urllib.parse import urlsplit

import pytest

from helios_core.cli.demo.population import write_population
from tests.cluster.sites import Cluster
from tests.cluster.stores import STORES
from tests.proxies import HTTPProxy
from tests.services import a_bucket, has_minio, minio

BUNDLES = Path(__file__).resolve().parents[3] / "shared/data/synthea-r4/bundles"


@pytest.fixture(scope="session")
def endpoint(request):
    """MinIO where there is one, else moto's S3 server."""
    return request.getfixturevalue("minio_server" if has_minio() else "s3_server")


@pytest.fixture
def bucket(endpoint):
    with a_bucket(endpoint) as bucket:
        yield bucket


@pytest.fixture
def own_minio(tmp_path):
    """A MinIO of this test's own, which it may stop."""
    folder = tmp_path / "minio"
    folder.mkdir()
    with minio(folder) as server:
        yield server


@pytest.fixture
def resource_bucket(own_minio):
    """Where resources are, for tests of those that are in a bucket."""
    with a_bucket(own_minio.url) as bucket:
        yield bucket


@pytest.fixture
def network(bucket):
    """What lies between the cluster and its bucket."""
    address = urlsplit(bucket.endpoint)
    with HTTPProxy((address.hostname, address.port), seed=4) as proxy:
        yield proxy


@pytest.fixture
def database(request):
    """What keeps resources and jobs: PostgreSQL, unless a test asks for another."""
    return STORES[getattr(request, "param", "postgres")](request.getfixturevalue)


@pytest.fixture
def cluster(tmp_path, database, bucket, network):
    """A cluster that has no process yet."""
    cluster = Cluster(tmp_path, database=database, bucket=bucket, endpoint=network.url)
    cluster.run("migrate")
    yield cluster
    cluster.end()


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    """Three shares of the real bundles where they are, else of a population that is made."""
    files = sorted(BUNDLES.glob("*"))
    if not files:
        folder = tmp_path_factory.mktemp("population")
        write_population(folder, patients=150, seed=3)
        files = sorted(folder.iterdir())
    return [[str(file) for file in files[share::3]] for share in range(3)]
