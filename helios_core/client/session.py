"""The connections of one export: headers, credentials, retries, and explained failures."""

import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import stamina

from helios_core.client.credentials import Credentials
from helios_core.client.errors import (
    ExportFailed,
    ServerUnreachable,
    raise_for_refusal,
    should_retry,
)

CONNECT_SECONDS = 10
READ_SECONDS = 60
_TIMEOUT = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)


class Session:
    """
    Sends requests to a server and to the stores that its manifest names.

    The headers and the credentials of the export are sent to trusted origins only, also after
    redirections.
    """

    def __init__(
        self, base_url: str, headers: Mapping[str, str], credentials: Credentials | None
    ) -> None:
        self._headers = httpx.Headers(dict(headers))
        self._credentials = credentials
        self._has_tls = _has_tls(base_url)
        self._trusted = {_origin(base_url)}
        self._client = httpx.AsyncClient(
            timeout=_TIMEOUT,
            follow_redirects=True,
            auth=_Renewing(credentials) if credentials else None,
            event_hooks={"request": [self._sign]},
        )

    @classmethod
    @asynccontextmanager
    async def open(
        cls, base_url: str, headers: Mapping[str, str], credentials: Credentials | None
    ) -> AsyncIterator["Session"]:
        """Yield a session, which is closed at the end of the context."""
        session = cls(base_url, headers, credentials)
        async with session._client:
            yield session

    def trust(self, url: str) -> None:
        """
        Send headers and credentials to the origin of this URL as well.

        Raises:
            ExportFailed: The server itself is reached over TLS and that origin would not be.
        """
        is_downgrade = self._has_tls and not _has_tls(url)
        if is_downgrade and (self._headers or self._credentials is not None):
            parsed = httpx.URL(url)
            raise ExportFailed(
                f"the server names {parsed.scheme}://{parsed.netloc.decode()}, which is without "
                "TLS, so that nothing secret is sent there; its operator has to set the public "
                "address, HFS_BASE_URL for Helios"
            )
        self._trusted.add(_origin(url))

    async def request(  # noqa: PLR0913  most of them by keyword
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        json: object = None,
        attempts: int = 8,
        retry: Callable[[Exception], bool | timedelta] = should_retry,
    ) -> httpx.Response:
        """
        Return the successful response to a request, repeated after transient failures.

        The wait between two attempts is that of `Retry-After`, if the server sends it.

        Raises:
            RequestRefused: The status is an error.
            ServerUnreachable: Every attempt failed to connect.
        """
        try:
            async for attempt in stamina.retry_context(
                on=retry,
                attempts=attempts,
                timeout=None,
                wait_initial=0.2,
                wait_jitter=0.2,
                wait_max=20,
            ):
                with attempt:
                    response = await self._client.request(method, url, headers=headers, json=json)
                    raise_for_refusal(response)
                    return response
        except httpx.TransportError as error:
            raise unreachable(error, url) from error
        raise AssertionError("the last attempt returns or raises")

    @asynccontextmanager
    async def stream(
        self, url: str, *, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """
        Yield the response to one GET, whose body has not been read.

        Raises:
            httpx.TransportError: The connection failed.
        """
        async with self._client.stream("GET", url, headers=headers) as response:
            yield response

    async def _sign(self, request: httpx.Request) -> None:
        """Set the headers of one request; redirected requests pass through here, too."""
        if _origin(request.url) in self._trusted:
            request.headers.update(self._headers)
            if self._credentials is not None:
                request.headers["Authorization"] = await self._credentials.header()
            return
        for name in (*self._headers, "Authorization"):
            request.headers.pop(name, None)


class _Renewing(httpx.Auth):
    """Repeats a request once, after a 401, if the credentials have a new header."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        response = yield request
        refused = response.request.headers.get("Authorization")
        if (
            response.status_code == httpx.codes.UNAUTHORIZED
            and refused is not None
            and await self._credentials.renewed(refused)
        ):
            yield request


def unreachable(error: httpx.TransportError, url: str) -> ServerUnreachable:
    """Return the error for a failed connection, which names the host and what to check."""
    parsed = httpx.URL(url)
    port = parsed.port or {"http": 80, "https": 443}.get(parsed.scheme)
    host = f"{parsed.host} port {port}"
    origin = f"{parsed.scheme}://{parsed.netloc.decode()}"
    reason = _reason(error, parsed.host, host)
    if parsed.scheme == "http" and isinstance(error, httpx.RemoteProtocolError):
        reason += "; if it speaks TLS, the URL begins with https"
    return ServerUnreachable(f"{origin} cannot be reached: {reason}")


def _reason(error: httpx.TransportError, name: str, host: str) -> str:
    if cause := _cause(error, name, host):
        return cause
    for kind, words in _REASONS.items():
        if isinstance(error, kind):
            return words.format(host=host, error=error, seconds=CONNECT_SECONDS)
    return f"the connection to {host} broke ({f'{type(error).__name__} {error}'.strip()})"


_REASONS: Mapping[type[httpx.TransportError], str] = {
    httpx.ProxyError: "the proxy in front of {host} refuses ({error}); check HTTP_PROXY, "
    "HTTPS_PROXY and NO_PROXY",
    httpx.ConnectTimeout: "{host} accepted no connection within {seconds} s; check the URL, "
    "firewalls, HTTPS_PROXY and NO_PROXY",
    httpx.ConnectError: "{host} does not accept connections; check the URL and whether the server "
    "runs (helios serve listens where HFS_SERVER_HOST and HFS_SERVER_PORT say)",
    httpx.TimeoutException: f"{{host}} sent nothing for {READ_SECONDS} s",
}


def _cause(error: httpx.TransportError, name: str, host: str) -> str:
    """Return the problem with a host name or with TLS; empty if neither is the cause."""
    for cause in _causes(error):
        match cause:
            case socket.gaierror():
                return f"the name {name} has no address; check the URL and this machine's DNS"
            case ssl.SSLCertVerificationError():
                return (
                    f"the certificate of {host} is refused ({cause.verify_message}); "
                    "SSL_CERT_FILE names a file with the certificates of your own authority"
                )
            case ssl.SSLError():
                return (
                    f"{host} does not speak TLS correctly ({cause.reason}); perhaps the URL must "
                    "begin with http"
                )
    return ""


def _causes(error: BaseException | None) -> list[BaseException]:
    causes = list[BaseException]()
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def _has_tls(url: str) -> bool:
    return httpx.URL(url).scheme == "https"


def _origin(url: httpx.URL | str) -> tuple[str, str, int | None]:
    parsed = httpx.URL(url)
    return parsed.scheme, parsed.host, parsed.port
