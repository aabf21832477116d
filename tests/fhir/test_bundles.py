import json

import pytest

from helios_core.errors import InvalidResource
from helios_core.fhir.bundles import ParsedEntry, parse_bundle
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.links import BundleLinks, rewrite_links
from helios_core.fhir.resources import parse_resource
from helios_core.fhir.strict_json import compact_json


def bundle(*entries, bundle_type="transaction", **others):
    content = {"resourceType": "Bundle", "type": bundle_type, "entry": list(entries), **others}
    return json.dumps(content, indent=1).encode()


def test_entries_keep_their_order_and_their_resources_text():
    body = b"""{ "resourceType": "Bundle", "type": "transaction", "entry": [
      { "fullUrl": "urn:uuid:1", "resource": { "resourceType": "Patient", "x": 1.10 },
        "request": { "method": "POST", "url": "Patient" } },
      { "request": { "method": "DELETE", "url": "Patient/2", "ifMatch": "W/\\"3\\"" } } ] }"""

    parsed = parse_bundle(body)

    assert parsed.type == "transaction"
    assert parsed.entries == (
        ParsedEntry(
            full_url="urn:uuid:1",
            resource=b'{"resourceType":"Patient","x":1.10}',
            method="POST",
            url="Patient",
        ),
        ParsedEntry(method="DELETE", url="Patient/2", if_match='W/"3"'),
    )


def test_conditions_nobody_supports_are_named():
    request = {"method": "GET", "url": "Patient/1", "ifNoneMatch": 'W/"1"'}

    (entry,) = parse_bundle(bundle({"request": request})).entries

    assert entry.if_none_match is not None


def test_the_condition_of_a_create_is_kept_as_sent():
    request = {"method": "POST", "url": "Patient", "ifNoneExist": "identifier=x"}

    (entry,) = parse_bundle(bundle({"request": request, "resource": {}})).entries

    assert (entry.if_none_exist, entry.if_none_match) == ("identifier=x", None)


@pytest.mark.parametrize("bundle_type", ["collection", "searchset", "history", "document"])
def test_entries_of_other_bundles_need_no_request(bundle_type):
    body = bundle({"resource": {"resourceType": "Patient"}}, {}, bundle_type=bundle_type)

    assert [entry.resource for entry in parse_bundle(body).entries] == [
        b'{"resourceType":"Patient"}',
        None,
    ]


def test_a_bundle_without_entries_is_empty():
    assert parse_bundle(b'{"resourceType":"Bundle","type":"batch"}').entries == ()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b"\xff", "not UTF-8"),
        (b"[]", "object is required"),
        (b'{"type":"batch"}', "resourceType is missing"),
        (b'{"resourceType":"Patient","type":"batch"}', "not a Bundle"),
        (b'{"resourceType":"Bundle"}', "type is missing"),
        (bundle(bundle_type="secret-text"), "Bundle.type must be one of"),
        (b'{"resourceType":"Bundle","type":"batch","entry":{}}', "must be an array"),
        (b'{"resourceType":"Bundle","type":"batch","type":"batch"}', r"same name \(type\)"),
        (bundle(7), "entry 0: a JSON object is required"),
        (bundle({"fullUrl": 1}, bundle_type="collection"), "entry 0: fullUrl"),
        (bundle({"resource": {}}), "entry 0 has no request"),
        (bundle({"request": {"method": "DELETE", "url": "x"}}, {}), "entry 1 has no request"),
        (bundle({"request": []}), "entry 0.request: a JSON object is required"),
        (bundle({"request": {"url": "Patient"}}), "entry 0.request: method"),
        (bundle({"request": {"method": "secret", "url": "x"}}), "method must be one of"),
        (bundle({"request": {"method": "DELETE"}}), "entry 0.request: url"),
        (bundle({"request": {"method": "PUT", "url": "Patient/1"}}), "entry 0 has no resource"),
        (
            b'{"resourceType":"Bundle","type":"collection","entry":[{"resource":{},"resource":1}]}',
            r"entry 0: .*same name \(resource\)",
        ),
        (
            b'{"resourceType":"Bundle","type":"batch","entry":[{"request":{"url":"a","url":"b"}}]}',
            r"entry 0.request: .*same name \(url\)",
        ),
        (
            b'{"resourceType":"Bundle","type":"collection","entry":'
            + b"[" * 9000
            + b"]" * 9000
            + b"}",
            "nested",
        ),
    ],
)
def test_a_malformed_bundle_is_refused_by_the_entry_that_is_wrong(body, reason):
    with pytest.raises(InvalidResource, match=reason) as caught:
        parse_bundle(body)

    assert "secret" not in str(caught.value)


def test_real_bundles_come_apart_into_resources_whose_references_all_resolve(real_bundles):
    transactions = [parse_bundle(b) for b in real_bundles if b'"Bundle"' in b[:40]]
    entries = [entry for transaction in transactions for entry in transaction.entries]
    ids = {e.full_url: json.loads(e.resource)["id"] for e in entries}
    types = {e.full_url: json.loads(e.resource)["resourceType"] for e in entries}
    mapping = {url: f"{types[url]}/{ids[url]}" for url in ids}

    links = BundleLinks(mapping)
    rewritten = [
        rewrite_links(e.resource, FHIRVersion.R4, types[e.full_url], links.of_entry(e.full_url))
        for e in entries
    ]
    resources = [parse_resource(body, FHIRVersion.R4) for body, _ in rewritten]

    assert len(transactions) == 61
    assert set().union(*(unresolved for _, unresolved in rewritten)) == set()
    patients = {r.id for r in resources if r.resource_type == "Patient"}
    for resource in resources:
        assert set(resource.patients) <= patients
        if resource.resource_type in {"Observation", "Condition", "Encounter", "Claim"}:
            assert len(resource.patients) == 1


def test_the_real_group_names_members_it_does_not_bring(real_bundles):
    (group,) = [body for body in real_bundles if b'"Bundle"' not in body[:40]]
    known = {
        entry.full_url: f"Patient/{json.loads(entry.resource)['id']}"
        for body in real_bundles
        if body is not group
        for entry in parse_bundle(body).entries
        if json.loads(entry.resource)["resourceType"] == "Patient"
    }

    compact = compact_json(group)
    body, unresolved = rewrite_links(compact, FHIRVersion.R4, "Group", BundleLinks(known))

    assert len(unresolved) == 40
    assert body.count(b'"Patient/') == 60
