"""The servers that the tests use, for a benchmark that is started as a folder of its own."""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[2]))

from tests.elasticsearches import documents, elasticsearch, own_indices
from tests.services import (
    Bucket,
    Postgres,
    a_bucket,
    has_minio,
    minio,
    minio_endpoint,
    mongodb,
    postgres,
)

__all__ = [
    "Bucket",
    "Postgres",
    "a_bucket",
    "documents",
    "elasticsearch",
    "has_minio",
    "minio",
    "minio_endpoint",
    "mongodb",
    "own_indices",
    "postgres",
]
