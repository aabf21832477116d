import msgspec
import pytest

from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.resources import parse_resource
from helios_core.interactions.bundles import Bundles, ResponseBudget
from helios_core.interactions.callers import Caller, Interaction
from helios_core.interactions.changes import ChangeRequest, Changes
from helios_core.interactions.conditions import Conditions
from helios_core.memory import MemoryDataProvider
from helios_core.storage.data_provider import Put
from tests.interactions.entries import live_resources


@pytest.fixture
def caller():
    return Caller(tenant="default", fhir_version=FHIRVersion.R4, base="http://fhir.example")


@pytest.fixture
def provider():
    return MemoryDataProvider()


@pytest.fixture
def store(provider, caller):
    """Store resources behind the interactions' back."""

    async def store(*resources):
        changes = [
            Put(resource=parse_resource(msgspec.json.encode(resource), caller.fhir_version))
            for resource in resources
        ]
        return await provider.write(caller.tenant, caller.fhir_version, changes)

    return store


@pytest.fixture
def live(provider, caller):
    """Return the live resources of a type by id, without what the server adds."""

    async def live(resource_type="Patient"):
        return await live_resources(provider, caller, resource_type)

    return live


@pytest.fixture
def conditions(provider):
    return Conditions(provider, secret="a secret")


@pytest.fixture
def changes(provider, conditions):
    return Changes(provider, conditions)


class CollectedBundles:
    """Batches and transactions whose results are lists."""

    def __init__(self, provider, changes, conditions):
        self._bundles = Bundles(provider, changes, conditions)

    async def batch(self, caller, entries):
        return await self._collect(self._bundles.batch, caller, entries)

    async def transaction(self, caller, entries):
        return await self._collect(self._bundles.transaction, caller, entries)

    async def _collect(self, perform, caller, entries):
        return [result async for result in perform(caller, entries, ResponseBudget(1 << 40))]


@pytest.fixture
def bundles(provider, changes, conditions):
    return CollectedBundles(provider, changes, conditions)


@pytest.fixture
def create(changes, caller):
    async def create(resource, **options):
        return await changes.apply(caller, change(Interaction.CREATE, resource, **options))

    return create


@pytest.fixture
def update(changes, caller):
    async def update(resource, **options):
        options.setdefault("id", "" if "criteria" in options else resource["id"])
        return await changes.apply(caller, change(Interaction.UPDATE, resource, **options))

    return update


@pytest.fixture
def delete(changes, caller):
    async def delete(resource_type, resource_id="", **options):
        request = ChangeRequest(
            interaction=Interaction.DELETE, resource_type=resource_type, id=resource_id, **options
        )
        return await changes.apply(caller, request)

    return delete


def change(interaction, resource, **options):
    return ChangeRequest(
        interaction=interaction,
        resource_type=resource["resourceType"],
        body=msgspec.json.encode(resource),
        **options,
    )
