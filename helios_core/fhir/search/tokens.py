"""
Token parameters: codes, identifiers, booleans and other values that match as a whole.

Implements `ParameterType`. Source: FHIR R4, 3.1.1.4.10.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from helios_core.fhir.search import prefilters, strings
from helios_core.fhir.search.criteria import Criterion
from helios_core.fhir.search.parameters import CompiledParameter
from helios_core.fhir.search.prefilters import AnyId, AnyTerm, Prefilter
from helios_core.fhir.search.values import split_unescaped, unescape

TERM_KIND = "t"
"""Distinguishes the terms of tokens from other terms of a group."""
TERMINOLOGY_MODIFIERS = frozenset({"in", "not-in", "above", "below"})
"""The modifiers that need a terminology server."""

_WITHOUT_SYSTEM = frozenset({"boolean", "ContactPoint", "uri", "url", "string", "id"})
_WITHOUT_TEXT = _WITHOUT_SYSTEM | {"code", "canonical", "System.String"}
_OF_TYPE_PARTS = 3


class TokenSet(msgspec.Struct, frozen=True, kw_only=True):
    """
    The tokens of a criterion; a leaf matches if it is one of them.

    Codes are case-folded unless `exact`: when in doubt, case should not matter (FHIR R4,
    3.1.1.4.10).
    """

    codes: frozenset[str]
    """Codes of any system."""
    pairs: frozenset[tuple[str, str]]
    """Systems and codes; the system is empty if the leaf must not have one."""
    systems: frozenset[str]
    """Systems whose codes all match."""
    exact: bool = False

    def matches(self, leaf: Any) -> bool:  # noqa: ANN401 - decoded JSON
        """Return whether a leaf is one of the tokens."""
        for system, code in codings(leaf):
            folded = code if self.exact else code.casefold()
            if folded in self.codes:
                return True
            if system is None:
                # The element implies the system of its codes. It is not known here, so any system
                # of the criterion is accepted.
                if self.systems or any(folded == own for _, own in self.pairs):
                    return True
            elif (system, folded) in self.pairs or (system in self.systems):
                return True
        return False


def codings(leaf: Any) -> Iterator[tuple[str | None, str]]:  # noqa: ANN401 - a case per data type
    """Yield the systems and codes of a leaf; a system is None if the element implies it."""
    if type(leaf) is str:
        yield None, leaf
    elif type(leaf) is bool:
        yield None, "true" if leaf else "false"
    elif type(leaf) is int:
        yield None, str(leaf)
    elif type(leaf) is dict:
        concept = leaf.get("concept", leaf)  # of a CodeableReference
        inner = concept.get("coding", concept) if type(concept) is dict else None
        for coding in inner if type(inner) is list else (inner,):
            if type(coding) is dict:
                code, system = coding.get("value"), coding.get("system")
                if type(code) is not str:
                    code = coding.get("code")
                if type(code) is str:
                    yield system if type(system) is str else "", code
                elif type(system) is str:
                    yield system, ""


def parse_tokens(criterion: Criterion, *, exact: bool = False) -> TokenSet:
    """
    Parse the values of a criterion as tokens.

    Raises:
        InvalidParameter: A value has more parts than system and code, or only empty ones.
    """
    codes, pairs, systems = set(), set(), set()
    for value in criterion.values:
        parts = [unescape(part) for part in split_unescaped(value, "|")]
        code = parts[-1] if exact else parts[-1].casefold()
        if len(parts) > 2 or not any(parts):  # noqa: PLR2004 - system and code
            raise criterion.invalid("expected code, system|code, |code or system|")
        if len(parts) == 1:
            codes.add(code)
        elif code:
            pairs.add((parts[0], code))
        else:
            systems.add(parts[0])
    return TokenSet(
        codes=frozenset(codes), pairs=frozenset(pairs), systems=frozenset(systems), exact=exact
    )


def modifiers(parameter: CompiledParameter) -> tuple[str, ...]:
    """Return the supported modifiers, except `missing`."""
    types = parameter.data_types
    names = {path.group.rpartition(".")[2].lower() for path in parameter.paths}
    identifier = types == {"Identifier"} if types else all("identifier" in name for name in names)
    text = types is None or not types <= _WITHOUT_TEXT
    return ("not", *(["of-type"] if identifier else []), *(["text"] if text else []))


def leaf_test(criterion: Criterion) -> Callable[[Any], bool]:
    """Return a test of a leaf: whether it matches; the modifier `not` is left to the caller."""
    if criterion.modifier == "text":
        return _text_test(criterion)
    if criterion.modifier == "of-type":
        return _of_type_test(criterion)
    _check_values(criterion)
    return parse_tokens(criterion, exact=criterion.parameter.code == "_id").matches


def prefilter(criterion: Criterion) -> Prefilter | None:
    """Return the terms of which every match has at least one, or None if an index cannot help."""
    if criterion.modifier is not None:
        return None
    tokens = parse_tokens(criterion, exact=criterion.parameter.code == "_id")
    if tokens.systems:
        return None
    codes = tokens.codes | {code for _, code in tokens.pairs}
    if criterion.parameter.code == "_id":
        return AnyId(codes)
    groups = criterion.parameter.groups
    terms = (prefilters.term_hash(group, TERM_KIND, code) for group in groups for code in codes)
    return AnyTerm(frozenset(terms)) if groups else None


def sort_values(leaf: Any) -> Iterator[str]:  # noqa: ANN401 - decoded JSON
    """Yield the codes of a leaf, case-folded and without their systems."""
    return (code.casefold() for _, code in codings(leaf) if code)


def _check_values(criterion: Criterion) -> None:
    types = criterion.parameter.data_types
    if types is None:
        return
    values = [split_unescaped(value, "|") for value in criterion.values]
    if types <= _WITHOUT_SYSTEM and any(len(parts) > 1 for parts in values):
        raise criterion.invalid("its values have no system; expected a value without |")
    if types == {"boolean"} and any(parts[0] not in ("true", "false") for parts in values):
        raise criterion.invalid("expected true or false")


def _text_test(criterion: Criterion) -> Callable[[Any], bool]:
    matches = strings.text_test(criterion)
    return lambda leaf: any(matches(text, False) for text in _texts(leaf))  # noqa: FBT003 - positional for speed


def _texts(leaf: Any) -> Iterator[str]:  # noqa: ANN401 - decoded JSON
    """Yield the text and displays of a concept, or the text of an identifier's type."""
    if type(leaf) is not dict:
        return
    concept = leaf.get("concept", leaf)
    if type(concept) is not dict:
        return
    identifier_type = concept.get("type")
    holders = [concept, identifier_type if type(identifier_type) is dict else {}]
    texts = [holder.get("text") for holder in holders]
    coding = concept.get("coding")
    displayed = coding if type(coding) is list else [concept]
    texts += [item.get("display") for item in displayed if type(item) is dict]
    yield from (text for text in texts if type(text) is str)


def _of_type_test(criterion: Criterion) -> Callable[[Any], bool]:
    identifiers = set()
    for value in criterion.values:
        parts = [unescape(part) for part in split_unescaped(value, "|")]
        if len(parts) != _OF_TYPE_PARTS or not all(parts):
            raise criterion.invalid("expected system|code|value, none of them empty")
        identifiers.add((parts[0], parts[1].casefold(), parts[2].casefold()))

    def test(leaf: Any) -> bool:  # noqa: ANN401 - decoded JSON
        value = leaf.get("value") if type(leaf) is dict else None
        return type(value) is str and any(
            (system, code.casefold(), value.casefold()) in identifiers
            for system, code in codings(leaf.get("type"))
        )

    return test
