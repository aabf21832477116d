"""Every interaction passes one function before it uses the storage."""

import msgspec
import pytest

from helios_core.errors import Forbidden, RequestError, ResourceNotFound
from helios_core.interactions import bundles as bundles_module
from helios_core.interactions import changes as changes_module
from helios_core.interactions import compartments, everything, history, search
from helios_core.interactions import read as read_module
from helios_core.interactions.callers import Interaction, authorize
from helios_core.interactions.changes import ChangeRequest
from helios_core.interactions.compartments import (
    Compartment,
    parse_all_types,
    parse_compartment_search,
    search_all_types,
    search_compartment,
)
from helios_core.interactions.everything import Everything, parse_everything
from helios_core.interactions.history import (
    HistoryQuery,
    history_instance,
    history_system,
    history_type,
)
from helios_core.interactions.read import read, vread
from helios_core.interactions.search import search_type
from helios_core.interactions.search_parameters import parse_search
from helios_core.storage.data_provider import PAGE_BYTES
from tests.interactions.entries import PATIENT, entry
from tests.tokens import principal

MODULES = (
    *(bundles_module, changes_module, compartments, everything, history, read_module, search),
)
COMPARTMENT = Compartment("Patient", "a")
OBSERVATION = {
    "resourceType": "Observation",
    "id": "o",
    "subject": {"reference": "Patient/a"},
    "performer": [{"reference": "Practitioner/gp"}],
}


class Refused(RequestError):
    """What a test does not allow."""


class Gate:
    """Records what passes, and refuses one combination."""

    def __init__(self):
        self.passed = []
        self.refused = None

    def __call__(self, caller, interaction, resource_type=None):
        if self.refused == (interaction, resource_type):
            raise Refused("not allowed")
        self.passed.append((interaction, resource_type))


@pytest.fixture
def gate(monkeypatch):
    gate = Gate()
    for module in MODULES:
        monkeypatch.setattr(module, "authorize", gate)
    return gate


def everybody(caller):
    return parse_search(caller, "Patient", [], lenient=False)


@pytest.fixture
async def perform(provider, caller, store, changes):
    """Perform one interaction with Patients."""
    await store(PATIENT | {"id": "a"})
    page = HistoryQuery(count=1)
    others = {
        "read": lambda: read(provider, caller, "Patient", "a"),
        "vread": lambda: vread(provider, caller, "Patient", "a", "1"),
        "history-instance": lambda: history_instance(provider, caller, "Patient", "a", page),
        "history-type": lambda: history_type(provider, caller, "Patient", page),
        "search-type": lambda: search_type(
            provider, caller, everybody(caller), max_bytes=PAGE_BYTES
        ),
    }

    async def perform(name):
        if name in others:
            return await others[name]()
        *conditional, interaction = name.split()
        return await changes.apply(
            caller,
            ChangeRequest(
                interaction=Interaction(interaction),
                resource_type="Patient",
                id="" if conditional or interaction == "create" else "a",
                criteria=[("active", "true")] if conditional else None,
                body=b'{"resourceType":"Patient"}',
            ),
        )

    return perform


@pytest.mark.parametrize(
    "name",
    [
        *("read", "vread", "history-instance", "history-type", "search-type"),
        *("create", "conditional create"),
        *("update", "conditional update", "delete", "conditional delete"),
    ],
)
async def test_an_interaction_passes_once(gate, perform, name):
    interaction = Interaction(name.removeprefix("conditional "))

    await perform(name)

    assert gate.passed == [(interaction, "Patient")]


def limited(caller, *scopes):
    """The caller with an access token that has some scopes."""
    return msgspec.structs.replace(caller, principal=principal("x", *scopes))


async def test_a_history_of_all_types_has_those_that_may_be_searched(provider, caller, store):
    await store(PATIENT | {"id": "a"}, OBSERVATION)
    someone = limited(caller, "system/Observation.s", "system/Patient.r")

    page = await history_system(provider, someone, HistoryQuery(count=10))

    assert [version.resource_type for version in page.versions] == ["Observation"]


async def test_a_search_in_a_compartment_passes_as_such_and_as_a_search(gate, provider, caller):
    search = parse_compartment_search(caller, COMPARTMENT, "Observation", [], lenient=False)

    await search_compartment(provider, caller, search, max_bytes=PAGE_BYTES)

    assert gate.passed == [("search-compartment", "Observation"), ("search-type", "Observation")]


