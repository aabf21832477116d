"""Reading variables: what is accepted, what is refused and in which words."""

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from helios_core.config.environment import Variable, describe_variables, read_variables, to_text
from helios_core.storage.secrets import Secret


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    bucket: str
    size: Annotated[int, Meta(ge=1, title="bytes", description="How big.")] = 10
    ratio: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    wait: timedelta = timedelta(seconds=90)
    colour: Colour = Colour.RED
    on: bool = False
    folder: Path | None = None
    names: tuple[str, ...] = ()
    password: Secret | None = None
    shared: Annotated[str, Meta(extra={"setting": "HFS_DATA_DIR"})] = "./data"
    hidden: Annotated[str, Meta(extra={"setting": None})] = ""


KNOWN = {variable.field: variable for variable in describe_variables(Sample, plugin="sample")}


def reading(**environ: str):
    return read_variables(KNOWN.values(), {"HFS_SAMPLE_BUCKET": "b"} | environ)


def problem_of(name: str, value: str) -> str:
    _, problems = reading(**{name: value})
    assert len(problems) == 1
    return problems[0]


def test_a_plugins_settings_carry_its_name():
    assert KNOWN["size"].name == "HFS_SAMPLE_SIZE"
    assert KNOWN["size"].plugin == "sample"


def test_the_servers_settings_carry_no_name():
    assert describe_variables(Sample)[1].name == "HFS_SIZE"


def test_a_shared_setting_keeps_its_name_and_belongs_to_the_server():
    assert KNOWN["shared"].name == "HFS_DATA_DIR"
    assert KNOWN["shared"].plugin is None


def test_a_field_can_be_no_setting():
    assert "hidden" not in KNOWN


def test_unit_and_meaning_come_from_the_field():
    assert (KNOWN["size"].unit, KNOWN["size"].description) == ("bytes", "How big.")


def test_every_kind_of_value_is_read():
    values, problems = reading(
        HFS_SAMPLE_SIZE="5",
        HFS_SAMPLE_RATIO="0.25",
        HFS_SAMPLE_WAIT="1.5",
        HFS_SAMPLE_COLOUR="blue",
        HFS_SAMPLE_ON="TRUE",
        HFS_SAMPLE_FOLDER="/srv/x",
        HFS_SAMPLE_NAMES="a, b,,c",
        HFS_SAMPLE_PASSWORD="hush",
        HFS_DATA_DIR=" elsewhere ",
    )

    assert not problems
    assert Sample(**values) == Sample(
        bucket="b",
        size=5,
        ratio=0.25,
        wait=timedelta(seconds=1.5),
        colour=Colour.BLUE,
        on=True,
        folder=Path("/srv/x"),
        names=("a", "b", "c"),
        password=Secret("hush"),
        shared="elsewhere",
    )


def test_an_empty_value_is_not_set():
    values, problems = reading(HFS_SAMPLE_SIZE="", HFS_SAMPLE_COLOUR="  ")

    assert (values, problems) == ({"bucket": "b"}, [])


def test_a_missing_value_without_default_is_a_problem():
    _, problems = read_variables(KNOWN.values(), {})

    assert problems == [
        "HFS_SAMPLE_BUCKET is not set, and plugin sample needs it; allowed is text"
    ]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("HFS_SAMPLE_SIZE", "0", "a whole number from 1"),
        ("HFS_SAMPLE_SIZE", "many", "a whole number from 1"),
        ("HFS_SAMPLE_RATIO", "1", "a number above 0 below 1"),
        ("HFS_SAMPLE_WAIT", "0", "a number of seconds above 0"),
        ("HFS_SAMPLE_WAIT", "-1", "a number of seconds above 0"),
        ("HFS_SAMPLE_WAIT", "soon", "a number of seconds above 0"),
        ("HFS_SAMPLE_COLOUR", "green", "red or blue"),
        ("HFS_SAMPLE_ON", "yes", "true or false"),
    ],
)
def test_an_unreadable_value_is_told_with_what_is_allowed(name, value, allowed):
    assert problem_of(name, value) == f"{name} is {value!r}; allowed is {allowed}"


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_number_that_is_none_is_refused(value):
    assert "HFS_SAMPLE_RATIO" in problem_of("HFS_SAMPLE_RATIO", value)


def test_all_problems_are_told():
    _, problems = reading(HFS_SAMPLE_SIZE="0", HFS_SAMPLE_ON="yes", HFS_SAMPLE_COLOUR="x")

    assert len(problems) == 3


def test_a_secret_does_not_print():
    secret = Secret("hush")

    assert "hush" not in f"{secret} {secret!r} {to_text(secret)}"
    assert secret.reveal() == "hush"


def test_a_refused_secret_is_not_shown():
    kind = Annotated[Secret, Meta()] | Annotated[int, Meta(ge=5)]
    variable = Variable(
        name="HFS_PIN",
        field="pin",
        type=kind,
        allowed="a PIN",
        required=True,
        default="",
        unit="",
        description="",
        plugin=None,
    )

    assert str(variable._error("1234")) == "HFS_PIN cannot be read; allowed is a PIN"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (timedelta(minutes=1), "60"),
        (timedelta(seconds=0.5), "0.5"),
        (timedelta(days=30), "2592000"),
        (30.0, "30"),
        (0.25, "0.25"),
        (Colour.RED, "red"),
        (("a", "b"), "a,b"),
        (Path("x/y"), "x/y"),
        (7, "7"),
    ],
)
def test_a_value_is_written_as_it_would_be_set(value, text):
    assert to_text(value) == text
