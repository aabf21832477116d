"""Commands that are wrong on purpose."""

from contextlib import suppress

import click

from helios_core import (
    ConfigurationError,
)
from tests.testing import extensions
from tests.testing.extensions import opening


def make_silent(host):
    @click.command(help="Say something.")
    @click.option("--word")
    def silent(word):
        click.echo(host.settings().word + word)

    return silent


class TestSilent(extensions.GoodCommand):
    arguments = ()
    make = staticmethod(make_silent)
    caught_by = ("test_everything_has_a_help_text",)


def make_early(host):
    word = "x"
    with suppress(AttributeError):
        word = host.settings().word

    @click.command()
    def early():
        """Print the word."""
        click.echo(word)

    return early


class TestEarly(extensions.GoodCommand):
    arguments = ()
    make = staticmethod(make_early)
    caught_by = ("test_help_needs_no_setting",)


def make_swallowing(host):
    @click.command()
    def swallowing():
        """Print the word, or nothing."""
        with suppress(ConfigurationError):
            click.echo(host.settings().word)

    return swallowing


class TestSwallowing(extensions.GoodCommand):
    arguments = ()
    make = staticmethod(make_swallowing)
    caught_by = ("test_a_wrong_configuration_is_not_hidden",)


class TestNoCommand(extensions.GoodCommand):
    make = staticmethod(opening("nothing"))
    caught_by = ("test_help_needs_no_setting",)
