"""
Reference parameters: by id or type and id, by URL, or by identifier.

Implements `ParameterType`.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from helios_core.fhir.definitions import load_definitions
from helios_core.fhir.references import split_reference
from helios_core.fhir.search import prefilters, tokens
from helios_core.fhir.search.criteria import Criterion
from helios_core.fhir.search.parameters import CompiledParameter
from helios_core.fhir.search.prefilters import AnyTerm, Prefilter
from helios_core.fhir.search.values import unescape

TERM_KIND = "r"
"""Distinguishes the terms of references from other terms of a group."""

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_HISTORY = "/_history/"
_REFERENCED_ID = re.compile(
    r"(?:.*/)?[A-Z][A-Za-z]{1,63}/([A-Za-z0-9\-.]{1,64})(?:/_history/[^/]*)?", re.DOTALL
)
_EXPECTED = "expected an id, Type/id, or an absolute URL"


class ReferenceSet(msgspec.Struct, frozen=True, kw_only=True):
    """The references of a criterion; a leaf matches if it is one of them."""

    base_urls: Sequence[str]
    ids: frozenset[str] = frozenset()
    """Ids on this server, of any type."""
    targets: frozenset[tuple[str, str]] = frozenset()
    """Types and ids on this server, of any version."""
    texts: frozenset[str] = frozenset()
    """URLs, and `Type/id/_history/version` without a base URL; the text must be equal."""

    def matches(self, leaf: Any) -> bool:  # noqa: ANN401 - decoded JSON
        """Return whether a leaf is one of the references."""
        text = reference_text(leaf)
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
            or (bool(self.texts) and _HISTORY in text and self._has_version(target, text))
        )

    def _has_version(self, target: tuple[str, str], text: str) -> bool:
        return f"{target[0]}/{target[1]}{_HISTORY}{text.rpartition('/')[2]}" in self.texts


def reference_text(leaf: Any) -> str | None:  # noqa: ANN401 - decoded JSON
    """Return the text of a Reference, CodeableReference or canonical, or of an inline resource."""
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


def reference_key(text: str) -> str:
    """
    Return the key under which a reference is indexed: its id, whatever its server and version.

    A canonical URL is indexed under the URL without its version.
    """
    resource_type, _, resource_id = text.rpartition("/")
    if resource_type.isalpha() and "|" not in resource_id and "#" not in resource_id:
        return resource_id  # the same result as below, but faster, for most references
    plain = text.partition("|")[0].partition("#")[0]
    match = _REFERENCED_ID.fullmatch(plain)
    return match[1] if match else plain


def modifiers(parameter: CompiledParameter) -> tuple[str, ...]:
    """Return the supported modifiers, except `missing` and the resource types."""
    return () if parameter.data_types == frozenset({"canonical"}) else ("identifier",)


def leaf_test(criterion: Criterion) -> Callable[[Any], bool]:
    """Return a test of a leaf: whether it is one of the criterion's references."""
    if criterion.modifier != "identifier":
        return parse_references(criterion).matches
    identifiers = tokens.parse_tokens(criterion)
    return lambda leaf: identifiers.matches(_identifier(leaf))


def prefilter(criterion: Criterion) -> Prefilter | None:
    """Return the terms of which every match has at least one, or None if an index cannot help."""
    if criterion.modifier == "identifier":
        return None
    keys = (reference_key(unescape(value)) for value in criterion.values)
    return prefilter_for_keys(criterion.parameter, keys)


def prefilter_for_keys(parameter: CompiledParameter, keys: Iterable[str]) -> Prefilter | None:
    """Return the prefilter for references with one of these keys (`reference_key`)."""
    keys = tuple(keys)
    terms = (
        prefilters.term_hash(group, TERM_KIND, key) for group in parameter.groups for key in keys
    )
    return AnyTerm(frozenset(terms)) if parameter.groups else None


def parse_references(criterion: Criterion) -> ReferenceSet:
    """
    Parse the values of a criterion as references.

    Raises:
        InvalidParameter: A value is not a reference, or its type is not that of the modifier.
    """
    ids, targets, texts = set(), set(), set()
    for value in map(unescape, criterion.values):
        target = split_reference(value, criterion.base_urls)
        if target is not None:
            _check_type(criterion, target[0])
            if _HISTORY in value:
                texts.add(f"{target[0]}/{target[1]}{_HISTORY}{value.rpartition('/')[2]}")
            else:
                targets.add(target)
        elif _ID.fullmatch(value):
            if criterion.modifier:
                targets.add((criterion.modifier, value))
            else:
                ids.add(value)
        elif ":" in value and not criterion.modifier:
            texts.add(value)
        else:
            raise criterion.invalid(_EXPECTED)
    return ReferenceSet(
        base_urls=criterion.base_urls,
        ids=frozenset(ids),
        targets=frozenset(targets),
        texts=frozenset(texts),
    )


def sort_values(leaf: Any) -> tuple[str, ...]:  # noqa: ANN401 - decoded JSON
    """Return the text of a reference."""
    text = reference_text(leaf)
    return () if text is None else (text,)


def _check_type(criterion: Criterion, resource_type: str) -> None:
    if resource_type not in load_definitions(criterion.version).types:
        raise criterion.invalid(f"{_EXPECTED}; FHIR {criterion.version} has no such resource type")
    if criterion.modifier not in (None, resource_type):
        raise criterion.invalid("the resource type of the value differs from the modifier")


def _identifier(leaf: Any) -> Any:  # noqa: ANN401 - decoded JSON
    if type(leaf) is not dict:
        return None
    inner = leaf.get("reference")
    return (inner if type(inner) is dict else leaf).get("identifier")
