"""The reference pages name everything there is."""

import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import get_args, get_origin

import pytest
from msgspec import structs

import helios_core
from helios_core import testing
from helios_core.config.matrix import POWERS
from helios_core.storage import data_provider as data_providers
from helios_core.storage import hooks as hookspecs
from helios_core.storage import job_store as job_stores
from helios_core.storage import output_store as output_stores
from helios_core.storage.transforms import RestReads, TransformEffect

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
HOOKS = (REFERENCE / "hooks.md").read_text()
SPECIFICATIONS = [
    function
    for function in vars(hookspecs).values()
    if inspect.isfunction(function) and hasattr(function, "helios_spec")
]


def descriptor_of(hook):
    """Return the class that a hook says it returns."""
    [descriptor, _] = get_args(hook.__annotations__["return"])
    return get_origin(descriptor) or descriptor


def clauses_of(contract):
    """Return the numbers of the clauses in the docstring of a class."""
    return re.findall(r"^([A-Z]\d+)  ?", inspect.cleandoc(contract.__doc__ or ""), re.MULTILINE)


DESCRIPTORS = [*dict.fromkeys(map(descriptor_of, SPECIFICATIONS)), TransformEffect]
PUBLIC = [getattr(helios_core, name) for name in helios_core.__all__]
CONTRACTS = [
    each
    for each in PUBLIC
    if inspect.isclass(each) and clauses_of(each) and not each.__name__.startswith("Supports")
]


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def powers_of(module: ModuleType) -> set[str]:
    return {name for name in vars(module) if name.startswith("Supports")}


def test_there_are_hooks():
    assert {hook.__name__ for hook in SPECIFICATIONS} >= {
        "helios_data_provider",
        "helios_job_store",
        "helios_output_store",
        "helios_observer",
    }


@pytest.mark.parametrize("hook", SPECIFICATIONS, ids=lambda hook: hook.__name__)
def test_every_hook_is_on_the_page_with_signature_and_meaning(hook):
    signature = re.search(r"^def (.+):$", inspect.getsource(hook), re.MULTILINE)

    assert f"### `{signature[1]}`" in HOOKS
    assert flat(inspect.getdoc(hook).partition("\n")[0]) in flat(HOOKS)


def test_every_hook_on_the_page_exists():
    named = set(re.findall(r"### `(helios_\w+)", HOOKS))

    assert named == {hook.__name__ for hook in SPECIFICATIONS}


@pytest.mark.parametrize("descriptor", DESCRIPTORS)
def test_every_field_of_a_descriptor_is_on_the_page(descriptor):
    [common, *tables] = re.split(r"^`(\w+)`.*:$", HOOKS, flags=re.MULTILINE)
    of_its_own = dict(zip(tables[::2], tables[1::2], strict=True))[descriptor.__name__]

    for field in structs.fields(descriptor):
        assert f"| `{field.name}` |" in common + of_its_own


@pytest.mark.parametrize("choice", RestReads)
def test_every_choice_about_rest_is_on_the_page(choice):
    assert f"`RestReads.{choice.name}` |" in HOOKS


@pytest.mark.parametrize("contract", CONTRACTS)
def test_every_contract_is_on_the_page_with_all_its_clauses(contract):
    clauses = clauses_of(contract)

    named = f"| [`helios_core.{contract.__name__}`]"
    row = next(line for line in HOOKS.splitlines() if line.startswith(named))

    assert f"{clauses[0]} to {clauses[-1]}" in row


@pytest.mark.parametrize("suite", re.findall(r"`helios_core\.testing\.(\w+)`", HOOKS))
def test_every_suite_on_the_page_is_shipped(suite):
    assert hasattr(testing, suite)


def test_every_power_is_on_the_page_and_in_the_matrix():
    powers = powers_of(data_providers) | powers_of(output_stores) | powers_of(job_stores)

    assert powers == set(re.findall(r"\| `(Supports\w+)` \|", HOOKS))
    assert powers == {protocol.__name__ for protocol, _ in POWERS}


def test_the_contract_level_on_the_page_is_the_current_one():
    assert f"now {hookspecs.API_LEVEL}." in HOOKS
