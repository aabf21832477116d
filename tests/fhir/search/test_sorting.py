"""The order of resources by the parameters of every type."""

from itertools import permutations

import msgspec
import pytest

from helios_core.errors import InvalidParameter, UnsupportedParameter
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.search.sorting import MAX_KEYS, MAX_TEXT, parse_sort, sortable

R4 = FHIRVersion.R4


def ordered(resource_type, text, *resources):
    """The ids of resources as they follow each other."""
    sort = parse_sort(R4, resource_type, text)
    positions = []
    for resource in resources:
        line = msgspec.json.encode({"resourceType": resource_type, **resource})
        positions.append(sort.position(sort.values(line), resource["id"]))
    return "".join(position[-1] for position in sorted(positions))


def observation(resource_id, **elements):
    return {"id": resource_id, **elements}


def quantity(resource_id, value, **elements):
    return observation(resource_id, valueQuantity={"value": value, **elements})


@pytest.mark.parametrize(
    ("parameter", "first", "second"),
    [
        ("date", {"effectiveDateTime": "2020"}, {"effectiveDateTime": "2020-02"}),
        ("date", {"effectivePeriod": {"end": "2030"}}, {"effectiveDateTime": "1900"}),
        (
            "date",
            {"effectivePeriod": {"start": "2020", "end": "2021"}},
            {"effectivePeriod": {"start": "2020"}},
        ),
        (
            "date",
            {"effectiveDateTime": "2020-01-01T00:00:00+14:00"},
            {"effectiveDateTime": "2020-01-01T00:00:00Z"},
        ),
        ("date", {"effectiveDateTime": "0001"}, {"effectiveDateTime": "9999-12-31"}),
        ("status", {"status": "amended"}, {"status": "Final"}),
        (
            "code",
            {"code": {"coding": [{"code": "9"}, {"code": "A"}]}},
            {"code": {"coding": [{"system": "a", "code": "b"}]}},
        ),
        ("value-quantity", {"valueQuantity": {"value": -3}}, {"valueQuantity": {"value": 2}}),
        ("value-quantity", {"valueQuantity": {"value": 9.5}}, {"valueQuantity": {"value": 10}}),
        (
            "value-quantity",
            {"valueQuantity": {"value": 1, "comparator": "<"}},
            {"valueQuantity": {"value": 1}},
        ),
        ("value-string", {"valueString": "äb"}, {"valueString": "ac"}),
        ("value-string", {"valueString": "Ab"}, {"valueString": "aC"}),
        (
            "subject",
            {"subject": {"reference": "Patient/a"}},
            {"subject": {"reference": "Patient/b"}},
        ),
        (
            "_lastUpdated",
            {"meta": {"lastUpdated": "2020-01-01T00:00:00.000001Z"}},
            {"meta": {"lastUpdated": "2020-01-01T00:00:00.000002Z"}},
        ),
    ],
)
def test_values_follow_each_other_and_what_has_none_comes_last(parameter, first, second):
    resources = [observation("z", **first), observation("y", **second), observation("x")]
    for some in permutations(resources):
        assert ordered("Observation", parameter, *some) == "zyx"
        assert ordered("Observation", f"-{parameter}", *some) == "yzx"


def test_of_several_values_the_one_that_comes_first_counts():
    patients = [
        {"id": "a", "name": [{"family": "M"}, {"family": "Z"}]},
        {"id": "b", "name": [{"family": "N"}]},
    ]

    assert ordered("Patient", "family", *patients) == "ab"
    assert ordered("Patient", "-family", *patients) == "ab"


def test_equal_ones_go_by_the_next_parameter_and_at_last_by_id():
    observations = [
        quantity("b", 1) | {"status": "final"},
        quantity("a", 2) | {"status": "final"},
        quantity("d", 1) | {"status": "amended"},
        quantity("c", 1) | {"status": "amended"},
    ]

    assert ordered("Observation", "status,-value-quantity", *observations) == "cdab"
    assert ordered("Observation", "-value-quantity,-_id", *observations) == "adcb"
    assert ordered("Observation", "status,-_id,value-quantity", *observations) == "dcba"


def test_numbers_are_compared_exactly_up_to_forty_digits():
    low, high = "1." + "0" * 30 + "1", "1." + "0" * 30 + "2"
    lines = [
        b'{"resourceType":"Observation","valueQuantity":{"value":%s}}' % number.encode()
        for number in (low, high, "1e999999999999", "-1e99999")
    ]
    sort = parse_sort(R4, "Observation", "value-quantity")

    first, second, _, lowest = (sort.position(sort.values(line), "x") for line in lines)

    assert lowest < first < second


@pytest.mark.parametrize("version", FHIRVersion)
def test_every_parameter_has_values_that_survive_a_link(version):
    """A page begins where the one before it ended, however that is encoded."""
    kinds = {
        "valueQuantity": {"value": 1.10},
        "birthDate": "2020",
        "name": [{"family": "x" * 1000}],
        "url": "http://x.example/" + "y" * 1000,
    }
    for resource_type in ("Patient", "Observation", "ValueSet"):
        line = msgspec.json.encode({"resourceType": resource_type, "id": "a", **kinds})
        for code in sortable(version, resource_type):
            for text in (code, f"-{code}"):
                sort = parse_sort(version, resource_type, text)
                values = sort.values(line)
                sent = msgspec.json.decode(msgspec.json.encode(list(values)))
                assert sort.parse_values(sent) == values
                assert len(msgspec.json.encode(sent)) < MAX_TEXT * 4


@pytest.mark.parametrize("values", [[], [1], ["x", "y"], [["NaN", 0]], [{}], [[1]], [["x", 0]]])
def test_values_of_another_kind_are_refused(values):
    sort = parse_sort(R4, "Observation", "value-quantity")

    with pytest.raises(InvalidParameter):
        sort.parse_values(values)


@pytest.mark.parametrize(
    "text",
    [
        *("", ",", "bogus", "--date", "date:missing", "+date", "date,,code"),
        *("code-value-quantity", ",".join(["date"] * (MAX_KEYS + 1))),
    ],
)
def test_what_cannot_be_sorted_by_is_refused_without_its_text(text):
    with pytest.raises(UnsupportedParameter) as refused:
        parse_sort(R4, "Observation", text)

    assert "bogus" not in str(refused.value)


@pytest.mark.parametrize("version", FHIRVersion)
def test_every_type_can_be_sorted_by_every_parameter_but_composites(version):
    for resource_type in load_definitions(version).types:
        codes = sortable(version, resource_type)
        assert {"_id", "_lastUpdated"} <= {*codes}
        for code in codes:
            assert parse_sort(version, resource_type, code).keys[0].parameter.code == code
