"""Tokens of pages are read back as they were given, and only in their own order."""

from datetime import UTC, datetime

import pytest

from helios_core.errors import InvalidParameter
from helios_core.fhir.instants import to_stamp
from helios_core.storage.data_provider import SortOrder, StoredVersion
from helios_core.storage.page_tokens import (
    ID_ORDERS,
    PageBuilder,
    make_page_token,
    parse_page_token,
)

LAST = StoredVersion(
    resource_type="Patient",
    id="p-1.a",
    version_id=1,
    last_updated=datetime(2026, 11, 22, 19, 46, 11, 123456, UTC),
    content=b"0123456789",
)


@pytest.mark.parametrize("order", [*SortOrder])
def test_a_token_says_where_the_page_ended(order):
    ending = parse_page_token(make_page_token(LAST, order), order)

    assert ending.id == LAST.id
    assert ending.stamp == (0 if order in ID_ORDERS else to_stamp(LAST.last_updated))


@pytest.mark.parametrize("order", [*SortOrder])
def test_a_token_of_another_order_is_refused(order):
    for other in set(SortOrder) - {order}:
        with pytest.raises(InvalidParameter, match="not one that this search linked to"):
            parse_page_token(make_page_token(LAST, other), order)


@pytest.mark.parametrize("token", ["", "id", "id:", "id:p/1", "at:p1", "at:x:p1", "id:p1\n"])
@pytest.mark.parametrize("order", [*SortOrder])
def test_what_is_no_token_is_refused(token, order):
    with pytest.raises(InvalidParameter):
        parse_page_token(token, order)


def test_a_page_is_full_when_it_has_all_it_may_have():
    page = PageBuilder(2, 1000)

    assert [page.add(LAST) for _ in range(3)] == [True, True, False]
    assert page.found == [LAST, LAST]


@pytest.mark.parametrize(("max_bytes", "found"), [(19, 1), (20, 2), (29, 2)])
def test_a_page_ends_before_it_has_more_bytes_than_it_may(max_bytes, found):
    page = PageBuilder(100, max_bytes)

    assert [page.add(LAST) for _ in range(3)] == [number < found for number in range(3)]
    assert len(page.found) == found


def test_a_resource_larger_than_a_page_has_a_page_of_its_own():
    page = PageBuilder(100, 5)

    assert [page.add(LAST) for _ in range(2)] == [True, False]
