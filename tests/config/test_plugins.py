"""Finding and importing one plugin."""

import sys

import pytest

from helios_core.config.plugins import (
    Plugin,
    find_plugin,
    installed_plugins,
    load_all_plugins,
    load_plugin,
)
from helios_core.errors import BrokenPlugin, DuplicatePlugin, UnknownPlugin

ODD_LEVEL = """
from msgspec.structs import replace
from helios_core import hookimpl
from helios_core import memory

@hookimpl
def helios_job_store():
    return replace(memory.helios_job_store(), api_level=99)
"""

ODD_REACH = """
from msgspec.structs import replace
from helios_core import hookimpl
from helios_core import memory

@hookimpl
def helios_job_store():
    return replace(memory.helios_job_store(), reach="the moon")
"""

WRONG_ROLE = """
from helios_core import hookimpl
from helios_core import memory

@hookimpl
def helios_job_store():
    return memory.helios_output_store()
"""

MISSPELT = """
from helios_core import hookimpl

@hookimpl
def helios_data_provder():
    return None
"""

WRONG_ARGUMENT = """
from helios_core import hookimpl

@hookimpl
def helios_observer(task):
    return None
"""

FAILING_HOOK = """
from helios_core import hookimpl

@hookimpl
def helios_output_store():
    raise KeyError("region")
"""


def named(name):
    return find_plugin(name, installed_plugins(), setting="HFS_STORAGE_BACKEND")


def test_what_is_installed_is_known_without_importing_it(install):
    install("fresh", "raise SystemExit")

    plugin = named("fresh")

    assert str(plugin) == "plugin fresh of helios-fresh 1.2"
    assert "helios_fresh" not in sys.modules


def test_the_plugins_of_this_repository_are_installed():
    assert {"sqlite", "localfs", "memory"} <= {plugin.name for plugin in installed_plugins()}


def test_a_distribution_seen_twice_on_the_path_counts_once(install):
    install("twin", distribution="helios-twin")
    install("twin", distribution="helios-twin")

    assert named("twin").distribution == "helios-twin"


def test_an_unknown_plugin_is_told_with_what_is_installed_and_meant():
    with pytest.raises(UnknownPlugin) as caught:
        named("sqlit")

    message = str(caught.value)
    assert message.startswith("HFS_STORAGE_BACKEND selects plugin sqlit, which is not installed")
    assert "localfs, memory, " in message
    assert message.endswith("the nearest is sqlite")


def test_an_unknown_plugin_with_an_extra_is_told_which_to_install():
    others = [plugin for plugin in installed_plugins() if plugin.name != "localfs"]

    with pytest.raises(UnknownPlugin, match=r"install helios-fhir\[localfs\]$"):
        find_plugin("localfs", others, setting="HFS_BULK_EXPORT_OUTPUT_BACKEND")


def test_a_name_claimed_twice_is_told_with_both_distributions(install):
    install("pair", distribution="helios-one")
    install("pair", distribution="helios-two")

    with pytest.raises(DuplicatePlugin, match=r"helios-one 1\.2 and helios-two 1\.2"):
        named("pair")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named"),
        ("def broken(:", "SyntaxError"),
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("raise SystemExit('no licence')", "SystemExit: no licence"),
        (ODD_LEVEL, "written for level 99 of the plugin contract and this is level 1"),
        (ODD_REACH, "reach 'the moon'"),
        (WRONG_ROLE, "not a Backend of a JobStore"),
        (MISSPELT, "helios_data_provder"),
        (WRONG_ARGUMENT, "task"),
        (FAILING_HOOK, "fails to describe itself: KeyError('region')"),
    ],
)
def test_a_broken_plugin_is_told_with_its_distribution_and_reason(install, source, told):
    install("broken", source)

    with pytest.raises(BrokenPlugin) as caught:
        load_plugin(named("broken"))

    assert "plugin broken of helios-broken 1.2" in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize("name", ["Loud", "local-fs", "1st", "a.b"])
def test_a_name_that_cannot_name_settings_is_refused(install, name):
    install(name, distribution="helios-odd")

    with pytest.raises(BrokenPlugin, match="lower-case word"):
        load_plugin(named(name))


def test_a_plugin_offers_what_its_hooks_give():
    plugin = load_plugin(named("memory"))

    assert set(plugin.offers) == {"data provider", "job store", "output store", "search index"}
    assert dict(plugin.extensions) == {}


def test_loading_all_tells_what_is_broken_and_goes_on(install):
    install("aaa_broken", "1/0")

    found = list(load_all_plugins())

    broken = [item for item in found if not isinstance(item, Plugin)]
    assert [(origin.name, type(error)) for origin, error in broken] == [
        ("aaa_broken", BrokenPlugin)
    ]
    assert {item.origin.name for item in found if isinstance(item, Plugin)} >= {"sqlite", "memory"}
