"""What an address and options mean, and how they reach the server."""

import msgspec
import pytest

from helios_core.client.kickoff import ClientRequest, read_url, repeated_parameters
from helios_core.errors import ConfigurationError
from helios_core.model.exports import Level

BASE = "https://fhir.example/r4"


@pytest.mark.parametrize(
    ("address", "level", "group", "query"),
    [
        (BASE, Level.SYSTEM, None, ""),
        (f"{BASE}/", Level.SYSTEM, None, ""),
        (f"{BASE}/$export", Level.SYSTEM, None, ""),
        (f"{BASE}/$export/", Level.SYSTEM, None, ""),
        (f"{BASE}/%24export", Level.SYSTEM, None, ""),
        (f"{BASE}/$export?", Level.SYSTEM, None, ""),
        (f"{BASE}/$export?_type=Patient", Level.SYSTEM, None, "_type=Patient"),
        (f"{BASE}/Patient/$export?_since=x+y", Level.PATIENT, None, "_since=x+y"),
        (f"{BASE}/Group/a.b/$export", Level.GROUP, "a.b", ""),
        (f"{BASE}/Group/a%20b/$export?x=%2C", Level.GROUP, "a b", "x=%2C"),
    ],
)
def test_an_address_is_a_base_or_a_kick_off(address, level, group, query):
    request = read_url(address)

    assert request == ClientRequest(base_url=BASE, level=level, group_id=group, query=query)


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        (f"{BASE}?_type=Patient", f"'{BASE}/$export?_type=Patient'"),
        (f"{BASE}/?_type=Patient", f"'{BASE}/$export?_type=Patient'"),
        # What is left when a shell has replaced $export by nothing.
        (f"{BASE}/Patient/?_type=Patient", f"'{BASE}/Patient/$export?_type=Patient'"),
        (f"{BASE}/Group/g/?_since=x", f"'{BASE}/Group/g/$export?_since=x'"),
        (f"{BASE}/$everything?_type=x", f"'{BASE}/$export?_type=x'"),
        (f"{BASE}/$export-poll-status?_jobId=1", "another operation"),
        (f"{BASE}#fragment", f"'{BASE}/$export'"),
        ("fhir.example", "not an http or https address"),
        ("ftp://fhir.example", "not an http or https address"),
        ("http://[fhir", "not an http or https address"),
        ("http://fhir.example:99999", "not an http or https address"),
        ("https://", "not an http or https address"),
        ("https://me:secret@fhir.example", "--token-file"),
    ],
)
def test_another_address_is_refused_with_what_was_meant(address, meant):
    with pytest.raises(ConfigurationError) as refused:
        read_url(address)

    assert meant in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("path", ["$export?a=1&b=%2B&b=", "Patient/$export", "Group/g/$export"])
def test_a_kick_off_url_is_sent_as_it_was_given(path):
    assert read_url(f"{BASE}/{path}").get_url == f"{BASE}/{path}"


def test_options_follow_the_query_of_the_address():
    request = msgspec.structs.replace(
        read_url(f"{BASE}/$export?_type=Patient"),
        since="2026-01-01T00:00:00+01:00",
        type_filters=("Patient?active=true", "Device?status=active,inactive"),
        elements=("id", "name"),
    )

    assert request.get_url == (
        f"{BASE}/$export?_type=Patient&_since=2026-01-01T00%3A00%3A00%2B01%3A00"
        "&_elements=id%2Cname&_typeFilter=Patient%3Factive%3Dtrue"
        "&_typeFilter=Device%3Fstatus%3Dactive%2Cinactive"
    )


def test_a_post_says_the_same_in_parameters():
    request = msgspec.structs.replace(
        read_url(f"{BASE}/Patient/$export?_type=Patient,Device&_since=2026-01-01T00:00:00+01:00"),
        patients=("a", "Patient/b"),
        associated=("LatestProvenanceResources",),
        organize_by="Patient",
        until="2027-01-01T00:00:00Z",
    )

    assert request.needs_post
    assert request.parameters["parameter"] == [
        {"name": "_type", "valueString": "Patient"},
        {"name": "_type", "valueString": "Device"},
        {"name": "_since", "valueInstant": "2026-01-01T00:00:00+01:00"},
        {"name": "_until", "valueInstant": "2027-01-01T00:00:00Z"},
        {"name": "patient", "valueReference": {"reference": "Patient/a"}},
        {"name": "patient", "valueReference": {"reference": "Patient/b"}},
        {"name": "includeAssociatedData", "valueString": "LatestProvenanceResources"},
        {"name": "organizeOutputBy", "valueString": "Patient"},
    ]


def test_what_is_said_twice_is_noticed():
    request = msgspec.structs.replace(
        read_url(f"{BASE}/$export?_type=Patient&_since=x"), types=("Device",), until="y"
    )

    assert repeated_parameters(request) == ["_type"]
