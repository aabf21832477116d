"""What an index orders resources by is what the core sorts them by."""

import gzip
from pathlib import Path

import msgspec
import pytest
import xxhash

from helios_core.errors import InvalidParameter
from helios_core.fhir import FHIRVersion, load_definitions, terms_and_values, terms_of
from helios_core.fhir.search.parameters import CompiledParameter, compiled_parameters
from helios_core.fhir.search.sorting import parse_sort
from helios_core.fhir.search.value_orders import (
    MAX_VALUE_ORDERS,
    VALUES_VERSION,
    ordered_parameters,
)

EXAMPLES = Path(__file__).resolve().parents[4] / "shared" / "data" / "spec-examples"
R4 = FHIRVersion.R4


def dated(version, resource_type):
    """All parameters of a type whose values an index could order by."""
    return [
        parameter
        for parameter in compiled_parameters(version, resource_type).values()
        if isinstance(parameter, CompiledParameter)
        and parameter.type == "date"
        and parameter.groups
    ]


@pytest.mark.parametrize("version", list(FHIRVersion))
def test_there_is_an_order_for_each_date(version):
    for resource_type in load_definitions(version).types:
        ordered = ordered_parameters(version, resource_type)
        assert len(ordered) <= MAX_VALUE_ORDERS
        assert sorted(each.code for each in dated(version, resource_type)) == [
            each.code for each in ordered
        ]


def values(resource_type, **elements):
    line = msgspec.json.encode({"resourceType": resource_type, "id": "a", **elements})
    ordered = ordered_parameters(R4, resource_type)
    terms, found = terms_and_values(line, R4, resource_type)
    assert terms == terms_of(line, R4, resource_type)
    for text in ("", "-"):
        for number, parameter in enumerate(ordered):
            sort = parse_sort(R4, resource_type, text + parameter.code)
            assert sort.value_order.number == number
            assert sort.value_order.descending == bool(text)
            (value,) = sort.values(line)
            own = found[number]
            assert value == (own and (own.greatest if text else own.least))
    return {each.code: value for each, value in zip(ordered, found, strict=True)}


def test_the_least_and_the_greatest_of_several_values_are_kept():
    found = values(
        "Encounter",
        period={"start": "2020", "end": "2021"},
        location=[
            {"period": {"start": "2020-02-01", "end": "2020-02-02"}},
            {"period": {"start": "2020-02-01", "end": "2020-02-01"}},
            {"period": {"start": "2020-02-03", "end": "2020-02-03"}},
            {"period": {"end": "nonsense"}},
        ],
    )

    day = 86_400_000_000
    several = found["location-period"]
    assert several.greatest[0] - several.least[0] == 2 * day
    assert several.least[1] - several.least[0] == day - 1
    assert found["date"].least == found["date"].greatest


def test_what_has_no_valid_date_has_no_value():
    assert values("Observation") == {"date": None, "value-date": None}
    found = values("Observation", effectiveDateTime="soon", valueQuantity={"value": 1})
    assert set(found.values()) == {None}


def test_only_dates_are_in_an_order_of_an_index():
    for text in ("code", "_lastUpdated,date", "-_id", "value-quantity"):
        assert parse_sort(R4, "Observation", text).value_order is None
    assert parse_sort(R4, "Observation", "date,-_id").value_order is not None


def test_a_date_beyond_all_dates_is_none_of_a_page():
    (key,) = parse_sort(R4, "Observation", "date").keys
    assert key.parse([-(1 << 62), 1 << 62]) == (-(1 << 62), 1 << 62)
    for value in ([0, 1 << 63], [-(1 << 63), 0], [0, 1 << 90], [0], "0"):
        with pytest.raises(InvalidParameter):
            key.parse(value)


@pytest.mark.skipif(
    not EXAMPLES.is_dir(), reason="the specification's examples are not in ../shared/data"
)
def test_what_is_ordered_by_changes_only_with_its_version():
    """Raise VALUES_VERSION with every change that this finds: indexes are then built again."""
    digest = xxhash.xxh3_64()
    for version in (FHIRVersion.R4, FHIRVersion.R4B, FHIRVersion.R5):
        for line in gzip.decompress((EXAMPLES / f"{version}.ndjson.gz").read_bytes()).splitlines():
            resource_type = msgspec.json.decode(line)["resourceType"]
            _, found = terms_and_values(line, version, resource_type)
            codes = [each.code for each in ordered_parameters(version, resource_type)]
            digest.update(msgspec.json.encode([codes, found]))

    assert (VALUES_VERSION, digest.hexdigest()) == (1, "37736acfed7e998b")
