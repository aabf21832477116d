import msgspec
import pytest

from helios_core.errors import InvalidParameter, UnsupportedParameter
from helios_core.export.kickoff.parsing import parse_kickoff
from helios_core.export.kickoff.request import ExportPolicy, KickoffRequest
from helios_core.fhir.bulk_data import GUIDES, GuideVersion
from helios_core.fhir.definitions import FHIRVersion
from helios_core.model.exports import Level

DRAFT = ExportPolicy(guide=GUIDES[GuideVersion.DRAFT_4])
STRICT = "respond-async, handling=strict"
LENIENT = "respond-async, handling=lenient"


def call(*query, policy=None, body=None, prefer="respond-async", level=Level.SYSTEM):
    parameters = {"resourceType": "Parameters", "parameter": body}
    return KickoffRequest(
        tenant="default",
        fhir_version=FHIRVersion.R4,
        level=level,
        url="http://localhost/$export",
        query=query,
        body=None if body is None else msgspec.json.encode(parameters),
        prefer=[prefer],
        base_url="http://localhost",
        policy=policy or ExportPolicy(),
    )


@pytest.mark.parametrize("name", ["_type", "_elements", "_typeFilter"])
def test_the_draft_of_version_4_has_no_comma_lists(name):
    """B4-02: a comma is refused where it would have joined values."""
    value = {"_typeFilter": "Patient?gender=male,Patient?active=true"}.get(name, "id,meta")
    both = [("_type", "Patient"), (name, value)] if name != "_type" else [(name, value)]

    with pytest.raises((InvalidParameter, UnsupportedParameter)):
        parse_kickoff(call(*both, policy=DRAFT))


def test_the_draft_of_version_4_repeats_instead():
    """B4-02: repeated entries mean what a list meant."""
    types = [("_type", "Patient"), ("_type", "Observation")]

    assert parse_kickoff(call(*types, policy=DRAFT)).types == ("Patient", "Observation")


def test_a_comma_inside_a_query_keeps_its_meaning_in_the_draft():
    """B4-02: it joins values of the search, not queries."""
    query = ("_typeFilter", "Patient?gender=male,female")

    request = parse_kickoff(call(("_type", "Patient"), query, policy=DRAFT))

    assert [each.resource_type for each in request.filters] == ["Patient"]


@pytest.mark.parametrize("size", [{"valueInteger": 5000}, {"valueString": "5000"}])
def test_the_maximum_file_size_becomes_part_of_the_request(size):
    """B4-08"""
    request = parse_kickoff(call(policy=DRAFT, body=[{"name": "_maximumFileSize", **size}]))

    assert request.max_part_bytes == 5000


@pytest.mark.parametrize(
    "sizes",
    [
        {"_maximumFileSize": "0"},
        {"_maximumFileSize": "-1"},
        {"_maximumFileSize": "many"},
        {"_minimumFileSize": "1.5"},
        {"_minimumFileSize": "10", "_maximumFileSize": "10"},
        {"_minimumFileSize": "11", "_maximumFileSize": "10"},
    ],
)
@pytest.mark.parametrize("prefer", [STRICT, LENIENT])
def test_impossible_sizes_are_refused(sizes, prefer):
    """B4-08: sizes are positive, and the largest is above the smallest."""
    with pytest.raises(InvalidParameter):
        parse_kickoff(call(*sizes.items(), policy=DRAFT, prefer=prefer))


def test_a_minimum_size_is_reported_as_ignored():
    """B4-08: the last file of a range may be smaller."""
    asked = call(("_minimumFileSize", "10"), policy=DRAFT)

    [reported] = parse_kickoff(asked).ignored

    assert reported.startswith("_minimumFileSize")
    with pytest.raises(UnsupportedParameter):
        parse_kickoff(call(("_minimumFileSize", "10"), policy=DRAFT, prefer=STRICT))


def test_sizes_are_unknown_to_published_versions():
    with pytest.raises(UnsupportedParameter, match="_maximumFileSize"):
        parse_kickoff(call(("_maximumFileSize", "10")))


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"valueBoolean": True}, True),
        ({"valueBoolean": False}, False),
        ({"valueString": "true"}, True),
    ],
)
def test_a_client_requests_partial_manifests(entry, expected):
    """B3-21, RC-05: as a boolean or as text."""
    asked = call(body=[{"name": "allowPartialManifests", **entry}])

    assert parse_kickoff(asked).partial_manifests is expected


def test_partial_manifests_are_off_by_default():
    """B3-26, TR-45"""
    assert parse_kickoff(call()).partial_manifests is False
    assert parse_kickoff(call()).separate_status is False


@pytest.mark.parametrize("name", ["allowPartialManifests", "_dryRun"])
@pytest.mark.parametrize("value", ["maybe", "", "TRUE", "1"])
@pytest.mark.parametrize("prefer", ["respond-async", STRICT, LENIENT])
def test_a_flag_neither_true_nor_false_is_refused(name, value, prefer):
    """B3-21: also under lenient, since the meaning is not known."""
    with pytest.raises(InvalidParameter, match=name):
        parse_kickoff(call((name, value), prefer=prefer))


def test_a_flag_given_twice_is_refused():
    with pytest.raises(InvalidParameter, match="2 times"):
        parse_kickoff(call(*[("allowPartialManifests", "true")] * 2))


@pytest.mark.parametrize(
    "value", [{"valueInteger": 1}, {"valueBoolean": 1}, {"valueCode": "true"}]
)
def test_a_flag_of_another_kind_is_refused(value):
    """B3-21"""
    with pytest.raises(InvalidParameter, match="allowPartialManifests"):
        parse_kickoff(call(body=[{"name": "allowPartialManifests", **value}]))


@pytest.mark.parametrize(
    "prefer",
    [
        "respond-async,separate-export-status",
        "respond-async, Separate-Export-Status",
        "separate-export-status; x=1, respond-async",
    ],
)
def test_the_preference_for_a_separate_status_is_parsed(prefer):
    """B3-02"""
    assert parse_kickoff(call(prefer=prefer)).separate_status
