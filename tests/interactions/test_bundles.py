import msgspec
import pytest

from helios_core.errors import (
    InvalidRequest,
    InvalidResource,
    ResourceNotFound,
    UnsupportedParameter,
    VersionConflict,
)
from helios_core.interactions.bundles import HistoryResult
from helios_core.interactions.changes import ChangeRequest, Changes, CompletedChange
from helios_core.interactions.conditions import Conditions
from helios_core.interactions.entries import MetadataRequest, ReadRequest, parse_entry
from helios_core.interactions.read import read
from helios_core.interactions.search import SearchResult
from helios_core.interactions.search_parameters import ParsedSearch
from helios_core.storage.data_provider import ChangeResult, StoredVersion
from tests.interactions.conftest import CollectedBundles
from tests.interactions.entries import PATIENT, TEMPORARY, entry, observation
from tests.interactions.narrowed import OnlyWritable


async def test_the_entries_of_a_batch_stand_alone_and_follow_each_other(bundles, caller):
    results = await bundles.batch(
        caller,
        [
            entry("PUT", "Patient/a", PATIENT),
            entry("GET", "Patient/a"),
            entry("PUT", "Patient/b", {"resourceType": "Observation"}),
            entry("DELETE", "Patient/a"),
            entry("GET", "Patient?_summary=count"),
            entry("PATCH", "Patient/a", PATIENT),
            entry("GET", "Patient/a/_history/1"),
            entry("GET", "Patient/a/_history"),
            entry("GET", "metadata"),
            entry("GET", "Patient"),
        ],
    )

    assert [type(each) for each in results] == [
        CompletedChange,
        StoredVersion,
        InvalidResource,
        CompletedChange,
        SearchResult,
        InvalidResource,
        StoredVersion,
        HistoryResult,
        MetadataRequest,
        SearchResult,
    ]
    assert results[3].outcome is ChangeResult.DELETED
    assert results[4].total == 0
    assert str(results[2]).startswith("entry 2: ")


async def test_a_transaction_returns_its_results_in_the_order_of_its_entries(
    bundles, caller, store
):
    await store(PATIENT | {"id": "old"})

    results = await bundles.transaction(
        caller,
        [
            entry("GET", "Patient/new"),
            entry("PUT", "Patient/new", PATIENT),
            entry("GET", "Patient/none"),
            entry("DELETE", "Patient/old"),
        ],
    )

    assert results[0].id == "new"
    assert [each.outcome for each in (results[1], results[3])] == ["created", "deleted"]
    assert isinstance(results[2], ResourceNotFound)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (entry("PUT", "Patient/b", {"resourceType": "Observation"}), InvalidResource),
        (entry("PUT", "Patient/b", PATIENT, if_match="x"), InvalidRequest),
        (entry("PUT", "Nothing/b", PATIENT), ResourceNotFound),
        (entry("GET", "Patient?bogus=1"), UnsupportedParameter),
        (entry("POST", "Observation", observation(TEMPORARY)), InvalidResource),
        (entry("POST", "Observation", observation("Patient?identifier=x")), InvalidResource),
    ],
)
async def test_a_fault_of_one_entry_undoes_a_transaction_and_names_it(
    bundles, provider, caller, wrong, error
):
    with pytest.raises(error, match=r"^entry 1: "):
        await bundles.transaction(caller, [entry("PUT", "Patient/a", PATIENT), wrong])

    with pytest.raises(ResourceNotFound):
        await read(provider, caller, "Patient", "a")


async def test_a_conflict_undoes_a_transaction(bundles, provider, caller):
    conflict = entry("PUT", "Patient/b", PATIENT, if_match='W/"3"')

    with pytest.raises(VersionConflict):
        await bundles.transaction(caller, [entry("PUT", "Patient/a", PATIENT), conflict])

    with pytest.raises(ResourceNotFound):
        await read(provider, caller, "Patient", "a")


async def test_references_between_the_entries_of_a_transaction_become_real(
    bundles, provider, caller, store
):
    await store(PATIENT | {"id": "known", "active": True})

    created, temporary, conditional = await bundles.transaction(
        caller,
        [
            entry("POST", "Patient", PATIENT, full_url=TEMPORARY),
            entry("POST", "Observation", observation(TEMPORARY)),
            entry("POST", "Observation", observation("Patient?active=true")),
        ],
    )

    for completed, patient in ((temporary, created.id), (conditional, "known")):
        stored = await read(provider, caller, "Observation", completed.id)
        subject = msgspec.json.decode(stored.content)["subject"]
        assert subject == {"reference": f"Patient/{patient}"}


