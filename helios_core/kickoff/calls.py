"""A kick-off as it came in through the door, and what the operator decided about all of them."""

from collections.abc import Sequence

import msgspec

from helios_core.exports import Level
from helios_core.fhir.bulk_data import CURRENT, Guide
from helios_core.fhir.versions import FHIRVersion
from helios_core.kickoff.parameters import Given, from_body


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator decided about every export."""

    include_newly_added: bool = True
    """Whether with `_since` members who joined later bring their older data."""
    referenced_types: tuple[str, ...] = ()
    """Types that exports of patients bring where something refers to them."""
    guide: Guide = CURRENT
    """The version of the guide that is spoken."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A kick-off as it came in through the door, not yet looked at."""

    tenant: str
    fhir_version: FHIRVersion
    level: Level
    group_id: str | None = None
    url: str
    """The absolute URL with query, exactly as the client sent it."""
    query: Sequence[tuple[str, str]] = ()
    """Decoded name and value pairs of the query string, in order, repeats kept."""
    body: bytes | None = None
    """The Parameters resource of a POST, None for a GET."""
    prefer: Sequence[str] = ()
    """The values of the Prefer header lines."""
    owner: str | None = None
    base_url: str = ""
    """The server's public base URL; a patient may be named by an absolute URL below it."""
    policy: Policy = Policy()


def given_in(call: Call) -> list[Given]:
    """
    Give the parameters of a call, those of the query string first.

    Raises:
        InvalidRequest: The body is not a Parameters resource; so is InvalidParameter.
    """
    given = [Given(name, value) for name, value in call.query]
    return given if call.body is None else given + from_body(call.body)
