"""The bounds, costs and necessary terms of prefilters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.search import (
    AllOf,
    AnyId,
    AnyOf,
    AnyTerm,
    IndexTerms,
    SpanWithin,
    UpdatedWithin,
    any_filter,
    compile_query,
    id_term,
    lookup_cost,
    necessary_terms,
    satisfies,
)

LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1
TERM, IDS, SPAN = AnyTerm(frozenset({1})), AnyId(frozenset({"p1"})), SpanWithin(group=1)


def test_open_bounds_are_the_ends_of_what_64_bits_hold():
    assert SPAN.bounds == (LOWEST, HIGHEST, LOWEST, HIGHEST)
    assert SpanWithin(group=1, low_from=1, low_to=2, high_from=3, high_to=0).bounds == (1, 2, 3, 0)
    assert UpdatedWithin(since=0).bounds == (0, HIGHEST)
    assert UpdatedWithin(until=5).bounds == (LOWEST, 5)


def test_ids_and_terms_cost_less_than_instants_and_spans():
    assert sorted([SPAN, UpdatedWithin(), TERM, IDS], key=lookup_cost) == [
        IDS,
        TERM,
        UpdatedWithin(),
        SPAN,
    ]


def test_all_cost_as_much_as_the_cheapest_and_any_as_the_dearest():
    assert lookup_cost(AllOf((SPAN, TERM))) == lookup_cost(TERM)
    assert lookup_cost(AnyOf((SPAN, TERM))) == lookup_cost(SPAN)


def satisfied(prefilter, terms, resource_id):
    entry = IndexTerms(terms=terms)
    return satisfies(prefilter, entry, resource_id=resource_id, updated=0)


parts = st.deferred(
    lambda: (
        st.builds(AnyTerm, st.frozensets(st.integers(0, 3)))
        | st.builds(AnyId, st.frozensets(st.sampled_from("abc")))
        | st.builds(UpdatedWithin)
        | st.builds(AllOf, st.lists(parts, min_size=1, max_size=3).map(tuple))
        | st.builds(AnyOf, st.lists(parts, min_size=1, max_size=3).map(tuple))
    )
)


@given(parts, st.frozensets(st.integers(0, 3)), st.sampled_from("abc"))
def test_what_satisfies_a_prefilter_has_one_of_its_necessary_terms(prefilter, terms, resource_id):
    necessary = necessary_terms(prefilter)

    if necessary is not None and satisfied(prefilter, terms, resource_id):
        assert necessary & {*terms, id_term(resource_id)}


@pytest.mark.parametrize(
    ("prefilter", "expected"),
    [
        (TERM, {1}),
        (IDS, {id_term("p1")}),
        (AnyOf((TERM, IDS)), {1, id_term("p1")}),
        (AllOf((SPAN, TERM)), {1}),
        (AnyOf((SPAN, TERM)), None),
        (UpdatedWithin(), None),
        (None, None),
    ],
)
def test_terms_are_necessary_of_ids_and_terms_alone(prefilter, expected):
    assert necessary_terms(prefilter) == expected


def test_only_a_search_without_conditions_passes_everything():
    assert compile_query(FHIRVersion.R4, "Patient", []).passes_everything
    assert not compile_query(FHIRVersion.R4, "Patient", [("gender", "male")]).passes_everything
    assert not compile_query(FHIRVersion.R4, "Patient", [("_id", "p1")]).passes_everything


def test_the_ids_of_several_filters_are_looked_up_together():
    one, other = (compile_query(FHIRVersion.R4, "Patient", [("_id", i)]) for i in ("a,b", "b,c"))

    assert any_filter([one, other]).prefilter() == AnyId(frozenset("abc"))
