import asyncio
import threading
from contextlib import AsyncExitStack

import pytest

import helios_postgres
import helios_sqlite
from helios_core.interactions import conditions
from helios_core.interactions.search_parameters import parse_criteria
from helios_core.memory import MemoryDataProvider, MemoryJobStore
from helios_core.storage.data_provider import SupportsWrites
from helios_core.storage.secrets import Secret
from tests.interactions.narrowed import OnlyWritable

SYSTEM = "http://hospital.example/mrn"
PATIENT = {"resourceType": "Patient", "identifier": [{"system": SYSTEM, "value": "7"}]}
CRITERIA = f"identifier={SYSTEM}|7"


def named(resource_id, value="7"):
    identifier = {"system": SYSTEM, "value": value}
    return {"resourceType": "Patient", "id": resource_id, "identifier": [identifier]}


@pytest.fixture
def site(either_site):
    return either_site


async def create(client, criteria=CRITERIA, resource=PATIENT):
    return await client.post("/Patient", json=resource, headers={"If-None-Exist": criteria})


async def ids(client, query=""):
    bundle = (await client.get(f"/Patient{query}")).json()
    return [each["resource"]["id"] for each in bundle.get("entry", ())]


@pytest.mark.parametrize("form", [CRITERIA, f"?{CRITERIA}", f"Patient?{CRITERIA}"])
async def test_a_conditional_create_stores_once(client, form):
    first = await create(client, form)
    second = await create(client, form)

    assert (first.status_code, second.status_code) == (201, 200)
    assert second.content == first.content
    assert second.headers["location"] == first.headers["location"]
    assert second.headers["etag"] == 'W/"1"'
    assert await ids(client) == [first.json()["id"]]


async def test_conditional_creates_at_once_store_once(client):
    responses = await asyncio.gather(*(create(client) for _ in range(20)))

    assert sorted(response.status_code for response in responses) == [*[200] * 19, 201]
    assert len(await ids(client)) == 1


@pytest.fixture(params=["sqlite", "postgres"])
def shared(request, tmp_path):
    """Return a plugin, and its settings for a database of this test's own."""
    if request.param == "sqlite":
        return helios_sqlite, helios_sqlite.SQLiteSettings(data_dir=str(tmp_path))
    url = Secret(request.getfixturevalue("postgres_url"))
    return helios_postgres, helios_postgres.PostgresSettings(database_url=url)


@pytest.fixture
async def processes(shared, open_site):
    """Clients of two servers over one database that know nothing of each other."""
    plugin, own = shared
    await plugin.migrate(own)
    async with AsyncExitStack() as stack:
        opened = [
            {
                "data_provider": await stack.enter_async_context(plugin.open_data_provider(own)),
                "job_store": await stack.enter_async_context(plugin.open_job_store(own)),
            }
            for _ in range(2)
        ]
        yield [(await open_site(**backends)).client for backends in opened]


async def test_conditional_creates_in_two_processes_store_once(processes):
    for number in range(10):
        criteria = f"identifier={SYSTEM}|{number}"
        identifier = {"system": SYSTEM, "value": str(number)}
        resource = {"resourceType": "Patient", "identifier": [identifier]}

        responses = await asyncio.gather(
            *(create(client, criteria, resource) for client in processes * 5)
        )

        assert sorted(response.status_code for response in responses) == [*[200] * 9, 201]
        assert len(await ids(processes[0], f"?{criteria}")) == 1


async def test_transactions_in_two_processes_create_on_one_condition_once(processes):
    entry = {
        "resource": PATIENT,
        "request": {"method": "POST", "url": "Patient", "ifNoneExist": CRITERIA},
    }
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}

    responses = await asyncio.gather(*(each.post("/", json=bundle) for each in processes * 5))

    statuses = sorted(each.json()["entry"][0]["response"]["status"] for each in responses)
    assert statuses == [*["200 OK"] * 9, "201 Created"]
    assert len(await ids(processes[1])) == 1


