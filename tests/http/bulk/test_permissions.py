"""What a client may export, and whose exports it may see."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import msgspec
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from helios_core import BackendError, Forbidden, ScopeAuthorizer
from helios_core.config.settings import Settings
from helios_core.storage.file_authorizer import ContainedAuthorizer
from tests.http.bulk.test_file_urls import SigningStore
from tests.http.conftest import ASYNC
from tests.tokens import ISSUER, StaticVerifier, bearer, principal

LAB = {"coding": [{"code": "laboratory"}]}
VITAL = {"coding": [{"code": "vital-signs"}]}


def observation(resource_id, category, **more):
    return {
        "resourceType": "Observation",
        "id": resource_id,
        "status": "final",
        "code": {"text": "x"},
        "category": [category],
        "subject": {"reference": "Patient/p1"},
        **more,
    }


RESOURCES = (
    {"resourceType": "Patient", "id": "p1", "gender": "male"},
    {"resourceType": "Patient", "id": "p2", "gender": "female"},
    {
        "resourceType": "Group",
        "id": "g",
        "type": "person",
        "actual": True,
        "member": [{"entity": {"reference": "Patient/p1"}}],
    },
    {"resourceType": "Practitioner", "id": "d1"},
    observation("lab", LAB, performer=[{"reference": "Practitioner/d1"}]),
    observation("vital", VITAL),
    {
        "resourceType": "Provenance",
        "id": "of-lab",
        "target": [{"reference": "Observation/lab"}],
        "recorded": "2020-01-01T00:00:00Z",
        "agent": [{"who": {"reference": "Patient/p1"}}],
    },
)

BINARY = {"resourceType": "Binary", "id": "b1", "contentType": "text/plain", "data": "aGk="}

CLIENTS = {
    "all": ("system/*.cruds",),
    "v1": ("system/*.read",),
    "patients": ("system/Patient.rs",),
    "labs": ("system/Patient.rs", "system/Observation.rs?category=laboratory", "system/Group.r"),
    "reader": ("system/Observation.r",),
    "searcher": ("system/Observation.s",),
    "user": ("user/*.cruds", "patient/*.cruds"),
    "unusable": ("system/Observation.rs?nothing=x", "system/Patient.rs?_sort=x"),
    "nobody": (),
}


@pytest.fixture
def verifier():
    known = {client: principal(client, *scopes) for client, scopes in CLIENTS.items()}
    # The same client by two issuers, and one whose name looks like issuer and client of another.
    known["elsewhere"] = principal("all", "system/*.cruds", issuer="https://other.example")
    known["narrowed"] = principal("all", "system/Patient.rs")
    known["relab"] = principal("labs", "system/Patient.rs", "system/Observation.rs?category=x")
    known["wider"] = principal("labs", "system/*.rs")
    return StaticVerifier(known)


@pytest.fixture
async def site(open_either_site, verifier):
    site = await open_either_site(token_verifier=verifier)
    await site.put(*RESOURCES)
    return site


async def start(site, client, path="/$export", **options):
    headers = ASYNC | bearer(client) | options.pop("headers", {})
    return await site.client.request(
        options.pop("method", "GET"), path, headers=headers, **options
    )


async def export(site, client, path="/$export", **options):
    """Export as a client; return the resources, by the list of the manifest that they are in."""
    response = await start(site, client, path, **options)
    assert response.status_code == 202, response.text
    location = response.headers["content-location"]
    await site.finish(location)
    manifest = (await site.client.get(location, headers=bearer(client))).json()
    found = {}
    for name in ("output", "deleted", "error"):
        lines = [
            line
            for each in manifest[name]
            for line in (await site.client.get(each["url"], headers=bearer(client))).text.split()
        ]
        found[name] = "\n".join(lines)
    ids = [
        msgspec.json.decode(line).get("id", "")
        for each in manifest["output"]
        for line in (await site.client.get(each["url"], headers=bearer(client))).text.splitlines()
    ]
    return sorted(ids), found, manifest


async def test_without_types_an_export_has_those_that_the_scopes_allow(site):
    """B2-SEC-07, TR-80"""
    assert (await export(site, "patients"))[0] == ["p1", "p2"]
    assert len((await export(site, "all"))[0]) == len(RESOURCES)
    assert len((await export(site, "v1"))[0]) == len(RESOURCES)


@pytest.mark.parametrize("client", ["reader", "searcher", "user", "nobody", "unusable"])
@pytest.mark.parametrize("path", ["/$export", "/Patient/$export", "/$export?_type=Observation"])
async def test_scopes_that_allow_nothing_start_nothing(site, client, path):
    """TR-08, TR-79"""
    response = await start(site, client, path)

    assert response.status_code == 403
    assert response.headers["www-authenticate"] == 'Bearer error="insufficient_scope"'


@pytest.mark.parametrize(("client", "lacks"), [("reader", "search"), ("searcher", "read")])
async def test_a_refusal_says_which_letter_is_missing(site, client, lacks):
    response = await start(site, client, "/$export?_type=Observation")

    text = response.json()["issue"][0]["diagnostics"]
    assert f"lack {lacks} on Observation" in text


@pytest.mark.parametrize(
    "query",
    [
        "_type=Observation",
        "_type=Patient,Observation",
        "_type=Patient&includeAssociatedData=LatestProvenanceResources",
        "_type=Patient&organizeOutputBy=Practitioner",
        "_type=Patient&_typeFilter=Patient%3F_has:Observation:subject:status=final",
        "_type=Observation&_dryRun=true",
    ],
)
@pytest.mark.parametrize("handling", ["lenient", "strict"])
async def test_what_is_named_and_not_allowed_is_refused(site, query, handling):
    """B2-SEC-07, TR-80"""
    headers = {"Prefer": f"respond-async, handling={handling}"}

    response = await start(site, "patients", f"/$export?{query}", headers=headers)

    assert response.status_code in (400, 403), response.text
    if "organize" not in query:
        assert response.status_code == 403


async def test_a_referenced_type_is_left_out_or_refused_if_it_is_named(site):
    ids, _, _ = await export(site, "labs", "/Patient/$export")

    assert ids == ["lab", "p1", "p2"]
    named = await start(site, "labs", "/Patient/$export?_type=Observation,Practitioner")
    assert named.status_code == 403


async def test_a_granular_scope_is_a_filter_of_everything_that_leaves(site):
    """B2-SEC-07, TR-79"""
    await site.put(observation("lab-2", LAB), observation("vital-2", VITAL))
    since = (await export(site, "labs"))[2]["transactionTime"]
    await site.delete("Observation", "lab-2")
    await site.delete("Observation", "vital-2")

    ids, _, _ = await export(site, "labs")
    _, found, _ = await export(site, "labs", "/$export", params={"_since": since})

    assert ids == ["lab", "p1", "p2"]
    assert "Observation/lab-2" in found["deleted"]
    assert "vital-2" not in found["deleted"]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("_typeFilter=Observation%3Fcategory=vital-signs", ["p1", "p2"]),
        ("_typeFilter=Observation%3Fstatus=final", ["lab", "p1", "p2"]),
        ("_typeFilter=Patient%3F_has:Observation:subject:category=vital-signs", ["lab"]),
        ("_typeFilter=Patient%3F_has:Observation:subject:category=laboratory", ["lab", "p1"]),
        ("_type=Patient&_typeFilter=Patient%3F_has:Observation:subject:category=vital-signs", []),
        ("_type=Patient&_typeFilter=Patient%3F_has:Observation:subject:status=final", ["p1"]),
    ],
)
async def test_filters_of_the_client_only_narrow_what_the_scopes_allow(site, query, ids):
    assert (await export(site, "labs", f"/$export?{query}"))[0] == ids


async def test_provenance_is_of_what_leaves_and_itself_permitted(site, verifier):
    query = "/Patient/$export?_type=Observation&includeAssociatedData=RelevantProvenanceResources"
    for category, ids in (("laboratory", ["lab", "of-lab"]), ("vital-signs", ["vital"])):
        verifier.principals["x"] = principal(
            "x", f"system/Observation.rs?category={category}", "system/Provenance.rs"
        )

        assert (await export(site, "x", query))[0] == ids


ADDED = {
    "context": (
        ("system/Patient.rs", "system/Observation.rs", "system/Practitioner.rs?_id=d1"),
        "/Patient/$export",
        ["d1", "lab", "of-p2", "p1", "p2", "vital"],
    ),
    "provenance": (
        ("system/Observation.rs", "system/Provenance.rs?_id=of-lab"),
        "/Patient/$export?_type=Observation&includeAssociatedData=RelevantProvenanceResources",
        ["lab", "of-lab", "of-p2", "vital"],
    ),
    "instances of blocks": (
        ("system/Observation.rs", "system/Patient.rs?gender=male"),
        "/Patient/$export?_type=Observation&organizeOutputBy=Patient",
        ["", "lab", "p1", "vital"],
    ),
}
"""Scopes, an export that adds to what is asked for, and the ids in its files; heads have none."""


@pytest.mark.parametrize("added", ADDED)
async def test_what_an_export_adds_is_within_the_limits_of_its_scopes(site, verifier, added):
    """B2-SEC-07"""
    scopes, path, ids = ADDED[added]
    verifier.principals["x"] = principal("x", *scopes)
    await site.put(
        {"resourceType": "Practitioner", "id": "d2"},
        observation(
            "of-p2",
            LAB,
            subject={"reference": "Patient/p2"},
            performer=[{"reference": "Practitioner/d2"}],
        ),
        {**RESOURCES[-1], "id": "of-p2-too", "target": [{"reference": "Observation/of-p2"}]},
    )

    assert (await export(site, "x", path))[0] == ids


async def test_organized_output_has_permitted_resources_only(site):
    ids, found, _ = await export(site, "labs", "/Patient/$export?organizeOutputBy=Patient")

    assert "lab" in ids
    assert "vital" not in found["output"]


async def test_no_count_is_shown_of_what_is_not_permitted(site):
    response = await start(site, "labs", "/$export?_dryRun=true")
    location = (await start(site, "labs")).headers["content-location"]
    progress = (await site.client.get(location, headers=bearer("labs"))).headers["x-progress"]

    counted = {
        part["valueCode"]
        for each in response.json()["parameter"]
        for part in each.get("part", ())
        if part["name"] == "type"
    }
    assert counted == {"Patient"}
    assert "of 2 resources" in progress


async def test_a_group_is_exported_only_by_who_may_read_it(site, verifier):
    """B3-01"""
    assert (await export(site, "labs", "/Group/g/$export"))[0] == ["lab", "p1"]
    for group in ("g", "absent"):
        assert (await start(site, "patients", f"/Group/{group}/$export")).status_code == 403
    verifier.principals["x"] = principal("x", "system/Patient.rs", "system/Group.r?_id=other")
    hidden = await start(site, "x", "/Group/g/$export")
    absent = await start(site, "x", "/Group/absent/$export")
    assert hidden.status_code == absent.status_code == 404
    assert hidden.text.replace("/g ", "/absent ") == absent.text


async def test_whether_a_patient_is_there_is_told_only_to_who_may_read_patients(site, verifier):
    def body(patient):
        parameter = [{"name": "patient", "valueReference": {"reference": f"Patient/{patient}"}}]
        return {"resourceType": "Parameters", "parameter": parameter}

    verifier.principals["x"] = principal("x", "system/Observation.rs")
    verifier.principals["y"] = principal("y", "system/*.rs?gender=male", "system/Observation.rs")
    for patient in ("p1", "absent"):
        answer = await start(site, "x", "/Patient/$export", method="POST", json=body(patient))
        assert answer.status_code == 403
    hidden = await start(site, "y", "/Patient/$export", method="POST", json=body("p2"))
    absent = await start(site, "y", "/Patient/$export", method="POST", json=body("absent"))
    assert hidden.status_code == absent.status_code == 400
    assert hidden.text == absent.text


@pytest.fixture
async def finished(site):
    """Return the URLs of an export of the client `all`: its status, and a file of each type."""
    location = (await start(site, "all")).headers["content-location"]
    await site.finish(location)
    manifest = (await site.client.get(location, headers=bearer("all"))).json()
    return [location, *(each["url"] for each in manifest["output"])]


@pytest.mark.parametrize("client", ["v1", "patients", "elsewhere", "nobody"])
async def test_the_export_of_another_client_is_not_there(site, finished, client):
    """B2-SEC-05, TR-47"""
    for url in finished:
        for method in ("GET", "HEAD"):
            theirs = await site.client.request(method, url, headers=bearer(client))
            none = await site.client.request(method, _unknown(url), headers=bearer(client))
            assert theirs.status_code == none.status_code == 404
            assert theirs.content == none.content.replace(b"0" * 32, _job_id(url).encode())
    ended = await site.client.delete(finished[0], headers=bearer(client))
    assert ended.status_code == 404
    assert (await site.client.get(finished[0], headers=bearer("all"))).status_code == 200


def _job_id(url):
    return url.split("/")[4]


def _unknown(url):
    return url.replace(_job_id(url), "0" * 32)


async def test_scopes_must_cover_the_export_at_every_poll_and_download(site, finished):
    """B2-SEC-04, TR-48"""
    for url in finished:
        assert (await site.client.get(url, headers=bearer("narrowed"))).status_code == 403
        assert (await site.client.get(url, headers=bearer("all"))).status_code == 200


@pytest.mark.parametrize("scope", ["system/*.read", "system/*.rs"])
async def test_scopes_of_both_versions_open_status_and_files(site, verifier, finished, scope):
    """RV-41, TR-79"""
    verifier.principals["same"] = principal("all", scope)

    for url in finished:
        assert (await site.client.get(url, headers=bearer("same"))).status_code == 200


@pytest.mark.parametrize(("client", "status"), [("labs", 200), ("wider", 200), ("relab", 403)])
async def test_limits_must_cover_those_of_the_export(site, client, status):
    location = (await start(site, "labs")).headers["content-location"]
    await site.finish(location)

    assert (await site.client.get(location, headers=bearer(client))).status_code == status


FINAL_LABS = "system/Observation.rs?category=laboratory&status=final"
ALL_LABS = "system/Observation.rs?category=laboratory"
VITALS = "system/Observation.rs?category=vital-signs"


@pytest.mark.parametrize(
    ("started", "presented", "status"),
    [
        ((ALL_LABS, VITALS), (VITALS, ALL_LABS), 200),
        ((ALL_LABS, VITALS), (ALL_LABS, VITALS, "system/Patient.rs"), 200),
        ((ALL_LABS,), (ALL_LABS, VITALS), 200),
        ((ALL_LABS, VITALS), (ALL_LABS,), 403),
        ((ALL_LABS,), (FINAL_LABS,), 403),
        (("system/Observation.rs",), (ALL_LABS, VITALS), 403),
        ((ALL_LABS,), ("system/Observation.r", ALL_LABS), 200),
        ((ALL_LABS,), ("system/Observation.r", "system/Observation.s?category=x"), 403),
    ],
)
async def test_every_limit_of_the_export_must_be_covered(
    site, verifier, started, presented, status
):
    """TR-48, TR-79"""
    verifier.principals["x"] = principal("x", *started)
    location = (await start(site, "x")).headers["content-location"]
    await site.finish(location)
    verifier.principals["x"] = principal("x", *presented)

    assert (await site.client.get(location, headers=bearer("x"))).status_code == status


async def test_the_owner_may_end_an_export_with_any_token_of_its_own(site):
    location = (await start(site, "all")).headers["content-location"]

    ended = await site.client.delete(location, headers=bearer("narrowed"))

    assert ended.status_code == 202
    assert (await site.client.get(location, headers=bearer("all"))).status_code == 404


async def test_an_export_survives_its_token(site, verifier):
    location = (await start(site, "patients")).headers["content-location"]
    verifier.principals["renewed"] = verifier.principals.pop("patients")
    await site.finish(location)

    assert (await site.client.get(location, headers=bearer("patients"))).status_code == 401
    assert (await site.client.get(location, headers=bearer("renewed"))).status_code == 200


async def test_an_export_of_an_open_server_belongs_to_nobody(site, open_site):
    open_server = await open_site()
    location = await open_server.kick_off()
    await open_server.finish(location)

    assert (await open_server.client.get(location)).status_code == 200
    assert (await site.client.get(location, headers=bearer("all"))).status_code == 404


async def test_files_need_a_token_exactly_if_the_manifest_says_so(site, finished, open_site):
    """B2-SEC-04, B2-SEC-06"""
    manifest = (await site.client.get(finished[0], headers=bearer("all"))).json()

    assert manifest["requiresAccessToken"] is True
    assert (await site.client.get(finished[1])).status_code == 401
    open_manifest = await (await open_site()).manifest()
    assert open_manifest["requiresAccessToken"] is False


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((ISSUER, "a"), (ISSUER, "b")),
        ((ISSUER, "a"), ("https://other.example", "a")),
        (("https://x|y", "z"), ("https://x", "y|z")),
        (("https://x%7Cy", "z"), ("https://x|y", "z")),
    ],
)
def test_owners_are_told_apart(one, other):
    def owner(issuer, client):
        return replace(principal(client), issuer=issuer).owner

    assert owner(*one) != owner(*other)
    assert owner(*one) == owner(*one)


async def test_links_that_open_without_a_token_live_for_minutes(site, open_site, verifier):
    """B3-28, TR-63"""
    signing = await open_site(
        token_verifier=verifier,
        data_provider=site.backends.data_provider,
        output_store=SigningStore(),
    )
    location = (await start(signing, "all")).headers["content-location"]
    await signing.finish(location)

    first, second = [
        (await signing.client.get(location, headers=bearer("all"))).json() for _ in range(2)
    ]
    refused = await signing.client.get(location, headers=bearer("narrowed"))

    assert first["requiresAccessToken"] is False
    assert all("seconds=300&" in each["url"] for each in first["output"])
    assert first["output"][0]["url"] != second["output"][0]["url"]
    # What is not to be seen is not signed for.
    assert refused.status_code == 403
    assert "signature" not in refused.text


async def test_an_attachment_needs_a_token_also_where_files_have_signed_links(open_site, verifier):
    """B2-FL-11"""
    signing = await open_site(token_verifier=verifier, output_store=SigningStore())
    await signing.put(*RESOURCES, BINARY)
    location = (await start(signing, "all")).headers["content-location"]
    await signing.finish(location)

    manifest = (await signing.client.get(location, headers=bearer("all"))).json()

    assert manifest["requiresAccessToken"] is False
    assert (await signing.client.get("/Binary/b1")).status_code == 401
    assert (await signing.client.get("/Binary/b1", headers=bearer("all"))).status_code == 200


async def test_an_attachment_opens_with_the_token_of_the_export(site, verifier):
    """B2-FL-10, RV-49"""
    await site.put(
        BINARY,
        {
            "resourceType": "DocumentReference",
            "id": "doc",
            "status": "current",
            "subject": {"reference": "Patient/p1"},
            "content": [{"attachment": {"contentType": "text/plain", "url": "Binary/b1"}}],
        },
    )
    _, found, _ = await export(site, "all", "/Patient/$export?_type=DocumentReference")
    url = msgspec.json.decode(found["output"])["content"][0]["attachment"]["url"]

    opened = await site.client.get(url, headers=bearer("all") | {"Accept": "text/plain"})

    assert (opened.status_code, opened.text) == (200, "hi")
    assert (await site.client.get(url)).status_code == 401
    assert (await site.client.get(url, headers=bearer("patients"))).status_code == 403


async def test_a_policy_of_sensitivity_is_a_limit_of_a_scope(site, verifier):
    """B2-SEC-09"""
    restricted = {"system": "urn:confidentiality", "code": "R"}
    await site.put({"resourceType": "Patient", "id": "vip", "meta": {"security": [restricted]}})
    verifier.principals["x"] = principal("x", "system/Patient.rs?_security:not=R")

    assert (await export(site, "x"))[0] == ["p1", "p2"]
    assert (await export(site, "patients"))[0] == ["p1", "p2", "vip"]


async def test_an_authorizer_of_a_plugin_bars_a_client_from_a_group(site, open_site, verifier):
    """B3-01"""

    class Barred(ScopeAuthorizer):
        async def authorize_export(self, principal, intent):
            if intent.group_id == "g":
                raise Forbidden("This group is not for this client.")

    own = await open_site(
        token_verifier=verifier,
        data_provider=site.backends.data_provider,
        file_authorizer=ContainedAuthorizer(Barred(), time_limit=timedelta(seconds=5)),
    )

    assert (await start(own, "all", "/Group/g/$export")).status_code == 403
    assert (await start(own, "all", "/Group/g/$export?_dryRun=true")).status_code == 403
    assert (await start(own, "all", "/Patient/$export")).status_code == 202


@pytest.mark.parametrize(
    "query",
    [
        "Patient%3F_has:Observation:subject:category=vital-signs",
        "Observation%3Fsubject:Patient.gender=male",
        "Observation%3Fperformer:Practitioner._has:Observation:performer:category=laboratory",
    ],
)
async def test_a_client_of_some_groups_learns_nothing_of_others_by_filters(site, verifier, query):
    """Whether others have such resources would be seen by whether its own ones match."""
    limited = principal("limited", "system/*.rs")
    verifier.principals["x"] = replace(limited, groups=frozenset({"g"}))
    filtered = f"/Group/g/$export?_typeFilter={query}"

    for handling in ("strict", "lenient"):
        headers = {"Prefer": f"respond-async, handling={handling}"}
        for path in (filtered, f"{filtered}&_dryRun=true"):
            answer = await start(site, "x", path, headers=headers)
            assert (answer.status_code, "others" in answer.text) == (403, True)
    assert (await start(site, "all", filtered)).status_code == 202
    own = await export(site, "x", "/Group/g/$export?_typeFilter=Observation%3Fstatus=final")
    assert own[0] == ["d1", "g", "lab", "of-lab", "p1", "vital"]


async def test_an_authorizer_that_limits_a_client_to_groups_leaves_it_nothing_else(
    open_site, verifier, site
):
    """B3-01: or it would read over REST what no export of its own has."""

    class Listed(ScopeAuthorizer):
        def groups(self, principal):
            return frozenset({"g"}) if principal.client_id == "v1" else None

    own = await open_site(
        token_verifier=verifier,
        data_provider=site.backends.data_provider,
        file_authorizer=ContainedAuthorizer(Listed(), time_limit=timedelta(seconds=5)),
    )
    token_limit = replace(principal("limited", "system/*.rs"), groups=frozenset({"other"}))
    verifier.principals["limited"] = token_limit

    for path in ("/Patient", "/Patient/p2", "/_history", "/Patient/p1/$everything"):
        answers = [
            (await own.client.get(path, headers=bearer(client))).status_code
            for client in ("v1", "all", "limited")
        ]
        assert answers == [403, 200, 403], path
    for path, statuses in {
        "/Group/g/$export": [202, 202, 403],
        "/Group/other/$export": [403, 404, 404],
        "/$export": [403, 202, 403],
        "/Group/g/$export?_typeFilter=Patient%3F_has:Observation:subject:status=final": [
            *(403, 202, 403)
        ],
    }.items():
        started = [await start(own, client, path) for client in ("v1", "all", "limited")]
        assert [each.status_code for each in started] == statuses, path


@pytest.mark.parametrize("limit", [{"g"}, ["g"], "g", False, ()], ids=repr)
async def test_a_limit_to_groups_that_is_no_set_lets_nobody_in(open_site, verifier, limit):
    class Broken(ScopeAuthorizer):
        def groups(self, principal):
            return limit

    contained = ContainedAuthorizer(Broken(), time_limit=timedelta(seconds=5))
    own = await open_site(token_verifier=verifier, file_authorizer=contained)

    for path in ("/Patient", "/openapi.json", "/export-status"):
        assert (await own.client.get(path, headers=bearer("all"))).status_code == 500


def is_false(*_):
    return False


async def is_false_later(*_):
    return False


def leaves(*_):
    raise SystemExit


@pytest.fixture
def broken(open_site, verifier, site):
    """Open a server on the same exports whose authorizer does something else than it is to do."""

    async def broken(how):
        class Broken(ScopeAuthorizer):
            authorize_export = authorize_job = authorize_end = staticmethod(how)
            grant = staticmethod(leaves)

        contained = ContainedAuthorizer(Broken(), time_limit=timedelta(milliseconds=100))
        return await open_site(
            token_verifier=verifier,
            data_provider=site.backends.data_provider,
            job_store=site.backends.job_store,
            output_store=site.backends.output_store,
            file_authorizer=contained,
        )

    return broken


def raising(error):
    async def ask(*_):
        raise error

    return ask


async def hears_nobody(*_):
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    "how",
    [
        *(raising(SystemExit()), raising(KeyError("x")), raising(TimeoutError())),
        *(leaves, is_false, is_false_later, hears_nobody),
    ],
)
async def test_a_broken_authorizer_allows_nothing(broken, finished, how):
    own = await broken(how)

    answers = [await start(own, "all"), await start(own, "all", "/$export?_dryRun=true")]
    answers += [await own.client.get(url, headers=bearer("all")) for url in finished]
    answers.append(await own.client.get("/export-status", headers=bearer("all")))
    answers.append(await own.client.delete(finished[0], headers=bearer("all")))

    assert {answer.status_code for answer in answers} <= {500, 503}
    with pytest.raises(BackendError):
        own.backends.file_authorizer.grant(principal("x"), "Patient")


async def test_pages_of_a_partial_manifest_are_as_protected_as_the_whole(site):
    location = (await start(site, "all", "/$export?allowPartialManifests=true")).headers[
        "content-location"
    ]
    for url in (location, f"{location}?page=1", f"{location}?page=2"):
        for client, status in (("narrowed", 403), ("v1", 404), ("elsewhere", 404)):
            assert (await site.client.get(url, headers=bearer(client))).status_code == status
        assert (await site.client.get(url)).status_code == 401


async def test_polling_too_often_ends_nobody_else_s_export(open_site, verifier):
    settings = Settings(bulk_export_polls_per_minute=6, bulk_export_max_refused_polls=1)
    site = await open_site(settings, token_verifier=verifier)
    await site.put(*RESOURCES)
    location = (await start(site, "all")).headers["content-location"]

    answers = [
        (await site.client.get(location, headers=bearer("v1"))).status_code for _ in range(4)
    ]

    assert set(answers) == {404, 429}
    assert (await site.client.get(location, headers=bearer("all"))).status_code == 202


async def test_no_log_line_has_a_token_or_a_scope(site, finished):
    with capture_logs() as lines:
        for client in ("all", "patients", "nobody", "not-a-client-at-all"):
            for url in ("/Patient/p1", "/$export?_type=Observation", *finished):
                await site.client.get(url, headers=ASYNC | bearer(client))

    said = " ".join(map(str, lines))
    assert "token.refused" in said
    assert not any(word in said for word in ("not-a-client-at-all", "system/", "Bearer "))


async def test_the_list_has_the_exports_of_the_client_alone(site, finished):
    """TR-47"""
    for client, number in (("all", 1), ("narrowed", 0), ("v1", 0), ("elsewhere", 0)):
        listed = await site.client.get("/export-status", headers=bearer(client))
        assert len(listed.json()["export"]) == number, client
