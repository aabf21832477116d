"""The network addresses from which the keys of clients may be read."""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

import anyio
import httpcore

MOST_TRIED = 4
"""How many addresses of one host name are tried."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Refused(Exception):
    """Keys may not be read from an address; the message does not name the address."""


def check_url(url: str, *, allow_loopback_http: bool) -> None:
    """
    Raise ValueError unless keys may be read from this URL: it must be https.

    Raises:
        ValueError: The URL is not allowed; the message says why.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("it is not a URL") from None
    if not url.isascii() or not url.isprintable() or " " in url or not parts.hostname:
        raise ValueError("it is not a URL")
    if parts.username is not None or parts.fragment:
        raise ValueError("it has a user or a fragment")
    if parts.scheme == "https":
        return
    if parts.scheme == "http" and allow_loopback_http and parts.hostname in _LOOPBACK_NAMES:
        return
    raise ValueError(
        "it does not begin with https://; http is allowed for this machine only, with"
        " HFS_SMART_AUTH_JWKS_ALLOW_LOOPBACK_HTTP=true"
    )


class AllowedAddresses(httpcore.AsyncNetworkBackend):
    """
    Connects to public addresses only, unless the settings allow others.

    Host names are resolved once, and the connection goes to an address that was checked: a name
    that resolves differently the next time (DNS rebinding) changes nothing.
    """

    def __init__(self, *, allow_private: bool, allow_loopback_http: bool) -> None:
        self._allow_private = allow_private
        self._allow_loopback_http = allow_loopback_http
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  as httpcore declares it
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """
        Connect to the first address of a host that is allowed and responds.

        Raises:
            Refused: No address of the host is allowed.
            httpcore.ConnectError: No allowed address responds.
        """
        addresses = await _resolved(host, port)
        loopback = self._allow_loopback_http and host in _LOOPBACK_NAMES
        allowed = [address for address in addresses if self._allows(address, loopback=loopback)][
            :MOST_TRIED
        ]
        if not allowed:
            raise Refused("its host has private addresses only")
        for address in allowed[:-1]:
            try:
                return await self._network.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._network.connect_tcp(
            str(allowed[-1]), port, timeout, local_address, socket_options
        )

    async def sleep(self, seconds: float) -> None:
        """Sleep; httpcore calls this between attempts."""
        await anyio.sleep(seconds)

    def _allows(self, found: Address, *, loopback: bool) -> bool:
        address = _meant(found)
        if address.is_link_local or address.is_multicast or address.is_unspecified:
            return False
        if address.is_loopback:
            return loopback or self._allow_private
        if address.is_reserved:  # among them other forms of IPv4 addresses, such as ::10.0.0.1
            return False
        return address.is_global or (self._allow_private and address.is_private)


async def _resolved(host: str, port: int) -> list[Address]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise httpcore.ConnectError("the name is unknown") from None
    return [ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_, address in found]


def _meant(address: Address) -> Address:
    """Return an address; an IPv6 address that embeds an IPv4 address gives the latter."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
