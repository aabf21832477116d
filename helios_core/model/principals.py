"""Principals: who makes a request, as a verified access token says."""

from datetime import datetime
from typing import Annotated
from urllib.parse import quote

import msgspec


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated client; every field comes from verified claims (V2)."""

    issuer: Annotated[str, msgspec.Meta(min_length=1)]
    """The issuer of the token, exactly as its `iss` has it."""
    subject: str
    """The token's `sub`."""
    client_id: Annotated[str, msgspec.Meta(min_length=1)]
    """The OAuth client that the token was issued to."""
    scopes: tuple[str, ...]
    """The scopes of the token, in its order; unknown ones are kept and grant nothing."""
    tenant: str | None = None
    """The tenant that the token names, not checked for its form; None if it names none."""
    groups: frozenset[str] | None = None
    """
    The ids of the Groups whose exports the client may start and see; None is no such limit.

    With such a limit the client may do nothing else, whatever its scopes say.
    """
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)]
    """The instant from which the token is no longer valid, with a time zone."""

    @property
    def owner(self) -> str:
        """Issuer and client in one string, unambiguous; it is the owner of this client's jobs."""
        return f"{quote(self.issuer, safe=':/')}|{self.client_id}"
