"""The capability matrix."""

from collections.abc import Collection

import msgspec
import pytest

from helios_core.config.matrix import (
    DATA_PROVIDERS,
    JOB_STORES,
    OUTPUT_STORES,
    POWERS,
    matrix,
    power_names,
    with_problem,
)
from helios_core.config.plugins import Plugin, load_all_plugins
from helios_core.memory import MemoryDataProvider, MemoryOutputStore
from tests.config.conftest import PROVIDER_ONLY, install

__all__ = ["install"]

SELECTED = ("sqlite", "local-fs")

EVERY_POWER = [
    *("write", "history", "history of types", "change feed", "search", "filter index", "deletions")
]
"""The names of the powers of a complete data provider."""


def rows(*, known: bool = False, without: Collection[str] = (), job_store: str = "auto"):
    """Return the matrix as if some of the plugins were not installed."""
    plugins = [
        plugin
        for plugin in load_all_plugins()
        if not (isinstance(plugin, Plugin) and plugin.origin.name in without)
    ]
    listed = matrix(plugins, selected=SELECTED, known=known, job_store=job_store)
    return {(row.data_provider, row.output_store): row for row in listed}


def test_installed_combinations_are_listed():
    found = rows()

    assert {("sqlite", "local-fs"), ("memory", "memory")} <= found.keys()
    assert all(row.works for row in found.values())


def test_only_the_configured_combination_is_selected():
    assert [key for key, row in rows().items() if row.selected] == [SELECTED]


def test_all_lists_every_known_combination_once():
    found = rows(known=True)

    for provider in DATA_PROVIDERS:
        for output in OUTPUT_STORES:
            assert (provider, output) in found
            assert (f"{provider}-elasticsearch", output) in found


def test_what_does_not_work_says_why():
    found = rows(known=True, without={"mongodb"}).values()
    unworkable = [row for row in found if not row.works]

    assert unworkable
    assert all(row.reason and not row.capabilities and not row.job_store for row in unworkable)


EVERYTHING = {"sqlite", "postgres", "mongodb", "s3", "localfs"}


@pytest.mark.parametrize(
    ("row", "extras"),
    [
        (("sqlite", "local-fs"), "localfs,sqlite"),
        (("postgres", "local-fs"), "localfs,postgres"),
        (("mongodb", "s3"), "mongodb,s3"),
        (("s3", "local-fs"), "localfs,s3,sqlite"),
        (("s3", "s3"), "s3,sqlite"),
    ],
)
def test_a_row_names_the_extras_that_it_needs_and_no_other(row, extras):
    found = rows(known=True, without=EVERYTHING)[row]

    assert found.install == f"helios-fhir[{extras}]"
    assert found.reason == f"install {found.install}"


def test_what_is_installed_is_not_to_be_installed():
    assert rows(known=True, without={"localfs"})[SELECTED].install == "helios-fhir[localfs]"
    assert {row.install for row in rows().values()} == {""}


def test_the_chosen_job_store_is_among_what_is_to_be_installed():
    found = rows(known=True, without=EVERYTHING, job_store="mongodb")

    assert found["sqlite", "s3"].install == "helios-fhir[mongodb,s3,sqlite]"


def test_a_broken_plugin_is_not_to_be_installed_but_named(install):
    install("sqlite", "import nothing_like_that")

    row = rows(known=True, without={"sqlite"})[SELECTED]

    assert row.install == ""
    assert "sqlite" in row.reason
    assert "nothing_like_that" in row.reason


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("missing", ["sqlite", "localfs"])
def test_what_is_selected_has_a_row_with_advice_though_it_is_not_installed(known, missing):
    row = rows(known=known, without={missing})[SELECTED]

    assert row.selected
    assert row.reason == f"install helios-fhir[{missing}]"


