from datetime import UTC, datetime

import msgspec
import pytest

from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.search import compile_query

BASE = "https://fhir.example.org/base"
NOW = datetime(2013, 9, 14, tzinfo=UTC)


@pytest.fixture(scope="session")
def match():
    """Whether a resource matches all queries, each `name=value`."""

    def match(resource, *queries, version="R4"):
        pairs = [tuple(query.split("=", 1)) for query in queries]
        line = msgspec.json.encode(resource)
        filter_ = compile_query(
            FHIRVersion(version), resource["resourceType"], pairs, base_urls=[BASE], now=NOW
        )
        return filter_.matches(line)

    return match
