"""
Rate limits per client, by the generic cell rate algorithm (GCRA).

The algorithm is from ITU-T Recommendation I.371 (traffic control in ATM networks); this is its
form called virtual scheduling. It keeps one instant per client, the theoretical arrival time: when
the next request would arrive if the accepted ones had arrived evenly. A request is refused if it
arrives earlier than that by more than a tolerance.

Every process counts for itself, in memory of a fixed size, so that many clients cannot exhaust it.
Litestar's own middleware does not fit: it counts in fixed windows, sends no Retry-After and keeps
a timestamp of every request of every client it ever saw.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from ipaddress import IPv6Address, ip_address
from typing import Final

import msgspec
from litestar.exceptions import HTTPException

MINUTE: Final = 60.0
BURST_DIVISOR: Final = 6
"""This fraction of the requests of a minute may come at the same moment."""
IPV6_HOST_BITS: Final = 64
"""An IPv6 client has a network of its own and may use any address in it."""
MAX_CLIENTS: Final = 10_000
"""Clients remembered. When there are more, the one accepted longest ago is forgotten."""


class TooManyRequests(HTTPException):
    """The client is over its rate limit; Retry-After has the seconds until it is below again."""

    status_code = 429


class _ClientState(msgspec.Struct):
    theoretical_arrival: float
    """Seconds of the limiter's clock."""
    refusals: int = 0
    """Refused requests since the last accepted one."""


class RateLimiter:
    """
    A limit of requests per minute and client, of which a sixth may come at once.

    Refused requests do not count: a client that waits for the seconds of Retry-After is accepted.
    """

    def __init__(
        self, per_minute: int, noun: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Start without any client.

        Args:
            per_minute: Accepted requests per minute and client; 0 means no limit.
            noun: What is limited, in the plural, for the error message.
            clock: A monotonic clock in seconds.
        """
        self._interval = MINUTE / per_minute if per_minute else 0.0
        self._tolerance = (max(per_minute // BURST_DIVISOR, 1) - 1) * self._interval
        self._noun = noun
        self._clock = clock
        self._clients = OrderedDict[Hashable, _ClientState]()

    def acquire(self, client: Hashable, *, count: bool = True) -> None:
        """
        Accept a request of a client; if `count` is false, an accepted request does not count.

        Raises:
            TooManyRequests: The client is over its limit.
        """
        if not self._interval:
            return
        now = self._clock()
        state = self._clients.setdefault(client, _ClientState(theoretical_arrival=now))
        wait = state.theoretical_arrival - self._tolerance - now
        # The theoretical arrival is a sum of fractions; its rounding error must not refuse.
        if wait > self._interval * 1e-6:
            state.refusals += 1
            raise TooManyRequests(
                f"Too many {self._noun}; wait for the seconds in Retry-After.",
                headers={"Retry-After": str(math.ceil(wait))},
            )
        if not count:
            return
        state.theoretical_arrival = max(state.theoretical_arrival, now) + self._interval
        state.refusals = 0
        self._clients.move_to_end(client)
        while len(self._clients) > MAX_CLIENTS:
            self._clients.popitem(last=False)

    def refusals(self, client: Hashable) -> int:
        """Return how many requests of a client were refused since the last accepted one."""
        state = self._clients.get(client)
        return state.refusals if state else 0


def address_group(host: str) -> str:
    """Return the address for which rate limits count: for IPv6 that of its /64 network."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) >> IPV6_HOST_BITS << IPV6_HOST_BITS))
