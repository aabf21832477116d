"""TODO."""

from typing import Final
from urllib.parse import parse_qsl

import msgspec

from helios_core.errors import InvalidRequest, ResourceNotFound
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.media_types import FHIR_JSON

MAX_PARAMETERS: Final = 1000


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """One admitted request: on whose behalf, about which version, and through which address."""

    tenant: str
    fhir_version: FHIRVersion
    base: str
    """The public base URL, without a final slash."""
    media_type: str = FHIR_JSON
    """What answers are labelled with; it repeats a version the client asked for."""


def parse_pairs(text: str, what: str) -> list[tuple[str, str]]:
    """
    Give the decoded pairs of a text encoded as in a query string.

    Raises:
        InvalidRequest: It does not decode to UTF-8, or there are too many.
    """
    try:
        text.encode("ascii")
        return parse_qsl(
            text, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except ValueError as error:
        raise InvalidRequest(
            f"{what} is not percent-encoded UTF-8 with at most {MAX_PARAMETERS} parameters."
        ) from error


def require_type(resource_type: str, version: FHIRVersion) -> str:
    """
    Give a type back after making sure that a FHIR version has it.

    Raises:
        ResourceNotFound: It has not.
    """
    if resource_type not in load_definitions(version).root_elements:
        raise ResourceNotFound(f"{resource_type[:64]!r} is not a resource type of FHIR {version}.")
    return resource_type
