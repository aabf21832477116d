import stat
from pathlib import Path

import pytest

from helios_core import ConfigurationError
from helios_core.testing import PART, list_jobs, store_part
from helios_localfs import LocalOutputStore

BIND = """
import asyncio, sys
from pathlib import Path
from helios_core import ConfigurationError
from helios_localfs import LocalOutputStore

print("ready", flush=True)
sys.stdin.readline()
try:
    asyncio.run(LocalOutputStore(Path(sys.argv[1])).bind(sys.argv[2]))
except ConfigurationError as error:
    print(error)
else:
    print("bound")
"""


async def test_the_folder_is_created_for_the_server_alone(store, root):
    await store.bind("clinic-db")

    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert [path.name for path in root.iterdir()] == [".helios-owner"]
    assert (root / ".helios-owner").read_text() == "clinic-db\n"


async def test_a_folder_in_an_output_folder_is_refused(store, root):
    await store.bind("clinic-db")

    with pytest.raises(ConfigurationError, match="lies in the output folder"):
        await LocalOutputStore(root / "other/exports").bind("other-db")

    assert [path.name for path in root.iterdir()] == [".helios-owner"]


async def test_folders_above_are_created(tmp_path):
    await LocalOutputStore(tmp_path / "a/b/c").bind("owner")

    assert (tmp_path / "a/b/c/.helios-owner").exists()


async def test_the_refusal_names_owner_folder_and_setting(store, root):
    await store.bind("db-one")

    with pytest.raises(ConfigurationError) as refusal:
        await LocalOutputStore(root).bind("db-two")

    for fact in ["db-one", "db-two", str(root), "HFS_BULK_EXPORT_OUTPUT_DIR"]:
        assert fact in str(refusal.value)


async def test_a_file_in_the_place_of_the_folder_is_refused(store, root):
    root.write_text("not a folder")

    with pytest.raises(ConfigurationError, match="is not a folder"):
        await store.bind("owner")


async def test_a_file_above_the_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(ConfigurationError, match="is not a folder"):
        await LocalOutputStore(tmp_path / "file/exports").bind("owner")


@pytest.mark.parametrize("folder", ["/proc/exports", "/proc/self"])
async def test_a_folder_that_cannot_be_written_is_refused(folder):
    with pytest.raises(ConfigurationError, match="HFS_BULK_EXPORT_OUTPUT_DIR"):
        await LocalOutputStore(Path(folder)).bind("owner")


async def test_a_folder_that_became_read_only_is_refused_at_the_next_start(
    small_disk, make_read_only
):
    await LocalOutputStore(small_disk).bind("owner")
    make_read_only(small_disk)

    with pytest.raises(ConfigurationError, match="mounted read-only"):
        await LocalOutputStore(small_disk).bind("owner")


async def test_a_full_disk_is_refused_with_the_reason(small_disk):
    (small_disk / "ballast").write_bytes(b"a" * 4 * 1024 * 1024)

    with pytest.raises(ConfigurationError, match="out of space"):
        await LocalOutputStore(small_disk).bind("owner")


async def test_a_folder_with_somebody_elses_folders_is_refused(store, root):
    (root / "photos/2024").mkdir(parents=True)

    with pytest.raises(ConfigurationError, match=r"no Helios server made .*photos"):
        await store.bind("owner")

    assert not (root / ".helios-owner").exists()


async def test_a_folder_with_files_and_what_file_systems_make_is_taken(store, root):
    (root / "lost+found").mkdir(parents=True)
    (root / "bulk_export.db").touch()

    await store.bind("owner")

    assert await list_jobs(store) == []


async def test_a_folder_in_use_is_bound_again(store, root):
    await store.bind("owner")
    await store_part(store, PART, b"content")

    await LocalOutputStore(root).bind("owner")

    assert sorted(path.name for path in root.iterdir()) == [".helios-owner", "clinic"]


@pytest.mark.crash
def test_of_processes_that_start_at_once_one_owner_wins(root, python):
    processes = [python(BIND, root, f"owner-{number % 3}") for number in range(6)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"

    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate()[0] for process in processes]

    winner = (root / ".helios-owner").read_text().strip()
    expected = [f"owner-{number % 3}" == winner for number in range(6)]
    assert [answer == "bound\n" for answer in answers] == expected
    assert [path.name for path in root.iterdir()] == [".helios-owner"]