async def test_a_temporary_reference_may_mean_what_a_conditional_create_found(
    bundles, provider, caller, store
):
    await store(PATIENT | {"id": "known", "active": True})

    found, completed = await bundles.transaction(
        caller,
        [
            entry("POST", "Patient", PATIENT, full_url=TEMPORARY, if_none_exist="active=true"),
            entry("PUT", "Observation/o", observation(TEMPORARY)),
        ],
    )

    assert (found.outcome, found.id) == (ChangeResult.UNCHANGED, "known")
    assert b'"Patient/known"' in completed.content()


async def test_the_entries_of_a_batch_do_not_refer_to_each_other(bundles, caller):
    _, completed = await bundles.batch(
        caller,
        [
            entry("POST", "Patient", PATIENT, full_url=TEMPORARY),
            entry("PUT", "Observation/o", observation(TEMPORARY)),
        ],
    )

    assert TEMPORARY.encode() in completed.content()


@pytest.mark.parametrize(
    "pair",
    [
        [entry("PUT", "Patient/a", PATIENT), entry("DELETE", "Patient/a")],
        [entry("PUT", "Patient/a", PATIENT), entry("PUT", "Patient?active=true", PATIENT)],
        [entry("POST", "Patient", PATIENT, if_none_exist="active=false")] * 2,
    ],
)
async def test_a_transaction_that_changes_a_resource_twice_is_refused(
    bundles, caller, store, pair
):
    await store(PATIENT | {"id": "a", "active": True})

    with pytest.raises(InvalidRequest, match="entries 0 and 1"):
        await bundles.transaction(caller, pair)


async def test_a_search_that_storage_cannot_do_fails_before_anything_changes(provider, caller):
    writer = OnlyWritable(provider)
    conditions = Conditions(writer, secret="a secret")
    bundles = CollectedBundles(writer, Changes(writer, conditions), conditions)
    entries = [entry("PUT", "Patient/a", PATIENT), entry("GET", "Patient?active=true")]

    with pytest.raises(UnsupportedParameter, match="entry 1"):
        await bundles.transaction(caller, entries)
    with pytest.raises(ResourceNotFound):
        await read(provider, caller, "Patient", "a")
    done, refused = await bundles.batch(caller, entries)
    assert done.outcome is ChangeResult.CREATED
    assert isinstance(refused, UnsupportedParameter)


@pytest.mark.parametrize("base", ["", "/", "http://fhir.example/"])
def test_the_url_of_an_entry_may_be_relative_or_absolute(caller, base):
    request = parse_entry(caller, entry("GET", f"{base}Patient/a"))

    assert request == ReadRequest(resource_type="Patient", id="a")


def test_an_entry_becomes_the_request_that_it_is(caller):
    change = parse_entry(
        caller, entry("POST", "Patient", PATIENT, if_none_exist="Patient?active=true")
    )
    search = parse_entry(caller, entry("GET", "Patient?active=true"))
    delete = parse_entry(caller, entry("DELETE", "Patient/a", PATIENT, if_match='W/"2"'))

    assert isinstance(change, ChangeRequest)
    assert (change.interaction, change.criteria) == ("create", [("active", "true")])
    assert isinstance(search, ParsedSearch)
    assert search.interaction == "search-type"
    assert (delete.interaction, delete.id, delete.body, delete.if_match) == ("delete", "a", b"", 2)


@pytest.mark.parametrize(
    ("method", "url", "options"),
    [
        ("GET", "", {}),
        ("GET", "Patient/a?bogus=1", {}),
        ("GET", "Patient/a/_history?bogus=1", {}),
        ("GET", "Patient/a/_history/1/2", {}),
        ("GET", "Nothing", {}),
        ("POST", "Patient/a", {}),
        ("POST", "Patient?active=true", {}),
        ("PUT", "Patient", {}),
        ("PUT", "Patient/a?active=true", {}),
        ("PUT", "Patient/a", {"if_none_exist": "active=true"}),
        ("DELETE", "Patient", {}),
        ("HEAD", "", {}),
        ("PATCH", "Patient", {}),
        ("PATCH", "Patient/a", {}),
        ("PUT", "Patient/a", {"if_none_match": 'W/"1"'}),
        ("PUT", "Patient?active=true", {"if_none_match": "*"}),
        ("DELETE", "Patient/a", {"if_none_match": "*"}),
        ("GET", "Patient/a", {"if_modified_since": "2020-01-01T00:00:00Z"}),
        ("PUT", "Patient?name=%ff", {}),
    ],
)
def test_an_entry_that_means_nothing_is_refused(caller, method, url, options):
    with pytest.raises((InvalidRequest, ResourceNotFound)):
        parse_entry(caller, entry(method, url, PATIENT, **options))
