"""The public address of the server, as the client of a request uses it."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from itertools import takewhile
from typing import Final, TypeAlias

from werkzeug.http import parse_dict_header

from helios_core.errors import InvalidRequest
from helios_core.http.requests import HTTPRequest

HOST: Final = re.compile(r"[A-Za-z0-9._-]+(?::\d{1,5})?|\[[0-9A-Fa-f:.]+\](?::\d{1,5})?")
SCHEMES: Final = frozenset({"http", "https"})
LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")
_PORT: Final = re.compile(r":\d+$")

_Reported: TypeAlias = tuple[str | None, str | None]
"""A scheme and a host."""


class PublicAddress:
    """
    Determines the base URL for the links in responses.

    It is the configured one, else the one that trusted proxies report, else that of the Host
    header. A host that is not among `allowed_hosts` is refused. If `allowed_hosts` is empty, every
    host is allowed, with one exception: on an `authenticated` server the Host header may only name
    this machine, so that no link and no token audience has a host that an attacker chose.
    """

    def __init__(
        self,
        base_url: str | None,
        *,
        trusted_proxies: Sequence[IPv4Network | IPv6Network] = (),
        allowed_hosts: Sequence[str] = (),
        authenticated: bool = False,
    ) -> None:
        self._base_url = base_url
        self._proxies = trusted_proxies
        self._allowed = [host.lower().rstrip(".") for host in allowed_hosts]
        self._allowed_in_host = LOOPBACK_HOSTS if authenticated else ()

    def base(self, request: HTTPRequest) -> str:
        """
        Return the public base URL of a request, without a final slash.

        Raises:
            InvalidRequest: The host is missing, malformed, sent twice or not allowed.
        """
        hosts = request.headers.getall("host", [])
        if self._base_url is not None and len(hosts) <= 1:
            return self._base_url
        scheme, reported = self._reported(request)
        scheme = scheme or request.scope["scheme"]
        host = reported or (hosts[0] if len(hosts) == 1 else "")
        if not HOST.fullmatch(host) or scheme not in SCHEMES:
            raise InvalidRequest(
                "The Host header is missing, malformed or sent twice; send one host, with a port "
                "if need be."
            )
        allowed = self._allowed or (() if reported else self._allowed_in_host)
        if allowed and not _matches(_PORT.sub("", host).lower().rstrip("."), allowed):
            raise InvalidRequest(
                "The server does not respond to this host name; use the name that its operator "
                "published, or ask the operator to add this one to HFS_ALLOWED_HOSTS."
            )
        return f"{scheme}://{host}"

    def client(self, request: HTTPRequest) -> str:
        """Return the address of the client, as trusted proxies report it; empty if unknown."""
        peer = request.scope.get("client")
        chain = [*self._reported_clients(request), peer[0] if peer else ""]
        for address in reversed(chain):
            if not self._is_proxy(address):
                return _bare(address)
        return _bare(chain[0])

    def _reported(self, request: HTTPRequest) -> _Reported:
        """
        Return the scheme and the host that trusted proxies report, each None if not reported.

        Each proxy appends to a list, so the entry to trust is as far from the end as there are
        trusted proxies in a row (RFC 7239 section 5, X-Forwarded-For). A proxy may also replace
        the list, which is shorter then.

        Raises:
            InvalidRequest: Forwarded and X-Forwarded-Proto or -Host differ. A proxy that sets one
                of them may pass on the other as the client wrote it.
        """
        client = request.scope.get("client")
        if client is None or not self._is_proxy(client[0]):
            return None, None
        found = (self._in_forwarded(request), self._in_x_forwarded(request))
        reports = dict.fromkeys(filter(None, found))
        if len(reports) > 1:
            raise InvalidRequest(
                "Forwarded and X-Forwarded-Proto or X-Forwarded-Host report different addresses; "
                "the proxy in front of the server has to remove those that it does not set."
            )
        return next(iter(reports), (None, None))

    def _in_forwarded(self, request: HTTPRequest) -> _Reported | None:
        elements = _forwarded(request)
        if not elements:
            return None
        hop = self._hops([element.get("for", "") for element in elements])
        trusted = elements[max(0, len(elements) - hop)]
        return trusted.get("proto", "").lower() or None, trusted.get("host") or None

    def _in_x_forwarded(self, request: HTTPRequest) -> _Reported | None:
        schemes = _elements(request, "x-forwarded-proto")
        hosts = _elements(request, "x-forwarded-host")
        if not schemes and not hosts:
            return None
        hop = self._hops(_elements(request, "x-forwarded-for"))
        return (
            schemes[max(0, len(schemes) - hop)].lower() if schemes else None,
            hosts[max(0, len(hosts) - hop)] if hosts else None,
        )

    @staticmethod
    def _reported_clients(request: HTTPRequest) -> list[str]:
        """
        Return the addresses from which the proxies received the request, the farthest first.

        There are none if Forwarded and X-Forwarded-For report different ones, as above.
        """
        forwarded = [_bare(element.get("for", "")) for element in _forwarded(request)]
        others = [_bare(each) for each in _elements(request, "x-forwarded-for")]
        if any(forwarded) and others and forwarded != others:
            return []
        return forwarded if any(forwarded) else others

    def _hops(self, clients: Sequence[str]) -> int:
        """Return the number of trusted proxies in a row before the server, at least 1."""
        trusted = takewhile(self._is_proxy, reversed(clients))
        return 1 + sum(1 for _ in trusted)

    def _is_proxy(self, text: str) -> bool:
        try:
            address = ip_address(_bare(text))
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._proxies)


def _matches(host: str, allowed: Sequence[str]) -> bool:
    return any(
        host.endswith(name[1:]) if name.startswith("*.") else host == name for name in allowed
    )


def _forwarded(request: HTTPRequest) -> list[dict[str, str]]:
    """Return the elements of Forwarded (RFC 7239 section 4), names in lower case."""
    return [
        {
            name.lower(): value or ""
            for name, value in parse_dict_header(element.replace(";", ",")).items()
        }
        for element in _elements(request, "forwarded")
    ]


def _bare(node: str) -> str:
    """Return an address without quotes, brackets and port (RFC 7239 section 6)."""
    node = node.strip('"')
    if node.startswith("["):
        return node[1:].partition("]")[0]
    return node.partition(":")[0] if node.count(":") == 1 else node


def _elements(request: HTTPRequest, name: str) -> list[str]:
    """Return the elements of a list header over all its lines, without empty ones."""
    return [
        element.strip()
        for line in request.headers.getall(name, [])
        for element in line.split(",")
        if element.strip()
    ]