def test_a_problem_of_the_configuration_stands_behind_what_has_to_be_installed():
    found = rows(known=True, without={"sqlite"}).values()

    assert with_problem(found, "anything")[0].reason == "install helios-fhir[sqlite]"
    [row] = with_problem([rows()[SELECTED]], "HFS_DATABASE_URL is wrong")
    assert (row.works, row.reason) == (False, "HFS_DATABASE_URL is wrong")


def test_a_misspelt_job_store_is_reported_as_the_configuration_reports_it():
    [row] = with_problem([rows(job_store="sqlitee")[SELECTED]], "the nearest is sqlite")

    assert row.reason == "the nearest is sqlite"


def test_a_row_has_the_settings_that_select_it_and_names_those_without_a_default():
    row = rows()["postgres", "s3"]

    assert row.settings == {
        "HFS_STORAGE_BACKEND": "postgres",
        "HFS_BULK_EXPORT_OUTPUT_BACKEND": "s3",
    }
    assert row.required == ("HFS_DATABASE_URL", "HFS_BULK_EXPORT_S3_BUCKET")
    assert rows()["s3", "local-fs"].required == ("HFS_S3_BUCKET",)
    assert rows()[SELECTED].required == ()


def test_jobs_in_another_database_need_its_address():
    required = rows(job_store="postgres")["sqlite", "local-fs"].required

    assert required == ("HFS_BULK_EXPORT_JOB_STORE_URL",)


def test_the_job_stores_of_this_release_are_known_without_being_installed():
    offered = {
        plugin.origin.name
        for plugin in load_all_plugins()
        if isinstance(plugin, Plugin) and plugin.job_store
    }

    assert offered - {"memory"} == set(JOB_STORES)


def test_an_installed_plugin_that_lacks_the_role_is_told_so():
    plugins = [
        msgspec.structs.replace(item, data_provider=None) if item.origin.name == "s3" else item
        for item in load_all_plugins()
        if isinstance(item, Plugin)
    ]

    found = {
        (row.data_provider, row.output_store): row
        for row in matrix(plugins, selected=SELECTED, known=True)
    }

    assert found["s3", "local-fs"].reason == "not part of this release: s3 as data provider"


def test_resources_and_output_may_both_be_in_buckets():
    row = rows()["s3", "s3"]

    assert row.works
    assert (row.job_store, row.reach) == ("sqlite beside the output", "one machine")


def test_capabilities_are_the_powers_of_both_sides():
    row = rows()[SELECTED]

    assert {capability.name for capability in row.capabilities} == {name for _, name in POWERS}
    able = {capability.name for capability in row.capabilities if capability.works}
    assert able == set(EVERY_POWER)


def test_a_lacking_power_says_which():
    row = rows()[SELECTED]

    reasons = [capability.reason for capability in row.capabilities if not capability.works]
    assert reasons == ["the output store lacks SupportsSignedURLs"]


def test_a_combination_reaches_as_far_as_its_nearest_part():
    assert rows()[SELECTED].reach == "one machine"
    assert rows()["sqlite", "memory"].reach == "one process"
    assert rows()["postgres", "local-fs"].reach == "one machine"
    assert rows()["postgres", "s3"].reach == "many machines"


def test_what_does_not_work_reaches_nowhere():
    found = rows(known=True, without={"mongodb"}).values()
    assert {row.reach for row in found if not row.works} == {""}


def test_a_data_provider_with_a_job_store_keeps_its_jobs_itself():
    assert rows()[SELECTED].job_store == "sqlite"


def test_a_data_provider_without_a_job_store_has_its_jobs_beside_the_output(install):
    install("lake", PROVIDER_ONLY)

    assert rows()["lake", "local-fs"].job_store == "sqlite beside the output"


@pytest.mark.parametrize(
    ("implementation", "expected"),
    [
        (MemoryDataProvider, EVERY_POWER),
        (MemoryOutputStore, []),
        (object, []),
    ],
)
def test_powers_are_read_from_the_class(implementation, expected):
    assert power_names(implementation) == expected
