from pathlib import Path
from zipfile import ZipFile

import pytest
from helios_zip import ZipOutputStore, helios_output_store

from helios_core import BackendUnavailable, ConfigurationError, OutputStore, PartKey
from helios_core.testing import MIB, PART, OutputStoreSuite, read_part, store_part, yield_chunks


class TestZipOutputStore(OutputStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ZipOutputStore:
        self.root = tmp_path
        return ZipOutputStore(tmp_path, level=1)

    async def raw_names(self, tenant: str, job_id: str) -> list[str]:
        return sorted(path.name for path in self.root.glob(f"{tenant}/{job_id}/*"))

    async def raw_bytes(self, key: PartKey) -> bytes:
        name = f"{key.kind.value}-{key.resource_type}-{key.ordinal}-{key.number}-{key.token}.zip"
        with ZipFile(self.root / key.tenant / key.job_id / name) as archive:
            return archive.read(archive.namelist()[0])

    async def another(self, store: OutputStore) -> OutputStore:
        return ZipOutputStore(self.root, level=1)


async def test_a_part_is_an_archive_that_any_tool_opens(tmp_path):
    await store_part(ZipOutputStore(tmp_path, level=1), PART, b"{}\n" * 1000)

    with ZipFile(tmp_path / "clinic/job-1/output-Patient-1-1-1.zip") as archive:
        assert archive.namelist() == ["Patient-1-1.ndjson"]
        assert archive.testzip() is None


async def test_a_higher_level_gives_a_smaller_archive(tmp_path):
    lines = [b'{"resourceType":"Patient","id":"%d"}\n' % number for number in range(20_000)]
    content = b"".join(lines)

    for level in (1, 9):
        await ZipOutputStore(tmp_path / f"{level}", level=level).put(PART, yield_chunks([content]))

    sizes = [path.stat().st_size for path in sorted(tmp_path.rglob("*.zip"))]
    assert sizes[1] < sizes[0] < len(content)


async def test_a_damaged_archive_is_the_operators_problem(tmp_path):
    store = ZipOutputStore(tmp_path, level=1)
    await store_part(store, PART, b"a" * MIB)
    (tmp_path / "clinic/job-1/output-Patient-1-1-1.zip").write_bytes(b"not a zip archive")

    with pytest.raises(BackendUnavailable, match="not a zip file"):
        await read_part(store, PART)


async def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(ConfigurationError, match="HFS_ZIP_OUTPUT_DIR"):
        await ZipOutputStore(tmp_path / "file", level=1).bind("owner")


async def test_the_plugin_opens_the_store_its_settings_describe(tmp_path):
    backend = helios_output_store()

    async with backend.open(backend.settings(output_dir=str(tmp_path), level=9)) as store:
        await store_part(store, PART, b"content")

    assert list(tmp_path.rglob("*.zip"))
