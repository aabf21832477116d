"""The reference of the command line has every command and every option."""

import re
from pathlib import Path

import pytest

from helios_core.cli.commands import app
from helios_core.cli.export_events import EVENTS

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs/reference/cli.md"
README = ROOT / "README.md"
COMMANDS = app.commands


def sections():
    _, *parts = re.split(r"^## helios (\S+)$", REFERENCE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_command_has_its_section_and_no_other_has():
    assert sorted(sections()) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_listed_and_no_other_is(name):
    known = {
        option
        for parameter in parameters_of(COMMANDS[name])
        for option in parameter.opts
        if option.startswith("--") and option != "--help"
    }

    listed = re.findall(r"^\| `(--[a-z-]+)` \|", sections()[name], re.MULTILINE)

    assert sorted(listed) == sorted(known)


def parameters_of(command):
    """The parameters of a command and of its own commands."""
    yield from command.params
    for each in getattr(command, "commands", {}).values():
        yield from parameters_of(each)


def test_every_event_of_an_export_is_listed_with_its_members():
    listed = {
        event: re.findall(r"`(\w+)`", members)
        for event, members in re.findall(
            r"^\| `(\w+)` \| ((?:`\w+`,? ?)+)\|", sections()["export"], re.MULTILINE
        )
    }

    assert listed == {event.__name__.lower(): list(event.__struct_fields__) for event in EVENTS}


def test_every_make_target_in_the_documentation_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = [README, *ROOT.glob("docs/**/*.md")]

    named = {
        target
        for page in pages
        for target in re.findall(r"(?:`|^\$ )make ([a-z-]+)", page.read_text(), re.MULTILINE)
    }

    assert {"demo", "test", "serve"} <= named <= targets
