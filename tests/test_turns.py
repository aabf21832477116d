import pytest

from tests.turns import VARIABLE, in_turn, today


@pytest.mark.parametrize("day", [1, 59, 60, 364])
def test_three_turns_in_a_row_have_every_item_once(day):
    items = [item for each in range(day, day + 3) for item in in_turn("abcdefg", f"{each:03}")]

    assert sorted(items) == list("abcdefg")


def test_all_items_can_be_chosen():
    assert in_turn("abcdefg", "all") == "abcdefg"


def test_a_run_keeps_the_turn_with_which_it_began(monkeypatch):
    monkeypatch.setenv(VARIABLE, "7")

    assert today() == "7"
