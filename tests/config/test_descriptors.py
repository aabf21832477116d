"""A plugin that describes an extension wrongly is refused at start, with its name and why."""

import pytest

from helios_core.cli.commands import app
from helios_core.config.descriptors import COMMANDS, KINDS
from helios_core.config.plugins import find_plugin, installed_plugins, load_plugin
from helios_core.errors import BrokenPlugin
from helios_core.storage import hooks

DESCRIBED = """
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated
import msgspec
from helios_core import *

class Settings(msgspec.Struct, frozen=True, kw_only=True):
    address: str

class Same(Transform):
    def apply(self, resource, key):
        return resource

class Renaming(Same):
    def rename(self, key):
        return key.id

LABEL = Coding(system="urn:x", code="y")

@asynccontextmanager
async def opening(*given):
    yield None

def common(**replaced):
    return {{"api_level": API_LEVEL, "settings": Settings, "open": opening}} | replaced

@hookimpl
def {hook}():
    return {offer}
"""


def load(install, hook, offer, *, name="odd"):
    install(name, DESCRIBED.format(hook=hook, offer=offer))
    choices = installed_plugins()
    return load_plugin(find_plugin(name, choices, setting="HFS_PLUGINS"))


GOOD = {
    "helios_command": "CommandExtension(api_level=1, settings=Settings, command=print)",
    "helios_routes": "RouteExtension(**common(), public=True)",
    "helios_health_checks": "HealthExtension(**common())",
    "helios_transform": "TransformExtension(**common(), implementation=Same,"
    " effect=TransformEffect(tags=(LABEL,)))",
    "helios_observer": "ObserverExtension(**common())",
}


@pytest.mark.parametrize("hook", GOOD)
def test_a_good_descriptor_is_taken_with_its_settings(install, hook):
    plugin = load(install, hook, GOOD[hook])

    assert list(plugin.extensions) == [KINDS[hook][0]]
    assert [variable.name for variable in plugin.variables] == ["HFS_ODD_ADDRESS"]


def transform(effect="tags=(LABEL,)", implementation="Same"):
    return (
        f"TransformExtension(**common(), implementation={implementation},"
        f" effect=TransformEffect({effect}))"
    )


BAD = [
    ("helios_command", "'serve'", "not a CommandExtension as command"),
    ("helios_command", "CommandExtension(api_level=1, command=7)", "command is not callable"),
    (
        "helios_command",
        "CommandExtension(api_level=1, command=print, name='Two words')",
        "lower-case words joined by hyphens",
    ),
    (
        "helios_command",
        "CommandExtension(api_level=1, command=print, name='serve')",
        "helios serve is one of the server's own",
    ),
    ("helios_routes", "RouteExtension(**common(), public='yes')", "public is neither true nor"),
    ("helios_routes", "RouteExtension(**common(open=1), public=True)", "open is not callable"),
    ("helios_routes", "HealthExtension(**common())", "not a RouteExtension as routes"),
    (
        "helios_health_checks",
        "HealthExtension(**common(), time_limit=timedelta(seconds=6))",
        "above 0 and at most 5 seconds",
    ),
    ("helios_health_checks", "HealthExtension(**common(), time_limit=2)", "not a timedelta"),
    (
        "helios_observer",
        "ObserverExtension(**common(), time_limit=timedelta())",
        "not a timedelta above 0",
    ),
    ("helios_observer", "ObserverExtension(**common(api_level=9))", "written for level 9"),
    ("helios_observer", "ObserverExtension(**common(settings=dict))", "not a msgspec.Struct"),
    (
        "helios_observer",
        "ObserverExtension(**common(settings=msgspec.defstruct('S', [('x', 'nowhere')])))",
        "cannot be described",
    ),
    ("helios_observer", "1 / 0", "fails to describe itself: ZeroDivisionError"),
    ("helios_transform", transform(implementation="dict"), "TransformExtension of a Transform"),
    ("helios_transform", transform(implementation="Same()"), "TransformExtension of a Transform"),
    (
        "helios_transform",
        "TransformExtension(**common(), implementation=Same, effect=None)",
        "effect is not a TransformEffect",
    ),
    (
        "helios_transform",
        transform("types=frozenset({'Patiens'}), tags=(LABEL,)"),
        "'Patiens', which is a resource type of no FHIR version",
    ),
    ("helios_transform", transform("types=frozenset(), tags=(LABEL,)"), "called for no type"),
    ("helios_transform", transform(""), "adds no code to meta.security or meta.tag"),
    ("helios_transform", transform("changes=False, drops=False"), "neither changes nor drops"),
    ("helios_transform", transform("changes=False, tags=(LABEL,)"), "says that it changes none"),
    ("helios_transform", transform("tags=({'code': 'x'},)"), "not Codings"),
    ("helios_transform", transform("tags=(LABEL,), rest='open'"), "one of helios_core.RestReads"),
    (
        "helios_transform",
        transform(implementation="Renaming"),
        "RestReads.WITHHELD or RestReads.UNTOUCHED",
    ),
    (
        "helios_transform",
        transform("changes=False, rest=RestReads.WITHHELD", implementation="Renaming"),
        "gives resources other ids and says that it changes none",
    ),
]


@pytest.mark.parametrize(("hook", "offer", "said"), BAD)
def test_a_bad_descriptor_is_refused_with_the_plugins_name(install, hook, offer, said):
    with pytest.raises(BrokenPlugin) as caught:
        load(install, hook, offer)

    assert str(caught.value).startswith("plugin odd of helios-odd 1.2 ")
    assert said in str(caught.value)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_plugin_replaces_a_command_of_the_server(install, name):
    with pytest.raises(BrokenPlugin, match=f"helios {name} is one of the server's own"):
        load(install, "helios_command", GOOD["helios_command"], name=name)


def test_the_servers_own_commands_are_known():
    assert sorted(COMMANDS) == sorted(app.commands)


def test_every_hook_has_a_descriptor():
    assert set(KINDS) == {name for name in vars(hooks) if name.startswith("helios_")}
