import msgspec
import pytest

from helios_core.errors import InvalidParameter, InvalidRequest, UnsupportedParameter
from helios_core.export.kickoff.parsing import parse_kickoff
from helios_core.export.kickoff.request import KickoffRequest
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.instants import format_instant
from helios_core.model.exports import Level

STRICT = ("respond-async, handling=strict",)
LENIENT = ("respond-async, handling=lenient",)


def call(*query, level=Level.SYSTEM, body=None, prefer=("respond-async",), version=FHIRVersion.R4):
    return KickoffRequest(
        tenant="default",
        fhir_version=version,
        level=level,
        group_id="g1" if level is Level.GROUP else None,
        url="http://localhost/$export",
        query=query,
        body=body,
        prefer=prefer,
        base_url="http://localhost/fhir",
    )


def posted(*parameters, level=Level.PATIENT, **options):
    body = {"resourceType": "Parameters", "parameter": list(parameters)}
    return call(level=level, body=msgspec.json.encode(body), **options)


@pytest.mark.parametrize(
    "prefer",
    [
        ["respond-async"],
        ["Respond-Async;wait=10"],
        ["respond-async, foo=bar"],
        ["handling=lenient", "respond-async"],
        ['handling="lenient",respond-async'],
    ],
)
def test_respond_async_is_found_anywhere_in_prefer(prefer):
    """TR-01, TR-03"""
    assert parse_kickoff(call(prefer=prefer)).level is Level.SYSTEM


def test_a_comma_in_quotes_separates_no_preferences():
    prefer = ['app="a, handling=maybe"; b="c, d"', 'respond-async, handling="strict"']

    assert parse_kickoff(call(prefer=prefer)).level is Level.SYSTEM


@pytest.mark.parametrize("prefer", [[], ["handling=strict"], ["not-respond-async"], ["return=x"]])
def test_without_respond_async_nothing_is_accepted(prefer):
    """B2-KO-16"""
    with pytest.raises(InvalidRequest, match="respond-async"):
        parse_kickoff(call(prefer=prefer))


def test_an_unknown_handling_is_refused():
    with pytest.raises(InvalidRequest, match="handling=strict"):
        parse_kickoff(call(prefer=["respond-async, handling=maybe"]))


@pytest.mark.parametrize(
    "query",
    [
        [("_type", "Patient"), ("_type", "Observation")],
        [("_type", "Patient,Observation")],
        [("_type", " Patient , Observation,Patient,")],
    ],
)
def test_repeats_and_commas_mean_the_same(query):
    """B2-KO-04, TR-24"""
    assert parse_kickoff(call(*query)).types == ("Patient", "Observation")


def test_an_omitted_type_means_every_type_of_the_level():
    """B2-P-10"""
    system = parse_kickoff(call()).types
    patient = parse_kickoff(call(level=Level.PATIENT)).types

    assert {"Patient", "Organization", "CodeSystem"} <= set(system)
    assert {"Patient", "Observation"} <= set(patient)
    assert "Organization" not in patient


@pytest.mark.parametrize("handling", [["respond-async"], STRICT])
@pytest.mark.parametrize("value", ["NotAType", "Patient,NotAType", "patient", "Resource", "", ","])
def test_an_unknown_or_empty_type_is_refused(value, handling):
    """B2-P-12, TR-24, RV-14"""
    with pytest.raises(InvalidParameter, match="_type"):
        parse_kickoff(call(("_type", value), prefer=handling))


def test_a_type_of_another_version_is_reported_as_such():
    with pytest.raises(InvalidParameter, match="is not a resource type of FHIR R4; it is one of"):
        parse_kickoff(call(("_type", "InventoryItem")))


def test_lenient_leaves_an_unknown_type_out_and_says_so():
    """B2-P-14"""
    request = parse_kickoff(call(("_type", "Patient,NotAType"), prefer=LENIENT))

    assert request.types == ("Patient",)
    assert len(request.ignored) == 1
    assert "NotAType" in request.ignored[0]


def test_lenient_never_turns_unknown_types_into_everything():
    """B2-P-14"""
    with pytest.raises(InvalidParameter):
        parse_kickoff(call(("_type", "NotAType"), prefer=LENIENT))


def test_only_types_outside_the_compartment_are_refused_at_patient_level():
    """B2-P-13"""
    with pytest.raises(InvalidParameter, match="compartment"):
        parse_kickoff(call(("_type", "CodeSystem"), level=Level.PATIENT))


def test_types_outside_the_compartment_beside_others_are_left_out_and_reported():
    request = parse_kickoff(call(("_type", "CodeSystem,Patient"), level=Level.PATIENT))

    assert request.types == ("Patient",)
    assert "CodeSystem" in request.ignored[0]


def test_strict_refuses_a_type_outside_the_compartment():
    with pytest.raises(InvalidParameter):
        parse_kickoff(call(("_type", "CodeSystem,Patient"), level=Level.PATIENT, prefer=STRICT))


@pytest.mark.parametrize("handling", [["respond-async"], STRICT])
def test_an_unknown_parameter_is_refused(handling):
    """TR-10"""
    with pytest.raises(UnsupportedParameter, match="bogus"):
        parse_kickoff(call(("bogus", "1"), prefer=handling))


def test_lenient_ignores_an_unknown_parameter_and_says_so():
    request = parse_kickoff(call(("bogus", "1"), prefer=LENIENT))

    assert "bogus" in request.ignored[0]


@pytest.mark.parametrize("name", ["_format", "_pretty"])
def test_presentation_parameters_change_nothing(name):
    assert parse_kickoff(call((name, "json"), prefer=STRICT)).ignored == ()


