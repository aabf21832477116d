"""A transaction sees one state of the store, whatever others change while it is resolved."""

import msgspec
import pytest

from helios_core.errors import RequestError, TooCostly, VersionConflict
from helios_core.interactions import pending
from helios_core.interactions.changes import Changes
from helios_core.interactions.conditions import Conditions
from helios_core.memory import MemoryDataProvider
from tests.interactions.conftest import CollectedBundles
from tests.interactions.entries import (
    TEMPORARY,
    entry,
    identifier,
    live_resources,
    observation,
    patient,
)

DELETION = entry("DELETE", f"Patient?{identifier(7)}")
CREATION = entry(
    "POST", "Patient", patient("7", active=True), full_url=TEMPORARY, if_none_exist=identifier(7)
)
UPDATE = entry("PUT", f"Patient?{identifier(7)}", patient("7", active=True))
LINKED = entry("POST", "Observation", observation(f"Patient?{identifier(7)}"))
ACTIVE = {"reference": f"Patient?{identifier(7)}&active=true"}
LINKED_OTHERWISE = entry("POST", "Basic", {"resourceType": "Basic", "subject": ACTIVE})

TRANSACTIONS = {
    "replaced": [DELETION, CREATION, entry("PUT", "Observation/o", observation(TEMPORARY))],
    "replaced by an update": [DELETION, UPDATE],
    "deleted and referred to": [DELETION, LINKED],
    "created and referred to": [CREATION, LINKED, LINKED_OTHERWISE],
    "referred to twice": [LINKED, LINKED_OTHERWISE],
    "created on two conditions": [
        CREATION,
        entry("POST", "Patient", patient("7"), if_none_exist="gender=male"),
    ],
}
CHANGES = {
    "created": [entry("PUT", "Patient/theirs", patient("7", active=True, gender="male"))],
    "created on the condition": [CREATION],
    "deleted": [entry("DELETE", "Patient/old")],
    "replaced": [entry("DELETE", "Patient/old"), entry("PUT", "Patient/new", patient("7"))],
    "no match any more": [entry("PUT", "Patient/old", patient("8"))],
    "no match of one condition any more": [entry("PUT", "Patient/old", patient("7"))],
}


class Interrupted:
    """A provider in which something happens after a number of questions."""

    def __init__(self, inner, countdown, happening):
        self._inner = inner
        self.countdown = countdown
        self._happening = happening

    def __getattr__(self, name):
        return getattr(self._inner, name)

    async def search(self, key, query, *, count, after=None):
        page = await self._inner.search(key, query, count=count, after=after)
        await self._count()
        return page

    async def get(self, key):
        stored = await self._inner.get(key)
        await self._count()
        return stored

    async def _count(self):
        self.countdown -= 1
        if self.countdown == 0:
            await self._happening()


class Site:
    """A store with a client of its own."""

    def __init__(self, provider):
        conditions = Conditions(provider, secret="a secret")
        self.provider = provider
        self.bundles = CollectedBundles(provider, Changes(provider, conditions), conditions)

    async def outcome(self, caller, entries):
        """Return what the client is told about a transaction, without what differs each time."""
        try:
            results = await self.bundles.transaction(caller, entries)
        except RequestError as error:
            return type(error)
        return [result.outcome for result in results]

    async def content(self, caller):
        """Return the live resources of all types that the tests use."""
        live = [
            resource
            for type_ in ("Patient", "Observation", "Basic")
            for resource in (await live_resources(self.provider, caller, type_)).items()
        ]
        numbers = {id_: str(number) for number, (id_, _) in enumerate(sorted(live, key=_content))}
        text = msgspec.json.encode([resource for _, resource in sorted(live, key=_content)])
        for id_, number in numbers.items():
            text = text.replace(id_.encode(), number.encode())
        return text


def _content(pair):
    return msgspec.json.encode({k: v for k, v in pair[1].items() if k != "subject"})


@pytest.fixture(params=[[], [patient("7", id="old", active=True)]], ids=["empty", "stored"])
def site(request, caller):
    async def site():
        opened = Site(MemoryDataProvider())
        puts = [entry("PUT", f"Patient/{each['id']}", each) for each in request.param]
        await opened.bundles.transaction(caller, puts)
        return opened

    return site


@pytest.mark.parametrize("name", TRANSACTIONS)
@pytest.mark.parametrize("change", CHANGES)
async def test_the_result_is_that_of_one_after_the_other(site, caller, name, change):
    mine, theirs = TRANSACTIONS[name], CHANGES[change]
    serial = []
    for order in ((mine, theirs), (theirs, mine)):
        alone = await site()
        outcomes = [await alone.outcome(caller, each) for each in order]
        outcome = outcomes[order.index(mine)]
        serial.append((outcome, await alone.content(caller)))

    happened = True
    countdown = 0
    while happened:
        countdown += 1
        store = await site()
        interrupted = Interrupted(
            store.provider, countdown, lambda store=store: store.outcome(caller, theirs)
        )
        outcome = await Site(interrupted).outcome(caller, mine)
        happened = interrupted.countdown <= 0
        if not happened:
            await store.outcome(caller, theirs)
        content = await store.content(caller)
        assert outcome is VersionConflict or (outcome, content) in serial, countdown
    assert countdown > 1


async def test_conditions_that_match_very_much_together_are_refused(caller, monkeypatch):
    monkeypatch.setattr(pending, "MAX_MATCHED_BYTES", 10_000)
    site = Site(MemoryDataProvider())
    large = [patient(str(number), id=f"p{number}", language="x" * 4000) for number in range(3)]
    await site.bundles.transaction(
        caller, [entry("PUT", f"Patient/{each['id']}", each) for each in large]
    )
    references = [
        entry("POST", "Observation", observation(f"Patient?{identifier(number)}"))
        for number in (0, 0, 0, 1, 2)
    ]

    assert len(await site.outcome(caller, references[:4])) == 4
    assert await site.outcome(caller, references) is TooCostly