async def test_replacements_in_two_processes_leave_one_resource(processes):
    def replacement(number):
        patient = PATIENT | {"multipleBirthInteger": number}
        urn = f"urn:uuid:00000000-0000-0000-0000-{number:012}"
        observation = {"resourceType": "Observation", "subject": {"reference": urn}}
        created = {"method": "POST", "url": "Patient", "ifNoneExist": CRITERIA}
        return {
            "resourceType": "Bundle",
            "type": "transaction",
            "entry": [
                {"request": created, "resource": patient, "fullUrl": urn},
                {"request": {"method": "DELETE", "url": f"Patient?{CRITERIA}"}},
                {"request": {"method": "POST", "url": "Observation"}, "resource": observation},
            ],
        }

    for round_ in range(3):
        numbers = enumerate(processes * 3, 6 * round_)
        responses = await asyncio.gather(
            *(client.post("/", json=replacement(number)) for number, client in numbers)
        )
        done = [each.json()["entry"] for each in responses if each.status_code == 200]

        assert {each.status_code for each in responses} <= {200, 412}
        assert done
        assert {entry["response"]["status"] for entry, *_ in done} == {"201 Created"}
        assert len(await ids(processes[0])) == 1


async def test_conditional_updates_in_two_processes_store_one_resource(processes):
    async def update(client, number):
        resource = PATIENT | {"multipleBirthInteger": number}
        return await client.put(f"/Patient?{CRITERIA}", json=resource)

    pairs = enumerate(processes * 2, 1)
    responses = await asyncio.gather(*(update(client, number) for number, client in pairs))

    assert sorted(response.status_code for response in responses) == [200, 200, 200, 201]
    assert len(await ids(processes[0])) == 1


async def test_what_is_created_again_after_its_deletion_goes_on_with_its_versions(client):
    first = (await create(client)).json()["id"]
    await client.delete(f"/Patient/{first}")

    again = await create(client)

    assert (again.status_code, again.json()["id"]) == (201, first)
    assert again.headers["etag"] == 'W/"3"'


async def test_who_no_longer_meets_the_condition_is_not_written_over(client):
    first = (await create(client)).json()["id"]
    await client.put(f"/Patient/{first}", json={"resourceType": "Patient", "id": first})

    second = await create(client)

    assert second.status_code == 201
    assert sorted(await ids(client)) == sorted([first, second.json()["id"]])


async def test_an_id_does_not_tell_other_stores_what_was_searched_for(open_site):
    one = (await create((await open_site()).client)).json()["id"]
    other = await open_site(data_provider=MemoryDataProvider(), job_store=MemoryJobStore())

    assert (await create(other.client)).json()["id"] != one


async def test_conditional_updates_at_once_store_one_resource(client):
    async def update(number):
        resource = PATIENT | {"multipleBirthInteger": number}
        return await client.put(f"/Patient?{CRITERIA}", json=resource)

    responses = await asyncio.gather(*map(update, range(1, 21)))

    assert sorted(response.status_code for response in responses) == [*[200] * 19, 201]
    assert len(await ids(client)) == 1


async def test_a_condition_that_several_meet_changes_nothing(site, client, outcome):
    await site.put(named("a"), named("b"))

    outcome(await create(client), 412, "multiple-matches")
    outcome(await client.put(f"/Patient?{CRITERIA}", json=PATIENT), 412, "multiple-matches")
    outcome(await client.delete(f"/Patient?{CRITERIA}"), 412, "multiple-matches")
    assert await ids(client) == ["a", "b"]


@pytest.mark.parametrize("criteria", ["", "_format=json", "bogus=1", "_count=1", "birthdate=x"])
async def test_a_condition_that_means_nothing_is_refused_under_every_handling(
    site, client, outcome, criteria
):
    await site.put(named("a"))
    lenient = {"Prefer": "handling=lenient"}

    created = await client.post(
        "/Patient", json=PATIENT, headers=lenient | {"If-None-Exist": criteria}
    )
    outcome(created, 400)
    outcome(await client.put(f"/Patient?{criteria}", json=PATIENT, headers=lenient), 400)
    outcome(await client.delete(f"/Patient?{criteria}", headers=lenient), 400)
    assert await ids(client) == ["a"]


async def test_a_conditional_update_changes_the_one_that_matches(site, client):
    await site.put(named("a"), named("b", "8"))

    updated = await client.put(f"/Patient?{CRITERIA}", json=PATIENT | {"active": True})

    assert (updated.status_code, updated.headers["etag"]) == (200, 'W/"2"')
    assert updated.json()["id"] == "a"
    assert updated.json()["active"] is True


async def test_a_conditional_update_without_a_match_creates(client):
    unnamed = await client.put(f"/Patient?{CRITERIA}", json=PATIENT)
    own = await client.put(f"/Patient?identifier={SYSTEM}|8", json=named("own", "8"))

    assert (unnamed.status_code, own.status_code) == (201, 201)
    assert own.headers["location"] == "http://fhir.example/Patient/own/_history/1"


