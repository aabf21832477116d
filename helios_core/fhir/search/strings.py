"""Strings: searched without regard to case, accents, punctuation and spacing."""

import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from helios_core.fhir.search.criteria import Criterion
from helios_core.fhir.search.filters import Condition, any_value
from helios_core.fhir.search.values import unescape

MODIFIERS = ("contains", "exact")

# The string elements of HumanName and Address, of an Annotation (text) and an Identifier (value).
_PARTS = (
    "text",
    "family",
    "given",
    "prefix",
    "suffix",
    "line",
    "city",
    "district",
    "state",
    "postalCode",
    "country",
    "value",
)


def _dropped(character: str) -> bool:
    if character.isascii():
        return not character.isalnum() and not character.isspace()
    return unicodedata.category(character)[0] in "MP"


_ASCII: Mapping[int, str | None] = {
    **{code: None for code in range(128) if _dropped(chr(code))},
    ord("-"): " ",
}


def normalized(text: str) -> str:
    """
    Give the form in which strings are compared (FHIR R4, 3.1.1.4.8).

    Case, combining characters and punctuation are gone, white space is one space, and so is a
    dash: it joins two words.
    """
    if text.isascii():
        return " ".join(text.lower().translate(_ASCII).split())
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    spaced = (" " if unicodedata.category(each) == "Pd" else each for each in folded)
    return " ".join("".join(each for each in spaced if not _dropped(each)).split())


def condition(question: Criterion) -> Condition:
    """Give the condition that a string is as asked."""
    return any_value(question.parameter, leaf_test(question))


def leaf_test(question: Criterion) -> Callable[[Any], bool]:
    """Give what tells whether one value matches."""
    passes = text_test(question)
    words = all(path.endswith("family") for path in _groups(question))

    def test(leaf: Any) -> bool:  # noqa: ANN401 - decoded JSON
        return any(passes(text, words or family) for text, family in _texts(leaf))

    return test


def _groups(question: Criterion) -> Iterator[str]:
    return (finder.group for finder in question.parameter.finders)


def text_test(question: Criterion) -> Callable[[str, bool], bool]:
    """Give what tells whether a text matches; its second argument allows any word to begin so."""
    wanted = tuple(map(unescape, question.values))
    if question.modifier == "exact":
        return lambda text, _: text in wanted
    plain = tuple(map(normalized, wanted))
    if not all(plain):
        raise question.invalid("a value needs at least one letter or digit")
    if question.modifier == "contains":
        return lambda text, _: any(each in normalized(text) for each in plain)
    later = tuple(f" {each}" for each in plain)

    def begins(text: str, words: bool) -> bool:  # noqa: FBT001 - one of two shapes of text
        compared = normalized(text)
        return compared.startswith(plain) or (words and any(each in compared for each in later))

    return begins


def _texts(leaf: Any) -> Iterator[tuple[str, bool]]:  # noqa: ANN401 - decoded JSON
    if type(leaf) is str:
        yield leaf, False
    elif type(leaf) is dict:
        for part in _PARTS:
            value = leaf.get(part)
            for text in value if type(value) is list else (value,):
                if type(text) is str:
                    # Each part of a family name can be searched on its own.
                    yield text, part == "family"
