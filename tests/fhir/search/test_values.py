import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_core.errors import InvalidParameter
from helios_core.fhir.search.values import alternatives, split_prefix, split_unescaped, unescape


def escape(text):
    for character in "\\,|$":
        text = text.replace(character, f"\\{character}")
    return text


@pytest.mark.parametrize(
    ("text", "separator", "parts"),
    [
        ("a", ",", ["a"]),
        ("a,b", ",", ["a", "b"]),
        (r"a\,b", ",", [r"a\,b"]),
        (r"a\\,b", ",", [r"a\\", "b"]),
        (r"a\\\,b", ",", [r"a\\\,b"]),
        ("a|b", ",", ["a|b"]),
        ("|", "|", ["", ""]),
        (r"a\|b|c", "|", [r"a\|b", "c"]),
        (r"a\$b$c", "$", [r"a\$b", "c"]),
        ("", ",", [""]),
        ("a\nb,c", ",", ["a\nb", "c"]),
        ("a\\", ",", ["a\\"]),
        (r"a\b,c", ",", [r"a\b", "c"]),
    ],
)
def test_only_a_separator_that_is_not_escaped_parts(text, separator, parts):
    assert split_unescaped(text, separator) == parts


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"a\,b", "a,b"),
        (r"a\|b", "a|b"),
        (r"a\$b", "a$b"),
        (r"a\\b", "a\\b"),
        (r"a\\,b", r"a\,b"),
        (r"a\xb", r"a\xb"),
        ("a\\", "a\\"),
    ],
)
def test_an_escape_stands_for_its_character_and_other_backslashes_for_themselves(escaped, text):
    assert unescape(escaped) == text


@given(st.lists(st.text(st.sampled_from("ab\\,|$")), min_size=1))
def test_what_is_escaped_and_joined_comes_apart_as_it_was(texts):
    joined = ",".join(map(escape, texts))

    assert [unescape(part) for part in split_unescaped(joined, ",")] == texts


@pytest.mark.parametrize("value", ["", ",", "a,", ",a", "a,,b"])
def test_an_empty_value_is_refused(value):
    with pytest.raises(InvalidParameter, match="code has an empty value"):
        alternatives("code", value)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("2013", ("eq", "2013")),
        ("ge2013", ("ge", "2013")),
        ("ap", ("ap", "")),
        ("x5", ("eq", "x5")),
        ("", ("eq", "")),
    ],
)
def test_a_comparison_is_told_from_its_value(value, found):
    assert split_prefix(value) == found
