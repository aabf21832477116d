from datetime import UTC, datetime

import pytest

from helios_core.errors import BackendError
from helios_core.storage.data_provider import StoredVersion
from helios_core.storage.integrity import verified_version


def test_the_error_of_a_damaged_resource_names_nobody():
    """It is logged, and may become the reason for which somebody's export failed."""
    stored = StoredVersion(
        resource_type="Patient",
        id="jane-canary",
        version_id=3,
        last_updated=datetime(2026, 1, 1, tzinfo=UTC),
        content=b'{"resourceType":"Patient","id":"jane-canary","name":"Canary"}',
    )

    with pytest.raises(BackendError) as failure:
        verified_version(stored, deleted=False, stored_hash=0)

    assert "type Patient, version 3, is damaged" in str(failure.value)
    assert "canary" not in str(failure.value).lower()
