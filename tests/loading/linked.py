"""Documents with links, and where the links of what was stored lead."""

import json

UUID = "urn:uuid:6c5d9ca9-54d7-42f5-bfae-a7c19cd217f2"


def bundle(*entries, kind="transaction"):
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries)}


def entry(resource, full_url=None, method="POST", url=None):
    request = {"method": method, "url": url or resource["resourceType"]}
    members = {"fullUrl": full_url, "resource": resource, "request": request}
    return {name: value for name, value in members.items() if value is not None}


def resource(reference, **elements):
    type_, _, resource_id = reference.partition("/")
    return {"resourceType": type_} | ({"id": resource_id} if resource_id else {}) | elements


def observation(resource_id, subject, **elements):
    return resource(
        f"Observation/{resource_id}", status="final", subject={"reference": subject}, **elements
    )


async def stored(store, reference):
    return json.loads(await store.text(reference))


async def subject(store, resource_id):
    return (await stored(store, f"Observation/{resource_id}"))["subject"]["reference"]
