"""A full disk ends a job with the reason, lists nothing half-written, and is survived."""

import subprocess
import time

import pytest

from tests.processes import POLL_SECONDS, names

pytestmark = pytest.mark.crash


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root: run the tests as root to enable this one")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_an_export_onto_a_full_disk_fails_clearly_and_a_later_one_works(
    loaded, population, small_disk
):
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 900_000)
    loaded.settings |= {
        "HFS_BULK_EXPORT_OUTPUT_DIR": str(small_disk),
        "HFS_BULK_EXPORT_MAX_ATTEMPTS": "1",
    }
    _, client = loaded.serve()

    status = client.kick_off()
    while (response := client.http.get(status)).status_code == 202:
        time.sleep(POLL_SECONDS)

    assert response.status_code == 500
    outcome = response.json()
    assert outcome["resourceType"] == "OperationOutcome"
    assert "space" in str(outcome)
    assert client.http.get(status).status_code == 500
    assert client.http.delete(status).status_code == 202
    filler.unlink()
    wanted = [name for name in population[1] if name.startswith("Patient/")]
    assert names(client.export(_type="Patient")) == wanted
