"""Requests that have a server compute for long, and what others notice of them."""

import re
import threading
import time
from pathlib import Path

import msgspec
import pytest

from tests.pace import slowness
from tests.processes import Site

HEALTH_SECONDS = 0.25
"""How long /health may take meanwhile, on a machine that is idle otherwise."""
MARGIN = 3
"""How much longer it may take than on a server that has nothing to do, at the same time."""
MAX_MEGABYTES = 256

FHIR = {"Content-Type": "application/fhir+json"}
KICK_OFF = FHIR | {"Prefer": "respond-async"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def parameters(name, values, kind="valueString"):
    entries = [{"name": name, kind: value} for value in values]
    return msgspec.json.encode({"resourceType": "Parameters", "parameter": entries})


def patient(content):
    return b'{"resourceType":"Patient","id":"p1","x":' + content + b"}"


def bundle(kind, entry, times):
    entries = b",".join(entry % number if b"%d" in entry else entry for number in range(times))
    return b'{"resourceType":"Bundle","type":"' + kind + b'","entry":[' + entries + b"]}"


def filters(count):
    return parameters("_typeFilter", [f"Patient?_id=p{number}" for number in range(count)])


READ = b'{"request":{"method":"GET","url":"Patient/x"}}'
STORE = (
    b'{"resource":{"resourceType":"Patient","name":[{"text":"%d"}]},'
    b'"request":{"method":"POST","url":"Patient"}}'
)
SEARCH = b'{"request":{"method":"GET","url":"Binary?_count=200"}}'
CONDITION = (
    b'{"resource":{"resourceType":"Patient"},"request":{"method":"POST","url":"Patient",'
    b'"ifNoneExist":"name=%d&identifier=' + b",".join([b"http://x|a"] * 9_000) + b'"}}'
)
NAMES = [{"system": "http://x", "value": f"v{number}", "use": "usual"} for number in range(90_000)]

LOOK = {
    "name": "operation",
    "part": [
        {"name": "type", "valueCode": "delete"},
        {"name": "path", "valueString": "Patient.name.where(family = 'x').where(use = 'old')"},
    ],
}
"""An operation that looks at every name of a patient."""
JSON_PATCH = {"Content-Type": "application/json-patch+json"}

REFUSED = {
    "20,000 filters": ("POST", "/$export?_type=Patient", filters(20_000), KICK_OFF),
    "200,000 filters": ("POST", "/$export?_type=Patient", filters(200_000), KICK_OFF),
    "filters by GET": ("POST", "/$export?" + "_typeFilter=Patient&" * 800, filters(900), KICK_OFF),
    "a filter with 300,000 values": (
        "POST",
        "/$export",
        parameters("_typeFilter", ["Patient?_id=" + ",".join(["p"] * 300_000)]),
        KICK_OFF,
    ),
    "a filter with 200,000 parameters": (
        "POST",
        "/$export",
        parameters("_typeFilter", ["Patient?" + "&".join(["_id=p"] * 200_000)]),
        KICK_OFF,
    ),
    "100,000 elements": ("POST", "/$export", parameters("_elements", ["id"] * 100_000), KICK_OFF),
    "100,000 types": ("POST", "/$export", parameters("_type", ["Patient"] * 100_000), KICK_OFF),
    "a dry run of 10,000 names": (
        "POST",
        "/$export?_dryRun=true",
        b'{"resourceType":"Parameters","parameter":['
        + b",".join(b'{"name":"x%d","valueString":"y"}' % number for number in range(10_000))
        + b"]}",
        KICK_OFF,
    ),
    "150,000 patients": (
        "POST",
        "/Patient/$export",
        parameters("patient", ["Patient/x"] * 150_000),
        KICK_OFF,
    ),
    "empty objects": ("PUT", "/Patient/p1", patient(b"[" + b"[],{}," * 2_000_000 + b"1]"), FHIR),
    "short strings": ("PUT", "/Patient/p1", patient(b"[" + b'"a",' * 3_000_000 + b"1]"), FHIR),
    "numbers": ("PUT", "/Patient/p1", patient(b"[" + b"1," * 7_000_000 + b"1]"), FHIR),
    "members": (
        "PUT",
        "/Patient/p1",
        patient(b"{" + b",".join(b'"a%d":1' % n for n in range(1_000_000)) + b"}"),
        FHIR,
    ),
    "a patch of 1,000 paths": (
        "PATCH",
        "/Patient/names",
        msgspec.json.encode({"resourceType": "Parameters", "parameter": [LOOK] * 1000}),
        FHIR,
    ),
    "empty patches": ("PATCH", "/Patient/names", b"[" + b"0," * 7_000_000 + b"0]", JSON_PATCH),
    "200,000 entries": ("POST", "/", bundle(b"batch", READ, 200_000), FHIR),
    "20,000 entries": ("POST", "/", bundle(b"transaction", READ, 20_000), FHIR),
    "empty entries": ("POST", "/", bundle(b"batch", b"{}", 3_000_000), FHIR),
    "1,000,000 fields": ("POST", "/Patient/_search", b"_id=p&" * 1_000_000, FORM),
    "1,000,000 values": ("POST", "/Patient/_search", b"_id=" + b"p," * 1_000_000, FORM),
    "escaped values": ("POST", "/Patient/_search", b"_id=" + b"p%2C" * 200_000, FORM),
}
SERVED = {
    "a long text": ("PUT", "/Patient/p1", patient(b'"' + b"a" * 15_000_000 + b'"'), FHIR),
    "escapes": ("PUT", "/Patient/p1", patient(b'"' + b"\\u0041" * 2_000_000 + b'"'), FHIR),
    "many names": ("PUT", "/Patient/p1", patient(msgspec.json.encode(NAMES)), FHIR),
    "10,000 changes": ("POST", "/", bundle(b"transaction", STORE, 10_000), FHIR),
    "10,000 patches": (
        "PATCH",
        "/Patient/names",
        msgspec.json.encode([{"op": "add", "path": "/name/0", "value": {"family": "z"}}] * 10_000),
        JSON_PATCH,
    ),
    "conditions of 9,000 values": ("POST", "/", bundle(b"batch", CONDITION, 5), FHIR),
    "100 searches": ("POST", "/", bundle(b"batch", SEARCH, 100), FHIR),
    "900 filters": ("POST", "/$export", filters(900), KICK_OFF),
    "a filter with 9,000 parameters": (
        "POST",
        "/$export",
        parameters("_typeFilter", ["Observation?" + "&".join(["code=http://l|1"] * 9_000)]),
        KICK_OFF,
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A process with some large resources, a client of it, and one of an idle server."""
    site = Site(tmp_path_factory.mktemp("site"), HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER="true")
    process, client = site.serve(HFS_BULK_EXPORT_MAX_CONCURRENT_PER_TENANT="1000")
    for number in range(200):
        data = {"resourceType": "Binary", "contentType": "text/plain", "data": "QUFB" * 5000}
        client.put(data | {"id": f"b{number}"})
    client.put({"resourceType": "Patient", "id": "names", "name": [{"family": "y"}] * 20_000})
    _, neighbour = site.serve()
    yield process.process.pid, client, neighbour
    site.end()


def health_seconds(client):
    started = time.perf_counter()
    assert client.http.get("/health").status_code == 200
    return time.perf_counter() - started


def peak_megabytes(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def send_and_watch(server, request):
    """
    Send a request; return the response, and how much longer /health took meanwhile at worst.

    What the machine itself takes is what a server needs that has nothing to do at the time.
    """
    pid, client, neighbour = server
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak of memory starts anew
    done = threading.Event()
    worst, idle = [0.0], [0.0]

    def watch():
        while not done.is_set():
            idle.append(health_seconds(neighbour))
            worst.append(health_seconds(client))

    watching = threading.Thread(target=watch)
    watching.start()
    method, url, body, headers = request
    response = client.elsewhere.request(
        method, client.base_url + url, content=body, headers=headers, timeout=600
    )
    done.set()
    watching.join()
    assert peak_megabytes(pid) < MAX_MEGABYTES
    return response, max(worst) - MARGIN * max(idle)


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_for_too_much_work_is_refused_before_it_is_done(server, name):
    response, worst = send_and_watch(server, REFUSED[name])

    assert response.status_code in (400, 413, 414), response.text[:300]
    assert response.json()["resourceType"] == "OperationOutcome"
    assert worst < HEALTH_SECONDS * slowness()


@pytest.mark.parametrize("name", SERVED)
def test_a_large_request_keeps_nobody_else_waiting(server, name):
    response, worst = send_and_watch(server, SERVED[name])

    assert response.status_code in (200, 201, 202), response.text[:300]
    assert worst < HEALTH_SECONDS * slowness()


def test_a_batch_reads_no_more_than_its_response_may_have(server):
    """Entries that come too late are refused each; what was read before is there."""
    response, _ = send_and_watch(server, SERVED["100 searches"])

    entries = response.json()["entry"]
    assert len(entries) == 100
    assert len(response.content) < 25_000_000
    statuses = [entry["response"]["status"].partition(" ")[0] for entry in entries]
    assert statuses == sorted(statuses)
    assert set(statuses) == {"200", "400"}
    assert entries[-1]["response"]["outcome"]["issue"][0]["code"] == "too-costly"
