import msgspec
import pytest

from helios_core.cli.demo.population import write_population
from tests.processes import Site

PATIENTS = 20

SMALL_PARTS = {
    # Many shards of little work, so that a kill always meets one in hand.
    "HFS_BULK_EXPORT_PART_BYTES": "20000",
    "HFS_BULK_EXPORT_LEASE_DURATION": "2",
    "HFS_BULK_EXPORT_HEARTBEAT_INTERVAL": "0.5",
    "HFS_BULK_EXPORT_MAX_ATTEMPTS": "20",
    "HFS_BULK_EXPORT_WORKER_CONCURRENCY": "2",
}


@pytest.fixture(scope="session")
def population(tmp_path_factory):
    """A folder of NDJSON, and the names of all it holds."""
    folder = tmp_path_factory.mktemp("population")
    write_population(folder, patients=PATIENTS, seed=7)
    lines = (line for file in folder.iterdir() for line in file.read_bytes().splitlines())
    resources = [msgspec.json.decode(line) for line in lines]
    return folder, sorted(f"{r['resourceType']}/{r['id']}" for r in resources)


@pytest.fixture
def site(request, tmp_path):
    """A site on SQLite, unless a test asks for MongoDB or a bucket."""
    store = getattr(request, "param", "sqlite")
    if store == "s3":
        bucket = request.getfixturevalue("minio_bucket")
        site = Site(tmp_path, **SMALL_PARTS, HFS_STORAGE_BACKEND="s3", **bucket.resource_settings)
    elif store == "mongodb":
        site = Site(
            tmp_path,
            # What stands in for MongoDB looks at everything for each shard; so there are fewer.
            **SMALL_PARTS | {"HFS_BULK_EXPORT_PART_BYTES": "100000"},
            HFS_STORAGE_BACKEND="mongodb",
            HFS_DATABASE_URL=request.getfixturevalue("mongodb_server").url,
            HFS_MONGODB_DATABASE=request.getfixturevalue("mongodb_database"),
        )
        site.run("migrate")
    else:
        site = Site(tmp_path, **SMALL_PARTS)
    yield site
    site.end()


@pytest.fixture
def loaded(site, population):
    """A site whose database holds the population."""
    site.run("load", str(population[0]))
    return site