@pytest.mark.parametrize(
    "value",
    [
        "application/fhir+ndjson",
        "application/fhir ndjson",
        "application/ndjson",
        "ndjson",
    ],
)
def test_every_spelling_of_ndjson_is_accepted(value):
    """B2-P-03, TR-20"""
    assert parse_kickoff(call(("_outputFormat", value))).ignored == ()


@pytest.mark.parametrize("handling", [["respond-async"], LENIENT])
def test_another_output_format_is_refused(handling):
    """B2-P-04, RV-13"""
    with pytest.raises(UnsupportedParameter, match="_outputFormat"):
        parse_kickoff(call(("_outputFormat", "text/csv"), prefer=handling))


@pytest.mark.parametrize("name", ["_since", "_until", "_outputFormat"])
def test_a_parameter_that_may_come_once_is_refused_twice(name):
    """TR-15"""
    value = "ndjson" if name == "_outputFormat" else "2024-01-01T00:00:00Z"
    with pytest.raises(InvalidParameter, match=name):
        parse_kickoff(call((name, value), (name, value)))


@pytest.mark.parametrize(
    "value", ["2024-01-01T01:00:00+01:00", "2024-01-01T01:00:00 01:00", "2024-01-01T00:00:00.000Z"]
)
def test_since_is_an_instant_in_any_zone(value):
    """TR-20, TR-21"""
    since = parse_kickoff(call(("_since", value))).since

    assert format_instant(since) == "2024-01-01T00:00:00.000000Z"


@pytest.mark.parametrize(
    "value",
    ["2024", "2024-01-01", "2024-02-30T00:00:00Z", "2024-01-01T00:00:00", "yesterday", "", "0"],
)
def test_since_without_time_or_zone_or_of_no_day_is_refused(value):
    with pytest.raises(InvalidParameter, match="_since"):
        parse_kickoff(call(("_since", value), prefer=LENIENT))


def test_digits_beyond_microseconds_keep_both_ends_exclusive():
    request = parse_kickoff(
        call(
            ("_since", "2024-01-01T00:00:00.1234567Z"), ("_until", "2024-01-02T00:00:00.1234567Z")
        )
    )

    assert format_instant(request.since) == "2024-01-01T00:00:00.123456Z"
    assert format_instant(request.until) == "2024-01-02T00:00:00.123457Z"


@pytest.mark.parametrize("until", ["2024-01-01T00:00:00Z", "2023-01-01T00:00:00Z"])
def test_since_not_before_until_is_refused(until):
    with pytest.raises(InvalidParameter, match="_since is not before _until"):
        parse_kickoff(call(("_since", "2024-01-01T00:00:00Z"), ("_until", until)))


def test_patient_is_refused_by_get_and_at_system_level():
    """B2-P-24, RV-18"""
    with pytest.raises(InvalidParameter, match="POST"):
        parse_kickoff(call(("patient", "Patient/p1"), level=Level.PATIENT))
    with pytest.raises(InvalidParameter, match="system"):
        parse_kickoff(posted({"name": "patient", "valueString": "p1"}, level=Level.SYSTEM))


@pytest.mark.parametrize(
    "value",
    [
        {"valueReference": {"reference": "Patient/p1"}},
        {"valueReference": {"reference": "http://localhost/fhir/Patient/p1"}},
        {"valueString": "Patient/p1"},
        {"valueString": "p1,Patient/p1"},
    ],
)
def test_a_patient_may_be_named_in_several_ways(value):
    """TR-26"""
    assert parse_kickoff(posted({"name": "patient", **value})).patients == ("p1",)


@pytest.mark.parametrize(
    "value",
    [
        {"valueReference": {"reference": "Group/p1"}},
        {"valueReference": {"reference": "http://elsewhere/Patient/p1"}},
        {"valueReference": {"display": "p1"}},
        {"valueReference": "Patient/p1"},
        {"valueInteger": 1},
        {"valueString": ""},
        {"valueString": "../p1"},
    ],
)
def test_a_value_that_is_no_patient_of_this_server_is_refused(value):
    with pytest.raises(InvalidParameter, match="patient"):
        parse_kickoff(posted({"name": "patient", **value}))


@pytest.mark.parametrize("kind", ["valueInstant", "valueDateTime", "valueString"])
def test_since_is_accepted_in_every_kind_of_value_that_clients_send(kind):
    """TR-13"""
    request = parse_kickoff(posted({"name": "_since", kind: "2024-01-01T00:00:00Z"}))

    assert format_instant(request.since) == "2024-01-01T00:00:00.000000Z"


def test_query_and_body_are_merged():
    """TR-16"""
    body = b'{"resourceType":"Parameters","parameter":[{"name":"_type","valueString":"Patient"}]}'

    assert parse_kickoff(call(("_type", "Device"), body=body)).types == ("Device", "Patient")


def test_parameters_without_entries_are_accepted():
    assert parse_kickoff(call(body=b'{"resourceType":"Parameters"}')).ignored == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe",
        b'{"resourceType":"Patient"}',
        b'{"resourceType":"Parameters","parameter":{}}',
        b'{"resourceType":"Parameters","parameter":[{}]}',
        b'{"resourceType":"Parameters","parameter":[{"name":7,"valueString":"x"}]}',
        b'{"resourceType":"Parameters","parameter":[{"name":"_type"}]}',
        b'{"resourceType":"Parameters","parameter":[{"name":"_type","valueBoolean":true}]}',
        b'{"resourceType":"Parameters","parameter":[{"name":"_type","valueString":null}]}',
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_parameters_resource_is_refused(body):
    """TR-12, RV-19"""
    with pytest.raises(InvalidRequest):
        parse_kickoff(call(body=body))
