import msgspec
import pytest

from helios_core.errors import InvalidRequest
from helios_core.model.parts import job_path
from helios_core.testing import PART


def test_a_part_lies_in_its_job_in_its_tenant():
    assert job_path("clinic", "job-1") == "clinic/job-1"
    assert PART.path == "clinic/job-1/output-Patient-1-1-1.ndjson"


@pytest.mark.parametrize("name", ["", ".", "..", "../other", "a/b", "a\\b", ".hidden", "a\0b"])
def test_a_name_that_leaves_its_folder_is_refused(name):
    with pytest.raises(InvalidRequest, match="cannot be part of a path"):
        job_path(name, "job")
    with pytest.raises(InvalidRequest, match="cannot be part of a path"):
        job_path("tenant", name)
    for changes in ({"tenant": name}, {"job_id": name}, {"resource_type": f"{name}/../x"}):
        with pytest.raises(InvalidRequest, match="cannot be part of a path"):
            _ = msgspec.structs.replace(PART, **changes).path