async def test_a_search_of_a_whole_compartment_has_types_that_may_be_searched(
    provider, caller, store
):
    await store(PATIENT | {"id": "a"}, OBSERVATION)
    someone = limited(caller, "system/Observation.s", "system/Patient.r")

    page = await search_all_types(
        provider, someone, parse_all_types(someone, COMPARTMENT, [("_count", "1")])
    )

    assert [match.resource_type for match in page.matches] == ["Observation"]


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [
        (["system/*.r"], ["Observation", "Patient", "Practitioner"]),
        (["system/Patient.r"], ["Patient"]),
        (["system/Patient.r", "system/Observation.s"], ["Patient"]),
        (["system/Patient.r", "system/Practitioner.r"], ["Patient"]),
        (["system/Patient.r", "system/Observation.r"], ["Observation", "Patient"]),
    ],
)
async def test_a_record_has_types_that_may_be_read(provider, caller, store, scopes, expected):
    await store(PATIENT | {"id": "a"}, OBSERVATION, {"resourceType": "Practitioner", "id": "gp"})
    someone = limited(caller, *scopes)
    records = Everything(provider, provider, ["Practitioner"])

    page = await records.page(someone, parse_everything(someone, "a", []))

    resources = [*page.page.matches, *page.included]
    assert sorted(each.resource_type for each in resources) == expected


async def test_a_record_is_refused_where_patients_may_not_be_read(provider, caller, store):
    await store(PATIENT | {"id": "a"})
    someone = limited(caller, "system/Observation.rs", "system/Patient.s")

    with pytest.raises(Forbidden):
        await Everything(provider, provider, []).page(someone, parse_everything(someone, "a", []))


@pytest.mark.parametrize("name", ["create", "update", "delete", "conditional create"])
async def test_a_change_that_is_refused_changes_nothing(gate, perform, provider, caller, name):
    gate.refused = (Interaction(name.removeprefix("conditional ")), "Patient")

    with pytest.raises(Refused):
        await perform(name)

    [patient] = (
        await search_type(provider, caller, everybody(caller), max_bytes=PAGE_BYTES)
    ).matches
    assert (patient.id, patient.version_id) == ("a", 1)


ENTRIES = [
    entry("PUT", "Patient/a", PATIENT),
    entry("POST", "Patient", PATIENT, if_none_exist="active=true"),
    entry("DELETE", "Observation/o"),
    entry("GET", "Patient/a"),
    entry("GET", "Observation?status=final"),
    entry("GET", "Patient/_history"),
    entry("GET", "Patient/a/Condition"),
]
INTERACTIONS = [
    ("update", "Patient"),
    ("create", "Patient"),
    ("delete", "Observation"),
    ("read", "Patient"),
    ("search-type", "Observation"),
    ("history-type", "Patient"),
    ("search-compartment", "Condition"),
]


async def test_the_entries_of_a_batch_pass_and_are_refused_alone(gate, bundles, caller):
    await bundles.batch(caller, ENTRIES)

    assert gate.passed == [("batch", None), *INTERACTIONS, ("search-type", "Condition")]
    for index, interaction in enumerate(INTERACTIONS):
        gate.refused = interaction
        results = await bundles.batch(caller, ENTRIES)
        assert [isinstance(each, Refused) for each in results] == [
            other == index for other in range(len(ENTRIES))
        ]


@pytest.mark.parametrize("refused", [("transaction", None), *INTERACTIONS])
async def test_a_transaction_with_a_refused_entry_changes_nothing(
    gate, bundles, provider, caller, refused
):
    gate.refused = refused

    with pytest.raises(Refused):
        await bundles.transaction(caller, ENTRIES)

    gate.refused = None
    with pytest.raises(ResourceNotFound):
        await read(provider, caller, "Patient", "a")


async def test_the_entries_of_a_transaction_all_pass_before_the_first_change(
    gate, bundles, caller
):
    await bundles.transaction(caller, ENTRIES)

    assert gate.passed[: len(ENTRIES) + 1] == [("transaction", None), *INTERACTIONS]


@pytest.mark.parametrize("resource_type", ["Patiant", "", "patient", "x" * 1000])
def test_a_type_that_does_not_exist_is_not_found(caller, resource_type):
    with pytest.raises(ResourceNotFound) as raised:
        authorize(caller, Interaction.READ, resource_type)

    assert len(str(raised.value)) < 200
