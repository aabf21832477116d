"""Scopes, data and requests by chance: nothing outside is shown, and nothing inside is lost."""

import asyncio
import os
from contextlib import AsyncExitStack

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.http.bulk.test_permissions import LAB, VITAL, observation
from tests.http.conftest import ASYNC
from tests.http.test_noninterference import group, provenance
from tests.http.worlds import MARK, Worlds, contents_of, open_world

RUNS = int(os.environ.get("HFS_TEST_FUZZ_RUNS", "20"))
TYPES = ("Patient", "Observation", "Group", "Provenance", "*")
LIMITS = {
    "": lambda _: True,
    "?gender=male": lambda each: each.get("gender") == "male",
    "?category=laboratory": lambda each: each.get("category") == [LAB],
    "?status=final": lambda each: each.get("status") == "final",
    "?category=laboratory&status=final": lambda each: (
        each.get("category") == [LAB] and each.get("status") == "final"
    ),
    "?_id=r1,r3,r5": lambda each: each["id"] in ("r1", "r3", "r5"),
    "?subject=Patient/r1": lambda each: each.get("subject") == {"reference": "Patient/r1"},
    "?subject=http://other.example/Patient/r1": lambda _: False,
    "?nothing=x": lambda _: False,
    "?gender=male&nothing=x": lambda _: False,
    "?subject:Patient.gender=male": lambda _: False,
    "?_has:Observation:subject:status=final": lambda _: False,
    "?_sort=_id": lambda _: False,
}
"""What each limit means, in the plainest way; one that cannot be evaluated means nothing."""
OWN = {
    "?gender=male": ("Patient",),
    "?category=laboratory": ("Observation",),
    "?status=final": ("Observation",),
    "?category=laboratory&status=final": ("Observation",),
    "?subject=Patient/r1": ("Observation",),
}
"""The types that have the parameters of a limit; on others it cannot be evaluated."""
LETTERS = {"read": "rs", "write": "cud", "*": "cruds"}
"""Version 1; version 2 has its letters."""

WORDS = st.tuples(
    st.sampled_from(TYPES),
    st.one_of(
        st.sampled_from(sorted(LETTERS)),
        st.sets(st.sampled_from("cruds"), min_size=1).map(
            lambda chosen: "".join(letter for letter in "cruds" if letter in chosen)
        ),
    ),
    st.sampled_from(sorted(LIMITS)),
)
JUNK = st.one_of(
    st.sampled_from(
        [
            *("user/*.cruds", "patient/*.rs", "system/*.sr", "system/patient.rs", "openid"),
            *("SYSTEM/*.rs", "system/*.rs?", "system/*.rs?=x", "system/*", "system/*.", "*/*.*"),
            *("system/Patient.rs#x", "system/Patient,Group.rs", "xsystem/*.rs", "system/*.read "),
            *(
                "system/*.rs\u00a0",
                "system/*.r.s",
                "system//*.rs",
                "system/**.rs",
            ),
        ]
    ),
    st.text(max_size=12).filter(lambda word: not word.startswith("system/")),
)
PATIENT = st.fixed_dictionaries(
    {"resourceType": st.just("Patient"), "gender": st.sampled_from(["male", "female"])}
)
OBSERVATION = st.builds(
    lambda category, status, subject: {
        **observation("x", category),
        "status": status,
        "subject": {"reference": f"Patient/{subject}"},
    },
    st.sampled_from([LAB, VITAL]),
    st.sampled_from(["final", "preliminary"]),
    st.sampled_from(["r1", "r2"]),
)
PROVENANCE = st.sampled_from(
    ["Patient/r0", "Patient/r1", "Observation/r1", "Observation/r2", "Observation/none"]
).map(lambda target: provenance("x", target))
GROUP = st.just(group("x", "r0", "r1", "none"))
RESOURCES = st.lists(st.one_of(PATIENT, OBSERVATION, PROVENANCE, GROUP), max_size=7).map(
    lambda found: [{**each, "id": f"r{number}"} for number, each in enumerate(found)]
)
ALWAYS = {"resourceType": "Basic", "id": "basic"}
"""What is stored in any case, since there are exports of others."""
ANYTHING = ("Patient", "Observation", "Provenance", "Group", "Basic")
PATHS = st.sampled_from(
    [
        *("/Patient", "/Observation", "/Group", "/_history", "/Observation/_history"),
        *("/Patient/_history", "/Patient/r1/Observation", "/Patient/r1/*", "/export-status"),
        *("/Patient/r1/$everything", "/Patient/r2/$everything", "/Practitioner"),
        *(f"/{name}/r{number}" for name in ("Patient", "Observation") for number in range(7)),
        *(f"/Observation/r{number}/_history" for number in range(7)),
        *(f"/Patient/r{number}/_history/1" for number in range(7)),
    ]
)
QUERY = st.lists(
    st.sampled_from(
        [
            *("_summary=count", "_total=accurate", "_count=1", "_count=2", "_sort=-_lastUpdated"),
            *("_sort=status", "_include=*", "_revinclude=*", "_include=Observation:subject"),
            *("_revinclude=Observation:subject", "status=final", "gender=male", "_id=r1,r2,r3"),
            *("subject:Patient.gender=male", "_has:Observation:subject:status=final"),
            *("category:not=laboratory", "subject=Patient/r1", "_elements=id", "_since=2000"),
            *("_has:Observation:subject:category=vital-signs", "_type=Observation"),
        ]
    ),
    max_size=3,
    unique=True,
).map("&".join)
KICKOFF = st.tuples(
    st.sampled_from(
        ["/$export", "/Patient/$export", "/Group/none/$export"]
        + [f"/Group/r{number}/$export" for number in range(4)]
    ),
    st.sampled_from(
        [
            *("", "_type=Patient", "_type=Observation", "_type=Patient,Observation"),
            *("_typeFilter=Observation%3Fstatus=final", "patient=Patient/r1", "_type=Group"),
            "_typeFilter=Observation%3Fsubject:Patient.gender=male",
            "_typeFilter=Patient%3F_has:Observation:subject:category=vital-signs",
            *("_type=Provenance", "_type=Patient,Provenance,Observation"),
            *("organizeOutputBy=Patient&_type=Patient,Observation", "_since=2000-01-01"),
        ]
    ),
).map("?".join)


