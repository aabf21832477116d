"""Whatever is sent, the response blames the sender in FHIR, and a refusal leaves nothing."""

from urllib.parse import quote, quote_from_bytes, urlsplit

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.http.fuzzing import STORED, ask, carried, end

NAMES = [
    *("_type", "_since", "_until", "_typeFilter", "_elements", "_outputFormat", "_dryRun"),
    *("patient", "organizeOutputBy", "includeAssociatedData", "allowPartialManifests", "page"),
    *("_id", "_lastUpdated", "_sort", "_count", "_total", "_include", "_revinclude", "_summary"),
    *("_format", "_pretty", "_cursor", "_page", "code", "date", "subject", "subject:Patient.name"),
    *("subject.birthdate", "_has:Observation:subject:code", "value-quantity", "code:not", "name"),
    *(
        "code:missing",
        "birthdate:exact",
        "code-value-quantity",
        "_text",
        "url:below",
        "identifier",
    ),
]
VALUES = [
    *("", "Patient", "Observation,Patient", "Nothing", "id", "Patient.name", "true", "false"),
    *("2026-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00+14:00"),
    *("ge2020", "ap2020-02-30", "sa0001", "eb9999-12", "2020-06-31T25:00", "lt99999-01-01"),
    *("Patient?active=true", "Patient?name=a,Observation?code=b", "Observation?", "?", "a|b|c|d"),
    *("Observation?subject.name=a", "Patient?_has:Observation:subject:code=b", "|", "||", ",,"),
    *(
        "1e400",
        "-1",
        "0",
        "1e-400|http://unitsofmeasure.org|mg",
        "99999999999999999999",
        "gt",
        "$",
    ),
    *("8302-2$gt5", "*", "Observation:subject", "Observation:*", "-_lastUpdated,_id", "accurate"),
    *("Patient/p1", "http://fhir.example/Patient/p1", "Group", "LatestProvenanceResources"),
    *("json", "application/fhir+ndjson", "\\", "a\\", "\\,", "\x00", "é", "\U0001f600", "%", "&="),
]
HEADERS = [
    *(b"prefer", b"accept", b"content-type", b"x-tenant-id", b"host", b"content-encoding"),
    *(b"range", b"if-range", b"if-none-match", b"if-match", b"if-modified-since"),
    *(b"if-none-exist", b"accept-encoding", b"x-request-id", b"cookie", b"authorization"),
]
LINES = [
    *(b"respond-async", b"handling=lenient", b"handling=strict", b"return=minimal", b"handling="),
    *(b"respond-async, separate-export-status", b"a", b"default", b"..", b"fhir.example", b"[::]"),
    *(b"application/fhir+json; fhirVersion=5.0", b"application/json;q=x", b"*/*;q=0", b"text/*"),
    *(b'W/"1"', b'"1"', b'W/"99999999999999999999"', b"*", b"bytes=0-0", b"bytes=-", b"bytes=9-1"),
    *(b"bytes=0-1,3-4", b"gzip;q=0", b"code=a&_id=b", b"application/x-www-form-urlencoded"),
    *(b"Thu, 01 Jan 1970 00:00:00 GMT", b"Thu, 99 Foo 0000", b"application/json; charset=utf-16"),
]
PATHS = [
    *("/$export", "/Patient/$export", "/Group/g1/$export", "/Patient", "/Patient/p1", "/Group/g1"),
    *(
        "/Observation",
        "/Observation/_search",
        "/Observation/o1/_history",
        "/Nothing",
        "/Binary/b1",
    ),
    *(
        "/Patient/p1/_history/1",
        "/Patient/p1/_history/99999999999999999999",
        "/metadata",
        "/health",
    ),
    *("/", "//", "/export-status/", "/export-file/a/b", "/Patient/_history", "/_search"),
]
BOUNDED = settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
encoded = st.sampled_from(VALUES).map(lambda value: quote(value, safe=""))
escapes = any_text.map(lambda text: quote(text, safe="")) | st.binary(max_size=12).map(
    lambda octets: quote_from_bytes(octets, safe="")
)
names = st.sampled_from(NAMES).map(lambda name: quote(name, safe="")) | escapes
pairs = st.tuples(names, encoded | escapes).map("=".join)
queries = st.lists(pairs, max_size=4).map("&".join) | escapes
segments = st.sampled_from(["p1", "_search", "_history", "$export", "..", "%2e%2e", ""]) | escapes
paths = st.sampled_from(PATHS) | st.lists(segments, max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)
latin = st.text(
    st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=20
).map(lambda text: text.encode("latin-1"))
headers = st.lists(st.tuples(st.sampled_from(HEADERS), st.sampled_from(LINES) | latin), max_size=3)
asynchronous = st.sampled_from([[(b"prefer", b"respond-async")]] * 3 + [[]])
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(VALUES)
    | any_text,
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "name", "resource", "meta"]), below, max_size=3)
    ),
    max_leaves=6,
)
given_values = st.dictionaries(
    st.sampled_from(
        ["valueString", "valueBoolean", "valueInstant", "valueReference", "valueCode", "part"]
    ),
    json_values | st.fixed_dictionaries({"reference": st.sampled_from(VALUES)}),
    max_size=2,
)
parameters = st.fixed_dictionaries(
    {
        "resourceType": st.sampled_from(["Parameters", "Parameters", "Patient"]),
        "parameter": st.lists(
            st.builds(
                lambda name, value: {"name": name, **value},
                st.sampled_from(NAMES) | json_values,
                given_values,
            ),
            max_size=3,
        )
        | json_values,
    }
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "fullUrl": json_values | st.just("urn:uuid:b5a3a9c8-6d1f-4f8e-9d1d-0f8f5d1c2b3a"),
        "resource": json_values | st.sampled_from(STORED),
        "request": json_values
        | st.fixed_dictionaries(
            {
                "method": st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD", "PATCH", ""]),
                "url": json_values
                | st.sampled_from(
                    ["Patient", "Patient/p1", "Patient?_id=p1", "metadata", "$export"]
                )
                | st.builds("{}?{}".format, st.sampled_from(["Patient", "Observation"]), queries),
            },
            optional={
                "ifMatch": json_values | st.just('W/"1"'),
                "ifNoneExist": json_values | queries,
                "ifNoneMatch": json_values | st.just("*"),
            },
        ),
    },
)
bundles = st.fixed_dictionaries(
    {
        "resourceType": st.just("Bundle"),
        "type": st.sampled_from(["batch", "transaction", "transaction", "history"]) | json_values,
        "entry": st.lists(entries, max_size=3) | json_values,
    }
)


