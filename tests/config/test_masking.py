"""What `helios settings` shows of values that may hold secrets."""

from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_core.config.environment import describe_variables, read_variables
from helios_core.config.masking import MASK, masked
from helios_core.storage.secrets import Secret


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hush@db:5432/fhir", f"postgresql://me:{MASK}@db:5432/fhir"),
        ("postgresql://me:hu@sh/x@db/fhir", f"postgresql://me:{MASK}@db/fhir"),
        ("postgresql://me:hu?sh#x@db/fhir", f"postgresql://me:{MASK}@db/fhir"),
        ("postgresql://me:@db", f"postgresql://me:{MASK}@db"),
        (
            "postgresql://me:hush@a,b:5/x?sslmode=require",
            f"postgresql://me:{MASK}@a,b:5/x?sslmode=require",
        ),
        (
            "postgresql://db/fhir?user=me&password=hush",
            f"postgresql://db/fhir?user=me&password={MASK}",
        ),
        ("https://token@host/path", f"https://{MASK}@host/path"),
        (
            "https://host/?X-Amz-Signature=hush&sig=hush",
            f"https://host/?X-Amz-Signature={MASK}&sig={MASK}",
        ),
        ("https://host/path#hush", f"https://host/path#{MASK}"),
        ("https://host/path", "https://host/path"),
    ],
)
@pytest.mark.parametrize("secret", [True, False])
def test_the_secrets_of_an_address_are_masked_and_its_host_is_shown(text, shown, secret):
    assert masked(text, secret=secret) == shown


def test_other_secrets_are_masked_whole():
    assert masked("hush", secret=True) == MASK
    assert masked("host=db password=hush", secret=True) == MASK
    assert masked("", secret=True) == ""
    assert masked("shown", secret=False) == "shown"


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12))
def test_no_password_is_ever_shown(password):
    secret = f"<{password}>"

    assert secret not in masked(f"postgresql://me:{secret}@db/fhir", secret=True)


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    api_token: str = ""
    keyring: str = ""
    access_key: Annotated[str, msgspec.Meta(pattern="^[a-z]*$")] = ""
    requires_token: bool = False
    address: Annotated[str, msgspec.Meta(pattern="^ftp:")] = ""
    password: Secret | None = None
    addresses: tuple[str, ...] = ()


def test_a_setting_that_is_a_secret_by_its_name_is_masked():
    known = {variable.field: variable for variable in describe_variables(Shape, plugin="demo")}

    assert known["api_token"].shown("hush") == MASK
    assert known["password"].shown("hush") == MASK
    assert known["keyring"].shown("shown") == "shown"
    assert known["requires_token"].shown("true") == "true"
    assert known["addresses"].shown("http://a:b@c,d") == f"http://a:{MASK}@c,d"


def test_no_error_shows_a_secret():
    environ = {"HFS_DEMO_ACCESS_KEY": "HUSH", "HFS_DEMO_ADDRESS": "http://me:hush@host"}

    _, problems = read_variables(describe_variables(Shape, plugin="demo"), environ)

    assert len(problems) == 2
    assert "hush" not in " ".join(problems).lower()
