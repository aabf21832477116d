"""Mask the secret parts of settings: secrets, passwords in addresses, tokens in queries."""

import re
from typing import Final

MASK: Final = "********"

_ADDRESS: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_SECRET_NAME: Final = re.compile(
    r"(PASSWORD|PASSPHRASE|PASSWD|SECRET|TOKEN|CREDENTIALS?|API_?KEY|ACCESS_KEY|PRIVATE_KEY)$",
    re.IGNORECASE,
)
_HARMLESS: Final = frozenset(
    {
        *("application_name", "connect_timeout", "dbname", "host", "hostaddr", "mode", "port"),
        *("region", "replicaSet", "sslmode", "sslrootcert", "target_session_attrs", "tls", "user"),
    }
)
"""The parameters of an address whose values are shown; any other may be a token or a signature."""


def masked(text: str, *, secret: bool) -> str:
    """
    Return a value for display.

    The user and the host of an address are shown even if it is `secret`. Its password is taken to
    end at the last `@`, because it may contain any character. Any other secret is masked.
    """
    address = _ADDRESS.fullmatch(text)
    if address is None:
        return MASK if secret and text else text
    scheme, rest = address.groups()
    user, at, rest = rest.rpartition("@")
    rest, question, query = rest.partition("?")
    rest, fragment, _ = rest.partition("#")
    parameters = "&".join(map(_masked_parameter, query.split("&"))) if query else ""
    shown = _masked_user(user) + at + rest + (f"#{MASK}" if fragment else "")
    return f"{scheme}://{shown}{question}{parameters}"


def has_secret_name(name: str) -> bool:
    """Return whether a setting is a secret by its name, however its plugin declares it."""
    return _SECRET_NAME.search(name) is not None


def _masked_user(user: str) -> str:
    name, colon, _ = user.partition(":")
    # A user without a password is a token, as in https://TOKEN@host.
    return f"{name}:{MASK}" if colon else MASK if user else ""


def _masked_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    return parameter if name in _HARMLESS or not value else f"{name}{equals}{MASK}"