async def test_a_conditional_update_does_not_write_over_another_resource(site, client, outcome):
    await site.put(named("taken", "8"))

    refused = await client.put(f"/Patient?{CRITERIA}", json=named("taken"))

    outcome(refused, 409, "duplicate")
    assert (await client.get("/Patient/taken")).headers["etag"] == 'W/"1"'


async def test_a_conditional_update_may_bring_back_a_deleted_id(site, client):
    await site.put(named("back"))
    await site.delete("Patient", "back")

    updated = await client.put(f"/Patient?{CRITERIA}", json=named("back"))

    assert updated.headers["etag"] == 'W/"3"'


async def test_a_body_with_another_id_than_the_match_is_refused(site, client, outcome):
    await site.put(named("a"))

    outcome(await client.put(f"/Patient?{CRITERIA}", json=named("b")), 400, "structure")


@pytest.mark.parametrize("body", [b"", b"[]", b'{"id":{}}', b'{"id":"\\ud800"}', b'{"id":"a b"}'])
async def test_a_conditional_update_with_a_broken_body_is_refused(client, outcome, body):
    headers = {"Content-Type": "application/json"}

    outcome(await client.put(f"/Patient?{CRITERIA}", content=body, headers=headers), 400)


async def test_if_match_must_name_the_version_of_the_match(site, client, outcome):
    await site.put(named("a"))
    url = f"/Patient?{CRITERIA}"

    for stale in ('W/"2"', 'W/"9"'):
        headers = {"If-Match": stale}
        outcome(await client.put(url, json=PATIENT, headers=headers), 412, "conflict")
        outcome(await client.delete(url, headers=headers), 412, "conflict")
    changed = await client.put(url, json=PATIENT | {"active": True}, headers={"If-Match": 'W/"1"'})
    nowhere = await client.put(
        f"/Patient?identifier={SYSTEM}|9", json=PATIENT, headers={"If-Match": 'W/"1"'}
    )

    assert changed.status_code == 200
    outcome(nowhere, 412, "conflict")


async def test_a_conditional_delete_deletes_the_one_that_matches(site, client):
    await site.put(named("a"), named("b", "8"))

    deleted = await client.delete(f"/Patient?{CRITERIA}")
    again = await client.delete(f"/Patient?{CRITERIA}")

    assert (deleted.status_code, again.status_code) == (204, 204)
    assert deleted.headers["etag"] == 'W/"2"'
    assert await ids(client) == ["b"]


async def test_a_condition_may_be_a_chain(site, client):
    organization = {"resourceType": "Organization", "id": "o", "name": "Grey"}
    await site.put(
        organization, named("a") | {"managingOrganization": {"reference": "Organization/o"}}
    )

    deleted = await client.delete("/Patient?organization.name=grey")

    assert deleted.status_code == 204
    assert await ids(client) == []


async def test_without_search_conditions_are_refused_and_not_promised(
    open_site, backends, outcome
):
    provider = OnlyWritable(backends.data_provider)
    client = (await open_site(data_provider=provider)).client
    entry = {
        "resource": PATIENT,
        "request": {"method": "POST", "url": "Patient", "ifNoneExist": CRITERIA},
    }

    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}

    assert isinstance(provider, SupportsWrites)
    outcome(await create(client), 400, "not-supported")
    outcome(await client.post("/", json=bundle), 400, "not-supported")
    outcome(await client.put(f"/Patient?{CRITERIA}", json=PATIENT), 405)
    assert (await client.post("/Patient", json=PATIENT)).status_code == 201
    statement = (await client.get("/metadata")).json()
    [patient] = [r for r in statement["rest"][0]["resource"] if r["type"] == "Patient"]
    assert not {"searchParam", "searchInclude", "conditionalCreate"} & {*patient}


async def test_a_long_condition_is_compiled_beside_the_event_loop(client, monkeypatch):
    threads = []

    def compiled(*arguments):
        threads.append(threading.current_thread())
        return parse_criteria(*arguments)

    monkeypatch.setattr(conditions, "parse_criteria", compiled)
    body = {"resourceType": "Patient"}
    for values in (1, 5_000):
        condition = "identifier=" + ",".join(["x|a"] * values)
        entry = {"resource": body, "request": {"method": "POST", "url": "Patient"}}
        entry["request"]["ifNoneExist"] = condition
        await client.post("/", json={"resourceType": "Bundle", "type": "batch", "entry": [entry]})

    short, long = threads
    assert short is threading.current_thread()
    assert long is not short
