"""Which processes may share which folders."""

import pytest

from tests.pace import wait_for_end
from tests.processes import Site


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.end()


def refusal(process) -> str:
    assert wait_for_end(process.process) == 2
    return process.output()


def test_two_servers_on_one_database_share_its_resources_and_exports(site):
    clients = [site.serve()[1] for _ in range(2)]
    clients[0].put({"resourceType": "Patient", "id": "p1"})

    status = clients[0].kick_off()

    assert clients[1].http.get("/Patient/p1").status_code == 200
    assert [r["id"] for r in clients[1].resources(clients[1].manifest(status))] == ["p1"]


def test_the_output_folder_of_another_database_is_refused(site, tmp_path):
    site.serve()
    other = str(tmp_path / "other.db")

    process = site.start("serve", HFS_DATABASE_URL=f"sqlite:///{other}")

    said = refusal(process)
    assert "HFS_BULK_EXPORT_OUTPUT_DIR" in said
    assert "Traceback" not in said


def test_an_output_folder_that_cannot_be_written_is_refused_with_the_reason(site, tmp_path):
    (tmp_path / "file").write_text("not a folder")

    process = site.start("serve", HFS_BULK_EXPORT_OUTPUT_DIR=str(tmp_path / "file"))

    said = refusal(process)
    assert "HFS_BULK_EXPORT_OUTPUT_DIR" in said
    assert "Traceback" not in said


def test_every_wrong_setting_is_reported_at_once(site):
    process = site.start(
        "serve", HFS_SERVER_PORTT="1", HFS_BULK_EXPORT_OUTPUT_TTL="soon", HFS_STORAGE_BACKEND="x"
    )

    said = refusal(process)
    assert "HFS_SERVER_PORTT" in said
    assert "HFS_SERVER_PORT" in said
    assert "HFS_BULK_EXPORT_OUTPUT_TTL" in said