def granted(words, resource, letter):
    """Return whether a letter is granted for a resource."""
    return any(
        type_ in (resource["resourceType"], "*")
        and letter in LETTERS.get(letters, letters)
        and not (letters in LETTERS and limit)
        and resource["resourceType"] in OWN.get(limit, ANYTHING)
        and LIMITS[limit](resource)
        for type_, letters, limit in words
    )


@settings(max_examples=RUNS)
@given(
    words=st.lists(WORDS, max_size=4),
    junk=st.lists(JUNK, max_size=2),
    resources=RESOURCES,
    paths=st.lists(st.tuples(PATHS, QUERY), min_size=2, max_size=5),
    kickoffs=st.lists(KICKOFF, max_size=1),
)
def test_a_client_learns_what_its_scopes_show_and_nothing_else(
    words, junk, resources, paths, kickoffs
):
    asyncio.run(_check(words, junk, resources, paths, kickoffs))


async def _check(words, junk, resources, paths, kickoffs):
    scopes = (*junk, *(f"system/{type_}.{letters}{limit}" for type_, letters, limit in words))
    visible, hidden = [], []
    for each in (*resources, ALWAYS):
        shown = granted(words, each, "r") or granted(words, each, "s")
        (visible if shown else hidden).append(each)
    elsewhere = [{**each, "language": MARK} for each in resources]
    elsewhere.append({"resourceType": "Patient", "id": MARK})
    async with AsyncExitStack() as stack:
        worlds = Worlds(await open_world(stack, scopes), await open_world(stack, scopes))
        await worlds.fill(visible, hidden, elsewhere)
        for path, query in paths:
            await worlds.follow(f"{path}?{query}")
            await worlds.send("HEAD", f"{path}?{query}")
            await worlds.send("POST", f"{path}/_search", data={"_count": "1"})
            request = {"method": "GET", "url": f"{path[1:]}?{query}"}
            bundle = {"resourceType": "Bundle", "type": "batch", "entry": [{"request": request}]}
            await worlds.send("POST", "/", json=bundle)
        for kickoff in kickoffs:
            await worlds.send("GET", f"{kickoff}&_dryRun=true", headers=ASYNC)
            await worlds.export(kickoff)
        await _check_nothing_is_lost(worlds.full, words, resources)


async def _check_nothing_is_lost(world, words, resources):
    """Compare reads, searches and an export with what the words mean."""
    for each in resources:
        name = f"{each['resourceType']}/{each['id']}"
        if granted(words, each, "r"):
            assert (await world.send("GET", f"/{name}")).status_code == 200
    for type_ in ("Patient", "Observation"):
        of_type = [each for each in resources if each["resourceType"] == type_]
        found = [each["id"] for each in of_type if granted(words, each, "s")]
        response = await world.send("GET", f"/{type_}?_count=50")
        if found:
            entries = response.json()["entry"]
            assert {*found} <= {entry["resource"]["id"] for entry in entries}
    both = [each for each in resources if granted(words, each, "r") and granted(words, each, "s")]
    response = await world.send("GET", "/$export?_type=Patient", headers=ASYNC)
    patients = {each["id"] for each in both if each["resourceType"] == "Patient"}
    if response.status_code == 403:
        assert not patients
        return
    await world.site.finish(response.headers["content-location"], tenant="t1")
    _, *files = await contents_of(world, response.headers["content-location"])
    lines = "".join(text for *_, text in files)
    assert lines.count('"resourceType":"Patient"') == len(patients)
    assert all(f'"id":"{each}"' in lines for each in patients)
