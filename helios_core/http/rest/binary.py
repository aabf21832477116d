"""The contents of Binary resources (FHIR R4, binary.html#rest)."""

import asyncio
import binascii
import re
from typing import Any, Final

import msgspec
from litestar import Response

from helios_core.fhir.media_types import FHIR_JSON
from helios_core.http.negotiation import parse_accept
from helios_core.http.ranges import is_not_modified
from helios_core.http.requests import HTTPRequest, NotAcceptable, query_pairs
from helios_core.http.responses import version_headers
from helios_core.interactions.read import require_content
from helios_core.storage.data_provider import StoredVersion

OCTETS: Final = "application/octet-stream"
MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:\s*;[ -~]*)?")
FHIR_TYPES: Final = frozenset({FHIR_JSON, "application/json+fhir"})
JSON: Final = frozenset({"application/json", "text/json"})

SAFE: Final = {
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
    # The content may be a page with scripts, which must not act in the server's name.
    "Content-Security-Policy": "default-src 'none'; sandbox",
}


class BinaryContent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The elements of a Binary that hold its content."""

    content_type: str = OCTETS
    data: str | None = None
    content: str | None = None
    """The name of `data` before FHIR R4."""


def wants_resource(request: HTTPRequest, native: str) -> bool:
    """
    Return whether a client wants the Binary as a resource rather than its content.

    It does if it prefers a FHIR media type to the content's own type. Plain JSON counts as a FHIR
    media type unless the content itself is JSON.
    """
    if "_format" in dict(query_pairs(request)):
        return True
    main = native.partition(";")[0].strip().lower()
    for choice in parse_accept(request.headers.getall("accept", [])):
        if choice.quality > 0 and choice.name in FHIR_TYPES | (JSON - {main}):
            return True
        if choice.quality > 0 and choice.name in (main, f"{main.partition('/')[0]}/*", "*/*"):
            return False
    return False


def decode_binary(stored: StoredVersion) -> BinaryContent:
    """
    Return the decoded Binary of a version; one that cannot be decoded is empty.

    Raises:
        ResourceDeleted: The version is a deletion.
    """
    content = require_content(stored)
    try:
        return msgspec.json.decode(content, type=BinaryContent)
    except msgspec.DecodeError:
        return BinaryContent()


async def binary_response(
    request: HTTPRequest, stored: StoredVersion, binary: BinaryContent
) -> Response[Any]:
    """
    Return a response whose body is the content of a Binary.

    Raises:
        NotAcceptable: Its data is not base64; it can only be returned as a resource.
    """
    headers = version_headers(stored.version_id, stored.last_updated) | SAFE
    if is_not_modified(request.headers.getall("if-none-match", []), headers["ETag"]):
        return Response(None, status_code=304, headers=headers)
    encoded = binary.data or binary.content or ""
    try:
        body = await asyncio.to_thread(binascii.a2b_base64, encoded)
    except (binascii.Error, ValueError) as error:
        raise NotAcceptable(
            f"The data of this Binary is not base64; request the resource, as {FHIR_JSON}."
        ) from error
    native = binary.content_type
    media_type = native if MEDIA_TYPE.fullmatch(native) else OCTETS
    headers["Content-Type"] = media_type
    return Response(body, headers=headers, media_type=media_type)
