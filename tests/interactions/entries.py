"""Entries of bundles, and what a store has of them afterwards."""

import msgspec

from helios_core.fhir.bundles import ParsedEntry
from helios_core.interactions.search_parameters import parse_criteria
from helios_core.storage.data_provider import SearchQuery
from helios_core.storage.resource_keys import TypeKey

PATIENT = {"resourceType": "Patient"}
TEMPORARY = "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0"


def entry(method, url, resource=None, **options):
    body = None if resource is None else msgspec.json.encode(resource)
    return ParsedEntry(method=method, url=url, resource=body, **options)


def observation(reference):
    return {"resourceType": "Observation", "subject": {"reference": reference}}


def patient(number, **elements):
    return PATIENT | {"identifier": [{"system": "http://mrn.example", "value": number}]} | elements


def identifier(number):
    return f"identifier=http://mrn.example|{number}"


async def live_resources(provider, caller, resource_type):
    query = SearchQuery(filter=parse_criteria(caller, resource_type, []))
    page = await provider.search(TypeKey.of(caller, resource_type), query, count=1000)
    resources = [msgspec.json.decode(stored.content) for stored in page.resources]
    return {
        each["id"]: {k: v for k, v in each.items() if k not in {"id", "meta"}}
        for each in resources
    }


def reference_of(completed, element="subject"):
    return msgspec.json.decode(completed.content())[element]["reference"]
