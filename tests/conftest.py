import logging

import pytest
import structlog

from tests.services import a_bucket, minio_endpoint, postgres, s3_endpoint


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
