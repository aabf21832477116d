"""Requests to the issuer, within limits of time and size."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import quote_plus

import httpx

from helios_core import BackendUnavailable, in_thread, read_json_object

MAX_BYTES = 256 * 1024
"""The largest document that is read; large issuers publish about 20 KB."""

MAX_CONNECTIONS = 8

DEFAULT_LIFETIME = timedelta(minutes=5)
"""The lifetime of a document whose response has no `max-age`."""

MAX_LIFETIME = timedelta(days=1)

_MAX_AGE = re.compile(r'(?:^|[\s,])max-age="?(\d{1,10})', re.IGNORECASE)
_NOT_KEPT = re.compile(r"(?:^|[\s,])no-(?:store|cache)(?:$|[\s,])", re.IGNORECASE)


class IssuerRequests:
    """Sends requests to the issuer, without following redirects."""

    def __init__(self, client: httpx.AsyncClient, limit: timedelta, *, allow_http: bool) -> None:
        self._client = client
        self._limit = limit
        self._allow_http = allow_http

    async def read(self, url: str) -> tuple[dict[str, Any], timedelta]:
        """
        Return a JSON document and its lifetime (RFC 9111, section 5.2.2), at most a day.

        Raises:
            BackendUnavailable: The request failed, or the response is not a JSON object.
        """
        response, body = await self._send("GET", url)
        return await _parse(body), _lifetime(response)

    async def post(
        self, url: str, form: Mapping[str, str], credentials: tuple[str, str]
    ) -> dict[str, Any]:
        """
        Send a form with HTTP Basic credentials, and return the JSON response.

        Raises:
            BackendUnavailable: The request failed, or the response is not a JSON object.
        """
        # Both are encoded as in a form before they are joined (RFC 6749, section 2.3.1).
        encoded = httpx.BasicAuth(*map(quote_plus, credentials))
        _, body = await self._send("POST", url, data=dict(form), auth=encoded)
        return await _parse(body)

    async def _send(
        self,
        method: str,
        url: str,
        **options: Any,  # noqa: ANN401  as httpx has them
    ) -> tuple[httpx.Response, bytes]:
        if not (url.startswith("https://") or (self._allow_http and url.startswith("http://"))):
            raise BackendUnavailable(
                "the issuer's discovery document has an address without https, and "
                "HFS_AUTH_ALLOW_HTTP is not true"
            )
        try:
            async with (
                asyncio.timeout(self._limit.total_seconds()),
                self._client.stream(method, url, **options) as response,
            ):
                _check(response)
                return response, await _limited(response)
        except TimeoutError:
            seconds = self._limit.total_seconds()
            raise BackendUnavailable(f"the issuer did not respond within {seconds:g} s") from None
        except BackendUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  malformed addresses make httpx raise any
            raise BackendUnavailable(
                f"the request to the issuer failed: {type(error).__name__}"
            ) from None


@asynccontextmanager
async def issuer_requests(limit: timedelta, *, allow_http: bool) -> AsyncIterator[IssuerRequests]:
    """Open a client with a timeout of `limit` per request; HTTPS_PROXY and SSL_CERT_FILE apply."""
    client = await in_thread(
        httpx.AsyncClient,
        # This limits each step; `_send` limits the whole request.
        timeout=limit.total_seconds(),
        follow_redirects=False,
        limits=httpx.Limits(max_connections=MAX_CONNECTIONS),
        # A compressed document could expand beyond MAX_BYTES.
        headers={"Accept": "application/json", "Accept-Encoding": "identity"},
    )
    async with client:
        yield IssuerRequests(client, limit, allow_http=allow_http)


def _check(response: httpx.Response) -> None:
    if response.status_code != httpx.codes.OK:
        raise BackendUnavailable(f"the issuer responded with status {response.status_code}")
    if "content-encoding" in response.headers:
        raise BackendUnavailable("the issuer sent a compressed document, which was not accepted")


async def _limited(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_BYTES:
            raise BackendUnavailable(f"the issuer sent more than {MAX_BYTES:,} bytes")
    return bytes(body)


async def _parse(body: bytes) -> dict[str, Any]:
    try:
        return await in_thread(read_json_object, body)
    except ValueError as error:
        raise BackendUnavailable(f"the issuer's document cannot be read: {error}") from None


def _lifetime(response: httpx.Response) -> timedelta:
    control = response.headers.get("cache-control", "")
    if _NOT_KEPT.search(control):
        return timedelta(0)
    max_age = _MAX_AGE.search(control)
    if max_age is None:
        return DEFAULT_LIFETIME
    age = response.headers.get("age", "")
    elapsed = int(age) if re.fullmatch(r"\d{1,10}", age) else 0
    return min(max(timedelta(0), timedelta(seconds=int(max_age[1]) - elapsed)), MAX_LIFETIME)
