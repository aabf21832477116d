"""Tokens: codes, identifiers, booleans and whatever else is matched as a whole."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from helios_core.fhir.search import prefilters, strings
from helios_core.fhir.search.criteria import Criterion
from helios_core.fhir.search.filters import Condition, any_value, negate
from helios_core.fhir.search.parameters import CompiledParameter
from helios_core.fhir.search.prefilters import AnyId, AnyTerm, Prefilter
from helios_core.fhir.search.values import split_unescaped, unescape

KIND = "t"
"""What terms of tokens are marked with."""
TERMINOLOGY = frozenset({"in", "not-in", "above", "below"})
"""The modifiers that only a terminology server can answer."""

_WITHOUT_SYSTEM = frozenset({"boolean", "ContactPoint", "uri", "url", "string", "id"})
_WITHOUT_TEXT = _WITHOUT_SYSTEM | {"code", "canonical", "System.String"}
_OF_TYPE_PARTS = 3


class TokenSet(msgspec.Struct, frozen=True, kw_only=True):
    """
    The tokens asked for, any of which will do.

    Codes are folded unless `exact`: when in doubt, case is not to matter (FHIR R4, 3.1.1.4.10).
    """

    codes: frozenset[str]
    """Of any system."""
    pairs: frozenset[tuple[str, str]]
    """System and code; the system is empty where there must be none."""
    systems: frozenset[str]
    """Of any code."""
    exact: bool = False

    def match(self, leaf: Any) -> bool:  # noqa: ANN401 - decoded JSON
        """Tell whether a value is one of them."""
        for system, code in codings(leaf):
            folded = code if self.exact else code.casefold()
            if folded in self.codes:
                return True
            if system is None:
                # A code's system is implied by its element. Whoever names one is believed.
                if self.systems or any(folded == each for _, each in self.pairs):
                    return True
            elif (system, folded) in self.pairs or (system in self.systems):
                return True
        return False


def codings(leaf: Any) -> Iterator[tuple[str | None, str]]:  # noqa: ANN401 - a case per data type
    """Give system and code of what a token can be; the system is None where it is implied."""
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


def parse_tokens(question: Criterion, *, exact: bool = False) -> TokenSet:
    """
    Give the tokens that a question's values name.

    Raises:
        InvalidParameter: A value has more parts than system and code, or neither.
    """
    codes, pairs, systems = set(), set(), set()
    for value in question.values:
        parts = [unescape(part) for part in split_unescaped(value, "|")]
        code = parts[-1] if exact else parts[-1].casefold()
        if len(parts) > 2 or not any(parts):  # noqa: PLR2004 - system and code
            raise question.invalid("expected code, system|code, |code or system|")
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
    """Give the modifiers that a token parameter can be asked with, beside missing."""
    types = parameter.data_types
    last = {finder.group.rpartition(".")[2].lower() for finder in parameter.finders}
    identifier = types == {"Identifier"} if types else all("identifier" in name for name in last)
    text = types is None or not types <= _WITHOUT_TEXT
    return ("not", *(["of-type"] if identifier else []), *(["text"] if text else []))


def condition(question: Criterion) -> Condition:
    """Give the condition that a token is as asked."""
    test = leaf_test(question)
    match question.modifier:
        case "not":
            return negate(any_value(question.parameter, test))
        case "text" | "of-type":
            return any_value(question.parameter, test)
    return any_value(question.parameter, test, prefilter(question))


def leaf_test(question: Criterion) -> Callable[[Any], bool]:
    """Give what tells whether one value matches; `not` is not looked at."""
    if question.modifier == "text":
        return _text_test(question)
    if question.modifier == "of-type":
        return _of_type_test(question)
    _refuse_impossible(question)
    return parse_tokens(question, exact=question.parameter.code == "_id").match


def prefilter(question: Criterion) -> Prefilter | None:
    """Give the terms of which a match has one."""
    wanted = parse_tokens(question, exact=question.parameter.code == "_id")
    if wanted.systems:
        return None
    codes = wanted.codes | {code for _, code in wanted.pairs}
    if question.parameter.code == "_id":
        return AnyId(codes)
    groups = question.parameter.groups
    terms = (prefilters.term(group, KIND, code) for group in groups for code in codes)
    return AnyTerm(frozenset(terms)) if groups else None


def _refuse_impossible(question: Criterion) -> None:
    types = question.parameter.data_types
    if types is None:
        return
    parts = [split_unescaped(value, "|") for value in question.values]
    if types <= _WITHOUT_SYSTEM and any(len(each) > 1 for each in parts):
        raise question.invalid("its values have no system; expected the value alone, without |")
    if types == {"boolean"} and any(each[0] not in ("true", "false") for each in parts):
        raise question.invalid("expected true or false")


def _text_test(question: Criterion) -> Callable[[Any], bool]:
    begins = strings.text_test(question)
    return lambda leaf: any(begins(text, False) for text in _texts(leaf))  # noqa: FBT003 - positional for speed


def _texts(leaf: Any) -> Iterator[str]:  # noqa: ANN401 - decoded JSON
    if type(leaf) is not dict:
        return
    concept = leaf.get("concept", leaf)
    if type(concept) is not dict:
        return
    identifier_type = concept.get("type")
    holders = [concept, identifier_type if type(identifier_type) is dict else {}]
    candidates = [holder.get("text") for holder in holders]
    coding = concept.get("coding")
    displayed = coding if type(coding) is list else [concept]
    candidates += [each.get("display") for each in displayed if type(each) is dict]
    yield from (each for each in candidates if type(each) is str)


def _of_type_test(question: Criterion) -> Callable[[Any], bool]:
    wanted = set()
    for value in question.values:
        parts = [unescape(part) for part in split_unescaped(value, "|")]
        if len(parts) != _OF_TYPE_PARTS or not all(parts):
            raise question.invalid("expected system|code|value, all three of them")
        wanted.add((parts[0], parts[1].casefold(), parts[2].casefold()))

    def test(leaf: Any) -> bool:  # noqa: ANN401 - decoded JSON
        value = leaf.get("value") if type(leaf) is dict else None
        return type(value) is str and any(
            (system, code.casefold(), value.casefold()) in wanted
            for system, code in codings(leaf.get("type"))
        )

    return test
