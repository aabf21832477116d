from pathlib import Path

import msgspec

import helios_localfs
from helios_core import API_LEVEL
from helios_core.testing import PART, read_part, store_part
from helios_localfs import LocalFSSettings, LocalOutputStore


def test_the_hook_describes_the_store():
    backend = helios_localfs.helios_output_store()

    assert backend.api_level == API_LEVEL
    assert backend.implementation is LocalOutputStore
    assert backend.migrate is None


async def test_an_opened_store_keeps_parts_in_the_configured_folder(tmp_path):
    backend = helios_localfs.helios_output_store()
    settings = backend.settings(output_dir=str(tmp_path / "out"))

    async with backend.open(settings) as store:
        await store.bind("owner")
        await store_part(store, PART, b"content")

        assert await read_part(store, PART) == b"content"
    assert [path.name for path in (tmp_path / "out/clinic/job-1").iterdir()] == [
        "output-Patient-1-1-1.ndjson"
    ]


def test_the_folder_lies_beside_the_data_unless_it_is_named(tmp_path):
    assert LocalFSSettings(data_dir=str(tmp_path)).root == tmp_path / "exports"
    assert LocalFSSettings().root == Path.cwd() / "data/exports"
    assert LocalFSSettings(output_dir="/srv/out").root == Path("/srv/out")


def test_the_settings_are_those_of_the_core():
    fields = msgspec.inspect.type_info(LocalFSSettings).fields

    assert {field.name: field.type.extra["setting"] for field in fields} == {
        "output_dir": "HFS_BULK_EXPORT_OUTPUT_DIR",
        "data_dir": "HFS_DATA_DIR",
    }
