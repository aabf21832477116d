"""The guide to data providers shows one that keeps the contract."""

import re
import sys
from pathlib import Path
from types import ModuleType

GUIDE = Path(__file__).parents[2] / "docs/how-to/write-a-data-provider.md"
BLOCK = re.compile(r"^```(python|sql)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language):
    return [text for found, text in BLOCK.findall(GUIDE.read_text()) if found == language]


def module(name, *texts, **given):
    made = ModuleType(name)
    vars(made).update(given)
    sys.modules[name] = made
    exec("\n\n".join(texts), vars(made))  # noqa: S102 - what the guide shows is what is tested
    return made


*provider, suite = blocks("python")
warehouse = module("helios_warehouse", *provider)
TestWarehouse = module("test_helios_warehouse", suite, SCHEMA=blocks("sql")[0]).TestWarehouse


def test_the_guide_describes_its_plugin_with_a_hook():
    offered = warehouse.helios_data_provider()

    assert offered.implementation is warehouse.WarehouseDataProvider
