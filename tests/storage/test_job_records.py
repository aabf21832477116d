"""What job stores share."""

from helios_core import PART_KINDS, PartKind, give_up_reason, job_not_found, too_many_exports


def test_kinds_of_parts_are_kept_by_numbers_that_never_change():
    assert [kind.value for kind in PART_KINDS] == ["output", "deleted", "error"]
    assert {*PART_KINDS} == {*PartKind}


def test_a_shard_is_given_up_with_its_last_error_if_there_is_one():
    assert give_up_reason(3, 2, "disk full") == "shard 3 was given up after 2 attempts: disk full"
    assert give_up_reason(3, 2, None).endswith("none of its workers reported back")


def test_errors_say_what_to_do():
    assert str(job_not_found("x")) == ("there is no export x, or it was deleted; start a new one")
    assert "4 exports are active and 3 are allowed" in str(too_many_exports(4, 3))
