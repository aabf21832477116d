"""The bounds and costs of prefilters."""

from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.search import (
    AllOf,
    AnyId,
    AnyOf,
    AnyTerm,
    SpanWithin,
    UpdatedWithin,
    any_filter,
    compile_query,
    lookup_cost,
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


def test_only_a_search_without_conditions_passes_everything():
    assert compile_query(FHIRVersion.R4, "Patient", []).passes_everything
    assert not compile_query(FHIRVersion.R4, "Patient", [("gender", "male")]).passes_everything
    assert not compile_query(FHIRVersion.R4, "Patient", [("_id", "p1")]).passes_everything


def test_the_ids_of_several_filters_are_looked_up_together():
    one, other = (compile_query(FHIRVersion.R4, "Patient", [("_id", i)]) for i in ("a,b", "b,c"))

    assert any_filter([one, other]).prefilter() == AnyId(frozenset("abc"))
