"""
Floods of requests: who asks too often is told when to come back.

Every process counts for itself, in memory of a fixed size, so that counting costs nothing that a
flood could use up. Litestar's own middleware does not fit: it counts in fixed windows, has no
Retry-After, and keeps every instant of every client it ever saw.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from ipaddress import IPv6Address, ip_address
from typing import Final

import msgspec
from litestar.exceptions import HTTPException

from helios_core.http.requests import HTTPRequest

MINUTE: Final = 60.0
AT_ONCE: Final = 6
"""Which fraction of a minute's requests may come at the same moment."""
IPV6_HOST_BITS: Final = 64
"""An IPv6 client has a network of its own and may use any address in it."""
MAX_CLIENTS: Final = 10_000
"""How many are remembered; of more the one that was served longest ago is forgotten."""


class TooManyRequests(HTTPException):
    """The client asks too often; Retry-After says when it may again."""

    status_code = 429


class _Account(msgspec.Struct):
    due: float
    """When all that was let in would have come if it had come evenly."""
    refused: int = 0
    """Refusals since the last request that was let in."""


class RateLimiter:
    """
    Lets every client in so many times a minute, a sixth of that at once; 0 is without a limit.

    A refused request does not count: whoever waits as long as Retry-After says is let in.
    """

    def __init__(
        self, per_minute: int, what: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval = MINUTE / per_minute if per_minute else 0.0
        self._leeway = (max(per_minute // AT_ONCE, 1) - 1) * self._interval
        self._what = what
        self._clock = clock
        self._accounts = OrderedDict[Hashable, _Account]()

    def acquire(self, client: Hashable) -> None:
        """
        Let a client in.

        Raises:
            Throttled: It has to wait.
        """
        if not self._interval:
            return
        now = self._clock()
        account = self._accounts.setdefault(client, _Account(due=now))
        wait = account.due - self._leeway - now
        # What is due is a sum of fractions, and must not refuse for the last bit of it.
        if wait > self._interval * 1e-6:
            account.refused += 1
            raise TooManyRequests(
                f"Too many {self._what}; wait as long as Retry-After says.",
                headers={"Retry-After": str(math.ceil(wait))},
            )
        account.due = max(account.due, now) + self._interval
        account.refused = 0
        self._accounts.move_to_end(client)
        while len(self._accounts) > MAX_CLIENTS:
            self._accounts.popitem(last=False)

    def refused(self, client: Hashable) -> int:
        """Give how often a client was refused since it was let in."""
        account = self._accounts.get(client)
        return account.refused if account else 0


def client_address(request: HTTPRequest) -> str:
    """Give where a request comes from: an address, of IPv6 the network of its host."""
    if request.client is None:
        return ""
    try:
        address = ip_address(request.client.host)
    except ValueError:
        return request.client.host
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) >> IPV6_HOST_BITS << IPV6_HOST_BITS))
