"""Opening what plugins add to the backends, and closing it again."""

import asyncio
import sys

import pytest

from helios_core.config.selection import configure, open_backends
from helios_core.config.settings import read_settings
from helios_core.errors import BrokenPlugin, ConfigurationError
from helios_core.memory import MemoryDataProvider

MEMORY = {"HFS_STORAGE_BACKEND": "memory", "HFS_BULK_EXPORT_OUTPUT_BACKEND": "memory"}

ALL = """
from contextlib import asynccontextmanager
import msgspec
from helios_core import *

events = []

class Settings(msgspec.Struct, frozen=True, kw_only=True):
    word: str = "unset"

class Same(Transform):
    def apply(self, resource, key):
        return resource

def opening(kind, opened):
    @asynccontextmanager
    async def open(settings, *backends):
        events.append(("open", kind, settings.word, *(type(b).__name__ for b in backends)))
        yield opened
        events.append(("close", kind))
    return {"api_level": API_LEVEL, "settings": Settings, "open": open}

async def check():
    pass

@hookimpl
def helios_routes():
    return RouteExtension(**opening("routes", []), public=True)

@hookimpl
def helios_health_checks():
    return HealthExtension(**opening("health", {"fine": check}))

@hookimpl
def helios_transform():
    return TransformExtension(
        **opening("transform", Same()), implementation=Same,
        effect=TransformEffect(tags=(Coding(system="urn:x", code="y"),)),
    )

@hookimpl
def helios_observer():
    return ObserverExtension(**opening("observer", lambda job: events.append(("job", job))))
"""

ONE = """
from contextlib import asynccontextmanager
from helios_core import *

class Same(Transform):
    def apply(self, resource, key):
        return resource

@asynccontextmanager
async def open(settings, *backends):
    {body}

@hookimpl
def {hook}():
    return {offer}
"""


def settings(**environ):
    return read_settings(MEMORY | environ)[0]


async def test_a_serving_process_opens_all_and_closes_in_reverse(install):
    install("every", ALL)
    chosen = settings(HFS_PLUGINS="every", HFS_EVERY_WORD="set")

    async with open_backends(chosen, serving=True) as backends:
        assert backends.transforms.names == ("every",)
        assert [(each.plugin, each.public) for each in backends.routes] == [("every", True)]
        assert [each.plugin for each in backends.health_checks] == ["every"]
        backends.announce("job")

    assert sys.modules["helios_every"].events == [
        ("open", "transform", "set"),
        ("open", "observer", "set", "Backends"),
        ("open", "routes", "set", "Backends"),
        ("open", "health", "set", "Backends"),
        ("close", "health"),
        ("close", "routes"),
        ("job", "job"),  # the observer is waited for before it is closed
        ("close", "observer"),
        ("close", "transform"),
    ]


async def test_a_worker_opens_no_routes_and_no_health_checks(install):
    install("every", ALL)

    async with open_backends(settings(HFS_PLUGINS="every")) as backends:
        assert (backends.routes, backends.health_checks) == ((), ())

    kinds = [event[1] for event in sys.modules["helios_every"].events if event[0] == "open"]
    assert kinds == ["transform", "observer"]


async def test_extensions_open_in_the_order_of_the_setting(install):
    install("second", ALL)
    install("first", ALL)

    async with open_backends(settings(HFS_PLUGINS="first,second,first")) as backends:
        assert backends.transforms.names == ("first", "second")


async def test_what_a_backends_plugin_adds_is_opened_too(install):
    install(
        "lake",
        ALL + "\nfrom helios_core import memory\n@hookimpl\ndef helios_data_provider():\n"
        "    return memory.helios_data_provider()\n"
        "@hookimpl\ndef helios_job_store():\n    return memory.helios_job_store()\n",
    )

    async with open_backends(settings(HFS_STORAGE_BACKEND="lake")) as backends:
        assert backends.transforms.names == ("lake",)


async def test_an_installed_plugin_that_nothing_names_is_not_imported(install):
    install("every", ALL)

    async with open_backends(settings()) as backends:
        assert backends.transforms.names == ()

    assert "helios_every" not in sys.modules


def test_a_setting_of_an_extension_is_checked_before_the_start(install):
    install("every", ALL.replace('word: str = "unset"', "word: int"))

    with pytest.raises(ConfigurationError, match="HFS_EVERY_WORD is 'x'"):
        configure(MEMORY | {"HFS_PLUGINS": "every", "HFS_EVERY_WORD": "x"})


async def test_routes_see_resources_as_clients_do(install):
    install(
        "peek",
        ONE.format(
            body="global seen; seen = backends[0]; yield []",
            hook="helios_routes",
            offer="RouteExtension(api_level=1, open=open, public=True)",
        ),
    )
    install("every", ALL)

    async with open_backends(settings(HFS_PLUGINS="peek,every"), serving=True) as backends:
        seen = sys.modules["helios_peek"].seen

    assert isinstance(backends.data_provider, MemoryDataProvider)
    assert not isinstance(seen.data_provider, MemoryDataProvider)


TRANSFORM = (
    "TransformExtension(api_level=1, open=open, implementation=Same,"
    " effect=TransformEffect(changes=False))"
)
AS_TRANSFORM = ("helios_transform", TRANSFORM)
AS_HEALTH = ("helios_health_checks", "HealthExtension(api_level=1, open=open)")
AS_OBSERVER = ("helios_observer", "ObserverExtension(api_level=1, open=open)")


@pytest.mark.parametrize(
    ("described", "body", "error", "said"),
    [
        (AS_TRANSFORM, "yield object()", BrokenPlugin, "is not a Same"),
        (AS_TRANSFORM, "1/0; yield", ConfigurationError, "ZeroDivisionError"),
        (
            AS_TRANSFORM,
            "raise ConfigurationError('set HFS_ONE_KEY'); yield",
            ConfigurationError,
            "set HFS_ONE_KEY",
        ),
        (AS_TRANSFORM, "raise SystemExit; yield", ConfigurationError, "SystemE"),
        (
            AS_OBSERVER,
            "yield 7",
            BrokenPlugin,
            "an observer that cannot be called",
        ),
        (AS_HEALTH, "yield {}", BrokenPlugin, "at least one health check"),
        (AS_HEALTH, "yield [print]", BrokenPlugin, "at least one health check"),
        (AS_HEALTH, "yield {'A B': open}", BrokenPlugin, "check 'A B'"),
        (
            AS_HEALTH,
            "yield {'sync': print}",
            BrokenPlugin,
            "health check sync that is not asynchronous",
        ),
    ],
)
async def test_what_opens_as_something_else_stops_the_start(install, described, body, error, said):
    hook, offer = described
    install("one", ONE.format(body=body, hook=hook, offer=offer))

    with pytest.raises(error) as caught:
        async with open_backends(settings(HFS_PLUGINS="one"), serving=True):
            pass

    assert said in str(caught.value)


async def test_a_start_that_is_broken_off_is_not_the_plugins_fault(install):
    body = "import asyncio; await asyncio.Event().wait(); yield"
    install("one", ONE.format(body=body, hook="helios_transform", offer=TRANSFORM))

    async def start():
        async with open_backends(settings(HFS_PLUGINS="one")):
            pass

    starting = asyncio.ensure_future(start())
    await asyncio.sleep(0.01)
    starting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await starting
