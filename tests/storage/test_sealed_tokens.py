import pytest

from helios_core import InvalidParameter
from helios_core.storage.sealed_tokens import TokenSeal

TOKEN = "at:1764328346000000:4503599627370497"


def test_a_token_is_opened_by_every_process_with_the_secret():
    sealed = TokenSeal("secret").close(TOKEN, "t1")

    assert TokenSeal("secret").open(sealed, "t1") == TOKEN


def test_nothing_is_seen_of_a_token_not_even_its_length():
    sealed = [TokenSeal("secret").close(token, "t1") for token in (TOKEN, "at:1:1", "at:-1:99")]

    assert len(set(map(len, sealed))) == 1
    assert len(set(sealed)) == 3


@pytest.mark.parametrize("length", [1, 47, 48, 49, 200])
def test_a_token_may_have_any_length(length):
    seal = TokenSeal("secret")

    assert seal.open(seal.close("x" * length, "t1"), "t1") == "x" * length


def test_a_token_of_another_server_or_tenant_is_refused():
    sealed = TokenSeal("secret").close(TOKEN, "t1")

    for seal, about in ((TokenSeal("other"), "t1"), (TokenSeal("secret"), "t2")):
        with pytest.raises(InvalidParameter):
            seal.open(sealed, about)


def test_a_token_that_was_changed_is_refused():
    """Or whether a version is shown would tell of the number that was changed."""
    sealed = TokenSeal("secret").close(TOKEN, "t1")

    for place, letter in enumerate(sealed):
        changed = sealed[:place] + ("B" if letter == "A" else "A") + sealed[place + 1 :]
        with pytest.raises(InvalidParameter):
            TokenSeal("secret").open(changed, "t1")


@pytest.mark.parametrize("sealed", ["", "x", TOKEN, "é", "====", "a" * 86, "a" * 100_000])
def test_whatever_else_is_sent_is_refused(sealed):
    with pytest.raises(InvalidParameter):
        TokenSeal("secret").open(sealed, "t1")