@BOUNDED
@given(
    path=st.sampled_from(["/$export", "/Patient/$export", "/Group/g1/$export"])
    | escapes.map(lambda name: f"/Group/{name}/$export"),
    query=queries,
    body=st.none() | st.binary(max_size=40) | json_values | parameters,
    sent=st.builds(list.__add__, asynchronous, headers),
)
async def test_a_kick_off_is_accepted_or_leaves_nothing(fuzzed, path, query, body, sent):
    """B2-KO-20"""
    before = fuzzed.jobs()
    method = "GET" if body is None else "POST"

    response = await ask(fuzzed, method, f"{path}?{query}", headers=sent, **carried(body))

    if response.status_code == 202:
        await end(fuzzed, response, sent)
    assert fuzzed.jobs() == before


@BOUNDED
@given(
    resource_type=st.sampled_from(["Patient", "Observation", "Group", "Binary"]),
    query=queries,
    sent=headers,
)
async def test_a_search_is_answered_or_refused(fuzzed, resource_type, query, sent):
    form = [*sent, (b"content-type", b"application/x-www-form-urlencoded")]
    url = f"/{resource_type}/_search"

    await ask(fuzzed, "GET", f"/{resource_type}?{query}", headers=sent)
    await ask(fuzzed, "POST", url, headers=form, content=query.encode())


@BOUNDED
@given(body=bundles | json_values, sent=headers)
async def test_a_bundle_is_applied_or_refused(fuzzed, body, sent):
    before = fuzzed.versions()

    response = await ask(fuzzed, "POST", "/", json=body, headers=sent)

    if response.status_code >= 400:
        assert fuzzed.versions() == before
        return
    results = response.json().get("entry", ())
    assert all(entry["response"]["status"][0] in "234" for entry in results), response.text


@BOUNDED
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "QUERY"]),
    url=st.builds("http://fhir.example{}?{}".format, paths, queries),
    sent=headers,
    body=st.binary(max_size=20) | parameters,
)
async def test_any_address_is_answered_by_any_method(fuzzed, method, url, sent, body):
    response = await ask(fuzzed, method, url, headers=sent, **carried(body))

    if response.status_code == 202 and "content-location" in response.headers:
        await end(fuzzed, response, sent)


@BOUNDED
@given(job_id=segments, name=segments, query=queries, sent=headers)
async def test_who_guesses_the_address_of_an_export_is_shown_nothing(
    fuzzed, job_id, name, query, sent
):
    assume(job_id.strip("/"))  # without an id it is the address of the list of exports
    for url in (f"/export-status/{job_id}", f"/export-file/{job_id}/{name}"):
        for method in ("GET", "HEAD", "DELETE"):
            response = await ask(fuzzed, method, f"{url}?{query}", headers=sent)
            assert response.status_code >= 400


@BOUNDED
@given(name=segments, query=queries, sent=headers)
async def test_who_knows_the_address_of_an_export_breaks_nothing(fuzzed, name, query, sent):
    response = await ask(fuzzed, "GET", "/$export", headers={"Prefer": "respond-async"})
    status = urlsplit(response.headers["content-location"]).path

    for method in ("GET", "HEAD"):
        await ask(fuzzed, method, f"{status}?{query}", headers=sent)
        file = status.replace("export-status", "export-file")
        await ask(fuzzed, method, f"{file}/{name}?{query}", headers=sent)

    await end(fuzzed, response, [])
    assert fuzzed.jobs() == 0
