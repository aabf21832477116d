"""Choosing what the configuration selects, and opening it."""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from helios_core.config.matrix import power_names
from helios_core.config.selection import (
    SIDECAR,
    configure,
    migrate,
    open_backends,
    select,
    selected_names,
)
from helios_core.config.settings import Settings
from helios_core.errors import BrokenPlugin, ConfigurationError, DuplicatePlugin, UnknownPlugin
from helios_core.fhir import AnyId
from helios_core.memory import (
    MemoryDataProvider,
    MemoryJobStore,
    MemoryOutputStore,
    MemorySearchIndex,
)
from helios_core.storage.backends import Reach
from helios_core.testing import corpus, write
from tests.config.conftest import PROVIDER_ONLY

MEMORY = {"HFS_STORAGE_BACKEND": "memory", "HFS_BULK_EXPORT_OUTPUT_BACKEND": "memory"}

PROVIDER_FOR_MANY = """
from msgspec.structs import replace
from helios_core import Reach, hookimpl, memory

@hookimpl
def helios_data_provider():
    return replace(memory.helios_data_provider(), reach=Reach.MACHINES)
"""

ALL_FOR_MANY = (
    PROVIDER_FOR_MANY
    + """
@hookimpl
def helios_job_store():
    return replace(memory.helios_job_store(), reach=Reach.MACHINES)

@hookimpl
def helios_output_store():
    return replace(memory.helios_output_store(), reach=Reach.MACHINES)
"""
)

SETTINGS = """
from contextlib import asynccontextmanager
from typing import Annotated
import msgspec
from helios_core.errors import ConfigurationError
from helios_core import API_LEVEL, Backend, hookimpl
from helios_core.memory import MemoryOutputStore

class PickySettings(msgspec.Struct, frozen=True, kw_only=True):
    bucket: str
    size: Annotated[int, msgspec.Meta(ge=1)] = 1

    def __post_init__(self):
        if self.bucket == "forbidden":
            raise ConfigurationError("the bucket is forbidden")

@asynccontextmanager
async def open(settings):
    yield MemoryOutputStore()

@hookimpl
def helios_output_store():
    return Backend(
        api_level=API_LEVEL, implementation=MemoryOutputStore, settings=PickySettings, open=open
    )
"""


