"""What a change does to what is there."""

import msgspec
import pytest

from helios_core import ChangeResult, Decision, Delete, Put, VersionConflict, decide
from helios_core.testing.corpus import patient

SAME, OTHER = patient("p1"), patient("p1", note="b")


class Current(msgspec.Struct):
    version_id: int = 4
    deleted: bool = False
    content_hash: int = SAME.content_hash


LIVE, GONE = Current(), Current(deleted=True)
DELETION = Delete(resource_type="Patient", id="p1")


@pytest.mark.parametrize(
    ("change", "current", "expected"),
    [
        (Put(resource=SAME), None, Decision(ChangeResult.CREATED, 1, makes_version=True)),
        (Put(resource=SAME), LIVE, Decision(ChangeResult.UNCHANGED, 4, makes_version=False)),
        (Put(resource=OTHER), LIVE, Decision(ChangeResult.UPDATED, 5, makes_version=True)),
        (Put(resource=SAME), GONE, Decision(ChangeResult.CREATED, 5, makes_version=True)),
        (DELETION, LIVE, Decision(ChangeResult.DELETED, 5, makes_version=True)),
        (DELETION, GONE, Decision(ChangeResult.ABSENT, 4, makes_version=False)),
        (DELETION, None, Decision(ChangeResult.ABSENT, 0, makes_version=False)),
    ],
)
def test_a_change_is_decided_by_what_is_current(change, current, expected):
    number = 0 if current is None else current.version_id

    assert decide(change, current) == expected
    assert decide(msgspec.structs.replace(change, if_match=number), current) == expected


@pytest.mark.parametrize("change", [Put(resource=SAME), DELETION])
@pytest.mark.parametrize(
    ("if_match", "current", "message"),
    [
        (3, LIVE, "version 3 was expected to be current, but version 4 is"),
        (1, None, "version 1 was expected to be current, but no version is"),
        (0, GONE, "no version was expected to be current, but version 4 is"),
    ],
)
def test_a_change_of_another_version_is_refused(change, if_match, current, message):
    with pytest.raises(VersionConflict, match=message):
        decide(msgspec.structs.replace(change, if_match=if_match), current)


def test_a_put_names_its_resource_as_a_delete_does():
    put = Put(resource=SAME)

    assert (put.resource_type, put.id) == (DELETION.resource_type, DELETION.id)
