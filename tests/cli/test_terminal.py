"""What is printed on a terminal, whatever the text is."""

import io

import pytest
from rich.console import Console, Group
from rich.text import Text

from helios_core.cli.progress import progress_bar
from helios_core.cli.terminal import Output, new_table, printable

HOSTILE = "\x1b[2J\x07\x9b2J\u202e"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("width", [20, 200])
@pytest.mark.parametrize("file", [Terminal, io.StringIO])
def test_a_table_has_no_characters_that_control_a_terminal(file, width):
    table = new_table("first", "second")
    table.add_row(f"a{HOSTILE}b", "c" * 30)
    out = Output(file=file(), width=width, color_system=None)

    out.print(Group(table, Text(f"d{HOSTILE}e")))

    text = out.file.getvalue()
    assert "a[2J2Jb" in text
    assert "d[2J2Je" in text
    assert not set(HOSTILE) - set("[2J") & set(text)


def test_other_characters_are_printed_as_they_are():
    text = "Zoë\tδ 中\u00a0文 👩\u200d⚕️\n\u0646\u200c\u0645"

    assert printable(text) == text


@pytest.mark.parametrize("words", ["5 of 7 [/done]", "[link=https://example.org]here", "[1/3]"])
def test_the_words_of_a_progress_bar_have_no_meaning(words):
    with progress_bar() as bar:
        bar.add_task("exporting", words=words)
        console = Console(file=io.StringIO(), width=200)

        console.print(bar.get_renderable())

    assert words in console.file.getvalue()