def refusal(**environ: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        configure(MEMORY | environ)
    return caught.value


def test_nothing_set_selects_sqlite_and_local_files(tmp_path):
    selection = configure({"HFS_DATA_DIR": str(tmp_path)})

    chosen = (selection.data_provider, selection.job_store, selection.output_store)
    assert [backend.plugin.origin.name for backend in chosen] == ["sqlite", "sqlite", "localfs"]


def test_local_fs_is_the_plugin_localfs():
    assert selected_names(Settings()) == {"sqlite", "localfs"}


def test_what_is_not_selected_is_not_imported(install):
    install("unused", "raise RuntimeError")

    selection = configure(MEMORY)

    assert [plugin.origin.name for plugin in selection.plugins] == ["memory"]
    assert "helios_unused" not in sys.modules


def test_a_storage_without_jobs_gets_a_sqlite_database_beside_the_output(install, tmp_path):
    install("lake", PROVIDER_ONLY)

    selection = configure(
        {
            "HFS_STORAGE_BACKEND": "lake",
            "HFS_BULK_EXPORT_OUTPUT_DIR": str(tmp_path),
            "HFS_DATABASE_URL": "lake://elsewhere",
        }
    )

    assert selection.job_store.plugin.origin.name == "sqlite"
    assert selection.job_store.settings.path == tmp_path / SIDECAR


async def test_the_sidecar_opens(install, tmp_path):
    install("lake", PROVIDER_ONLY)
    settings = Settings(storage_backend="lake", data_dir=tmp_path)

    async with open_backends(settings) as backends:
        assert isinstance(backends.data_provider, MemoryDataProvider)
        assert (
            await backends.job_store.removable(completed_before=timedelta(days=1), limit=1) == []
        )

    assert (tmp_path / "exports" / SIDECAR).exists()


async def test_what_is_selected_is_opened_and_bound():
    settings = Settings(storage_backend="memory", bulk_export_output_backend="memory")

    async with open_backends(settings) as backends:
        assert isinstance(backends.job_store, MemoryJobStore)
        assert isinstance(backends.output_store, MemoryOutputStore)
        await backends.output_store.bind(backends.job_store.identity)
        with pytest.raises(ConfigurationError):
            await backends.output_store.bind("another job store")


async def test_output_of_another_job_store_is_refused(tmp_path):
    output = tmp_path / "output"
    first = Settings(data_dir=tmp_path / "a", bulk_export_output_dir=output)
    second = Settings(data_dir=tmp_path / "b", bulk_export_output_dir=output)

    async with open_backends(first):
        pass

    with pytest.raises(ConfigurationError, match="HFS_BULK_EXPORT_OUTPUT_DIR"):
        async with open_backends(second):
            pass


async def test_two_processes_may_share_one_database_and_its_output(tmp_path):
    settings = Settings(data_dir=tmp_path)

    async with open_backends(settings) as one, open_backends(settings) as two:
        assert one.job_store.identity == two.job_store.identity


def test_an_unknown_name_is_told_with_the_nearest():
    error = refusal(HFS_SERVER_PROT="1")

    assert str(error).startswith("HFS_SERVER_PROT is not a setting")
    assert str(error).endswith("the nearest is HFS_SERVER_PORT")


def test_an_unknown_names_value_is_not_shown():
    assert "hush" not in str(refusal(HFS_SECRET_THING="hush"))


def test_a_selected_plugins_misspelt_setting_is_told():
    with pytest.raises(ConfigurationError, match="nearest is HFS_SQLITE_SYNCHRONOUS"):
        configure({"HFS_SQLITE_SYNCHRONUS": "full"})


def test_settings_of_an_idle_plugin_are_no_problem():
    assert configure(MEMORY | {"HFS_SQLITE_WHATEVER": "1"}).settings.storage_backend == "memory"


def test_every_problem_is_told_at_once(install):
    install("picky", SETTINGS)

    error = refusal(
        HFS_BULK_EXPORT_OUTPUT_BACKEND="picky",
        HFS_STORAGE_BACKEND="nosuch",
        HFS_PICKY_SIZE="0",
        HFS_SERVER_PORT="x",
        HFS_LOG_LEVL="info",
        HFS_PLUGINS="ghost",
    )

    lines = str(error).splitlines()
    assert lines[0] == "6 problems in the configuration:"
    told = ("HFS_SERVER_PORT", "nosuch", "HFS_PICKY_BUCKET", "HFS_PICKY_SIZE", "HFS_LOG_LEVL")
    for name in (*told, "ghost"):
        assert any(name in line for line in lines[1:]), name


def test_problems_of_one_kind_keep_their_kind():
    error = refusal(HFS_STORAGE_BACKEND="nosuch", HFS_BULK_EXPORT_OUTPUT_BACKEND="neither")

    assert type(error) is UnknownPlugin


def test_one_problem_of_a_shared_backend_is_told_once():
    with pytest.raises(ConfigurationError) as caught:
        configure({"HFS_SQLITE_BUSY_TIMEOUT": "-1"})

    assert str(caught.value).count("HFS_SQLITE_BUSY_TIMEOUT") == 1


def test_a_plugin_can_refuse_its_settings(install):
    install("picky", SETTINGS)

    error = refusal(HFS_BULK_EXPORT_OUTPUT_BACKEND="picky", HFS_PICKY_BUCKET="forbidden")

    assert "the bucket is forbidden" in str(error)


def test_a_plugin_that_lacks_the_role_is_refused():
    error = refusal(HFS_STORAGE_BACKEND="localfs")

    assert isinstance(error, BrokenPlugin)
    assert "needs a data provider" in str(error)
    assert "offers output store" in str(error)


def test_a_search_index_follows_the_data_provider_behind_a_hyphen():
    selection = configure(MEMORY | {"HFS_STORAGE_BACKEND": "sqlite-memory"})

    assert selection.data_provider.plugin.origin.name == "sqlite"
    assert selection.search_index.plugin.origin.name == "memory"
    assert selection.job_store.plugin.origin.name == "sqlite"
    assert configure(MEMORY).search_index is None


@pytest.mark.parametrize("name", ["-memory", "memory-", "memory-memory-memory", "-"])
def test_a_search_index_is_one_name_behind_another(name):
    error = refusal(HFS_STORAGE_BACKEND=name)

    assert f"HFS_STORAGE_BACKEND is '{name}'; allowed is the name of a plugin" in str(error)


def test_a_search_index_that_is_not_installed_is_refused():
    error = refusal(HFS_STORAGE_BACKEND="memory-nowhere")

    assert isinstance(error, UnknownPlugin)
    assert "HFS_STORAGE_BACKEND selects plugin nowhere" in str(error)


def test_a_plugin_without_a_search_index_is_refused_as_one():
    error = refusal(HFS_STORAGE_BACKEND="memory-localfs")

    assert isinstance(error, BrokenPlugin)
    assert "needs a search index" in str(error)


async def test_a_data_provider_with_an_index_has_its_powers_and_is_followed():
    settings = configure(MEMORY | {"HFS_STORAGE_BACKEND": "memory-memory"}).settings
    async with open_backends(settings) as backends:
        provider, indexer = backends.data_provider, backends.indexer
        assert not isinstance(provider, MemoryDataProvider)
        assert power_names(type(provider)) == power_names(MemoryDataProvider)
        assert backends.reach is Reach.PROCESS
        await write(provider, corpus.patient("p1"))
        await indexer.follow()
        [row] = await indexer.status()
        assert (row.state, row.entries) == ("following", 1)
    async with open_backends(configure(MEMORY).settings) as backends:
        assert backends.indexer is None


async def test_no_look_up_in_an_index_outlives_the_backends(monkeypatch):
    """Whoever asked for it first is gone, and others might have waited for it."""
    asked = asyncio.Event()

    async def silent(_index, _scope):
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(MemorySearchIndex, "state", silent)
    settings = configure(MEMORY | {"HFS_STORAGE_BACKEND": "memory-memory"}).settings
    before = asyncio.all_tasks()
    async with open_backends(settings) as backends:
        provider = backends.data_provider
        await write(provider, corpus.patient("p1"))
        view = corpus.view(await provider.transaction_time())
        [shard] = await provider.plan(view, shard_bytes=1 << 20)
        prefilter = AnyId(frozenset({"p1"}))
        batches = provider.read_candidates(view, shard, prefilter, batch_bytes=1 << 20)
        reading = asyncio.ensure_future(anext(batches))
        await asked.wait()
        reading.cancel()
        await asyncio.wait({reading})
        assert asyncio.all_tasks() > before

    assert asyncio.all_tasks() == before


def test_a_selected_duplicate_is_refused(install):
    install("pair", distribution="helios-one")
    install("pair", distribution="helios-two")

    assert isinstance(refusal(HFS_PLUGINS="pair"), DuplicatePlugin)


def test_a_cluster_refuses_what_one_machine_only_can_use_all_at_once():
    with pytest.raises(ConfigurationError) as caught:
        configure({"HFS_CLUSTER": "true"})

    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 3
    for setting in ("HFS_BASE_URL", "HFS_STORAGE_BACKEND", "HFS_BULK_EXPORT_OUTPUT_BACKEND"):
        assert [setting in line for line in lines].count(True) == 1
    assert all("HFS_CLUSTER" in line for line in lines)
    assert sum("whose reach is one machine" in line for line in lines) == 2
    assert sum("helios-fhir[cluster]" in line for line in lines) == 2


def test_a_cluster_refuses_the_job_database_beside_the_output(install):
    install("lake", PROVIDER_FOR_MANY)
    install("cloud", ALL_FOR_MANY)

    error = refusal(
        HFS_CLUSTER="true",
        HFS_BASE_URL="https://fhir.example.org",
        HFS_STORAGE_BACKEND="lake",
        HFS_BULK_EXPORT_OUTPUT_BACKEND="cloud",
    )

    start = "HFS_STORAGE_BACKEND (lake, which has no job store) selects plugin sqlite"
    assert str(error).startswith(start)


def test_a_cluster_takes_what_many_machines_can_use(install):
    install("cloud", ALL_FOR_MANY)
    environ = {
        "HFS_CLUSTER": "true",
        "HFS_BASE_URL": "https://fhir.example.org",
        "HFS_STORAGE_BACKEND": "cloud",
        "HFS_BULK_EXPORT_OUTPUT_BACKEND": "cloud",
    }

    assert configure(environ).settings.cluster


async def test_one_database_is_migrated_once(tmp_path: Path):
    done = await migrate(select(Settings(data_dir=tmp_path)))

    assert [name for name, _ in done] == ["sqlite"]
    assert all(what for _, what in done)


async def test_backends_without_schema_need_no_migration():
    assert await migrate(configure(MEMORY)) == []
