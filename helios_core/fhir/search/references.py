"""References: to a resource here by id, to anything by URL, to what has an identifier."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from helios_core.fhir.definitions import load_definitions
from helios_core.fhir.references import split_reference
from helios_core.fhir.search import prefilters, tokens
from helios_core.fhir.search.criteria import Criterion
from helios_core.fhir.search.filters import Condition, any_value
from helios_core.fhir.search.parameters import CompiledParameter
from helios_core.fhir.search.prefilters import AnyTerm, Prefilter
from helios_core.fhir.search.values import unescape

KIND = "r"
"""What terms of references are marked with."""

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_HISTORY = "/_history/"
_NAMED_ID = re.compile(
    r"(?:.*/)?[A-Z][A-Za-z]{1,63}/([A-Za-z0-9\-.]{1,64})(?:/_history/[^/]*)?", re.DOTALL
)
_EXPECTED = "expected an id, Type/id, or an absolute URL"


class ReferenceSet(msgspec.Struct, frozen=True, kw_only=True):
    """The references asked for, any of which will do."""

    base_urls: Sequence[str]
    ids: frozenset[str] = frozenset()
    """Of resources here, whatever their type."""
    targets: frozenset[tuple[str, str]] = frozenset()
    """Type and id of resources here, whatever the version."""
    texts: frozenset[str] = frozenset()
    """To be equal as they are: URLs, and `Type/id/_history/version` without base."""

    def match(self, leaf: Any) -> bool:  # noqa: ANN401 - decoded JSON
        """Tell whether a value is one of them."""
        text = reference_of(leaf)
        if text is None:
            return False
        if self.texts and not self.texts.isdisjoint((text, text.partition("|")[0])):
            return True
        target = split_reference(text, self.base_urls)
        if target is None:
            return False
        return (
            target in self.targets
            or target[1] in self.ids
            or (bool(self.texts) and _HISTORY in text and self._is_version(target, text))
        )

    def _is_version(self, target: tuple[str, str], text: str) -> bool:
        return f"{target[0]}/{target[1]}{_HISTORY}{text.rpartition('/')[2]}" in self.texts


def reference_of(leaf: Any) -> str | None:  # noqa: ANN401 - decoded JSON
    """Give the text of a Reference, CodeableReference, canonical, or resource in place."""
    if type(leaf) is str:
        return leaf
    if type(leaf) is not dict:
        return None
    reference = leaf.get("reference")
    if type(reference) is dict:
        reference = reference.get("reference")
    if type(reference) is str:
        return reference
    return f"{leaf['resourceType']}/{leaf.get('id')}" if "resourceType" in leaf else None


def key(text: str) -> str:
    """
    Give what a reference is indexed under: the id it names, whatever server and version.

    Of a canonical URL it is the URL without the version.
    """
    resource_type, _, resource_id = text.rpartition("/")
    if resource_type.isalpha() and "|" not in resource_id and "#" not in resource_id:
        return resource_id  # what the rest would find for nearly every reference, but sooner
    plain = text.partition("|")[0].partition("#")[0]
    match = _NAMED_ID.fullmatch(plain)
    return match[1] if match else plain


def modifiers(parameter: CompiledParameter) -> tuple[str, ...]:
    """Give the modifiers of a reference parameter, beside missing and the resource types."""
    return () if parameter.data_types == frozenset({"canonical"}) else ("identifier",)


def condition(question: Criterion) -> Condition:
    """Give the condition that a reference is as asked."""
    return any_value(question.parameter, leaf_test(question), prefilter(question))


def leaf_test(question: Criterion) -> Callable[[Any], bool]:
    """Give what tells whether one value matches."""
    if question.modifier != "identifier":
        return parse_references(question).match
    identified = tokens.parse_tokens(question)
    return lambda leaf: identified.match(_identifier(leaf))


def prefilter(question: Criterion) -> Prefilter | None:
    """Give the terms of which a match has one."""
    if question.modifier == "identifier":
        return None
    return pointing_to(question.parameter, (key(unescape(value)) for value in question.values))


def pointing_to(parameter: CompiledParameter, keys: Iterable[str]) -> Prefilter | None:
    """Give the terms of references to these keys."""
    wanted = tuple(keys)
    terms = (prefilters.term(group, KIND, each) for group in parameter.groups for each in wanted)
    return AnyTerm(frozenset(terms)) if parameter.groups else None


def parse_references(question: Criterion) -> ReferenceSet:
    """
    Give the references that a question's values name.

    Raises:
        InvalidParameter: A value is no reference, or its type is not the modifier's.
    """
    ids, targets, texts = set(), set(), set()
    for value in map(unescape, question.values):
        target = split_reference(value, question.base_urls)
        if target is not None:
            _check_type(question, target[0])
            if _HISTORY in value:
                texts.add(f"{target[0]}/{target[1]}{_HISTORY}{value.rpartition('/')[2]}")
            else:
                targets.add(target)
        elif _ID.fullmatch(value):
            if question.modifier:
                targets.add((question.modifier, value))
            else:
                ids.add(value)
        elif ":" in value and not question.modifier:
            texts.add(value)
        else:
            raise question.invalid(_EXPECTED)
    return ReferenceSet(
        base_urls=question.base_urls,
        ids=frozenset(ids),
        targets=frozenset(targets),
        texts=frozenset(texts),
    )


def _check_type(question: Criterion, resource_type: str) -> None:
    if resource_type not in load_definitions(question.version).types:
        raise question.invalid(f"{_EXPECTED}; FHIR {question.version} has no such type")
    if question.modifier not in (None, resource_type):
        raise question.invalid("the value's type is not the modifier's")


def _identifier(leaf: Any) -> Any:  # noqa: ANN401 - decoded JSON
    if type(leaf) is not dict:
        return None
    inner = leaf.get("reference")
    return (inner if type(inner) is dict else leaf).get("identifier")
