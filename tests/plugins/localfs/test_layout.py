from pathlib import Path

import msgspec

from helios_core import Compression, PartKind
from helios_core.testing import PART
from helios_localfs.layout import part_path, subfolders


def test_a_part_lies_in_its_job_in_its_tenant():
    key = msgspec.structs.replace(PART, kind=PartKind.DELETED, ordinal=3, number=4, token=5)

    assert part_path(Path("/out"), key) == Path("/out/clinic/job-1/deleted-Patient-3-4-5.ndjson")


def test_a_compressed_part_says_so():
    key = msgspec.structs.replace(PART, compression=Compression.GZIP)

    assert part_path(Path("/out"), key).name == "output-Patient-1-1-1.ndjson.gz"


def test_only_visible_folders_count_as_tenants_and_jobs(tmp_path):
    for name in ["b", "a", ".hidden", "lost+found"]:
        (tmp_path / name).mkdir()
    (tmp_path / "bulk_export.db").touch()

    assert subfolders(tmp_path) == ["a", "b"]


def test_an_absent_folder_and_a_file_have_no_folders(tmp_path):
    (tmp_path / "file").touch()

    assert subfolders(tmp_path / "absent") == []
    assert subfolders(tmp_path / "file") == []
