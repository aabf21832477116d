"""Patches: parsing the body of a PATCH (FHIR R4, http.html#patch)."""

import base64
import binascii
from typing import Final, Protocol

import msgspec

from helios_core.errors import InvalidResource
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.fhirpath_patch import parse_fhirpath_patch
from helios_core.fhir.json_patch import parse_json_patch

JSON_PATCH: Final = "application/json-patch+json"


class Patch(Protocol):
    """A parsed patch."""

    def apply(self, content: bytes, version: FHIRVersion) -> bytes:
        """
        Return a resource with the patch applied, both as JSON.

        Raises:
            PatchFailed: The patch does not fit the resource.
            TooCostly: Its paths visit too many elements of the resource.
        """
        ...


class _Carrier(msgspec.Struct, frozen=True, rename="camel"):
    """The elements of a Binary or Parameters resource that say which patch is in it."""

    resource_type: str = ""
    content_type: str = ""
    data: str = ""


def parse_patch(body: bytes, media_type: str) -> Patch:
    """
    Parse a request body by its media type: a JSON Patch, or a FHIRPath Patch in Parameters.

    Raises:
        InvalidResource: It is not a valid patch.
    """
    return parse_json_patch(body) if media_type == JSON_PATCH else parse_fhirpath_patch(body)


def parse_patch_entry(resource: bytes) -> Patch:
    """
    Parse the patch in an entry of a Bundle: a Binary with a JSON Patch, or a Parameters resource.

    Raises:
        InvalidResource: It is neither, or not a valid patch.
    """
    try:
        carrier = msgspec.json.decode(resource, type=_Carrier)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidResource("a patch is a Binary or a Parameters resource") from error
    if carrier.resource_type == "Parameters":
        return parse_fhirpath_patch(resource)
    if carrier.resource_type != "Binary" or carrier.content_type.split(";")[0] != JSON_PATCH:
        raise InvalidResource(
            f"a PATCH needs a Parameters resource, or a Binary whose contentType is {JSON_PATCH}"
        )
    try:
        return parse_json_patch(base64.b64decode(carrier.data, validate=False))
    except (binascii.Error, ValueError) as error:
        raise InvalidResource("the data of the Binary is not base64") from error
