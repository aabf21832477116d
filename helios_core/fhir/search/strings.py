"""
String parameters, compared without case, accents, punctuation and spacing.

Implements `ParameterType`.
"""

import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from helios_core.fhir.search.criteria import Criterion
from helios_core.fhir.search.parameters import CompiledParameter
from helios_core.fhir.search.values import unescape

# The string elements of HumanName and Address, of an Annotation (text) and an Identifier (value).
_STRING_ELEMENTS = (
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


def _is_ignored(character: str) -> bool:
    if character.isascii():
        return not character.isalnum() and not character.isspace()
    return unicodedata.category(character)[0] in "MP"


_ASCII: Mapping[int, str | None] = {
    **{code: None for code in range(128) if _is_ignored(chr(code))},
    ord("-"): " ",
}


def normalize(text: str) -> str:
    """
    Return the form in which strings are compared (FHIR R4, 3.1.1.4.8).

    Case, combining characters and punctuation are removed. White space becomes one space, and so
    does a dash, because it joins two words.
    """
    if text.isascii():
        return " ".join(text.lower().translate(_ASCII).split())
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    spaced = (" " if unicodedata.category(char) == "Pd" else char for char in folded)
    return " ".join("".join(char for char in spaced if not _is_ignored(char)).split())


def modifiers(_parameter: CompiledParameter) -> tuple[str, ...]:
    """Return the supported modifiers, except `missing`."""
    return ("contains", "exact")


def leaf_test(criterion: Criterion) -> Callable[[Any], bool]:
    """Return a test of a leaf: whether one of its texts matches one of the criterion's values."""
    matches = text_test(criterion)
    family = all(path.group.endswith("family") for path in criterion.parameter.paths)

    def test(leaf: Any) -> bool:  # noqa: ANN401 - decoded JSON
        return any(matches(text, family or is_family) for text, is_family in _texts(leaf))

    return test


def text_test(criterion: Criterion) -> Callable[[str, bool], bool]:
    """
    Return a test of a text: whether it matches one of the criterion's values.

    The second argument of the test says whether the match may begin at any word of the text;
    otherwise it must begin at the first one.
    """
    values = tuple(map(unescape, criterion.values))
    if criterion.modifier == "exact":
        return lambda text, _: text in values
    normalized = tuple(map(normalize, values))
    if not all(normalized):
        raise criterion.invalid("a value must have at least one letter or digit")
    if criterion.modifier == "contains":
        return lambda text, _: any(value in normalize(text) for value in normalized)
    later_words = tuple(f" {value}" for value in normalized)

    def begins(text: str, any_word: bool) -> bool:  # noqa: FBT001 - positional for speed
        compared = normalize(text)
        return compared.startswith(normalized) or (
            any_word and any(word in compared for word in later_words)
        )

    return begins


def sort_values(leaf: Any) -> Iterator[str]:  # noqa: ANN401 - decoded JSON
    """Yield the texts of a leaf in the form in which they are compared."""
    return (compared for text, _ in _texts(leaf) if (compared := normalize(text)))


def _texts(leaf: Any) -> Iterator[tuple[str, bool]]:  # noqa: ANN401 - decoded JSON
    """Yield the texts of a leaf, each with whether it is a family name."""
    if type(leaf) is str:
        yield leaf, False
    elif type(leaf) is dict:
        for name in _STRING_ELEMENTS:
            value = leaf.get(name)
            for text in value if type(value) is list else (value,):
                if type(text) is str:
                    # Each word of a family name can be searched on its own.
                    yield text, name == "family"
