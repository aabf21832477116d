"""The keys of clients, read from the URLs that they registered."""

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final

import httpcore
import msgspec
import structlog

from helios_core import in_thread
from helios_smart_auth.addresses import AllowedAddresses, Refused, check_url
from helios_smart_auth.public_keys import JWK, parse_key_set
from helios_smart_auth.settings import SmartAuthSettings

log = structlog.stdlib.get_logger()

MAX_BYTES: Final = 256 * 1024
MAX_CONNECTIONS: Final = 64
"""How many key sets are read at the same time; servers that are silent keep no others waiting."""
MOST_KEPT: Final = 1000
"""How many key sets are cached; the one that was read longest ago is dropped first."""

DEFAULT_SECONDS: Final = 300
"""How long a key set is cached if its server sends no max-age."""
LONGEST_SECONDS: Final = 24 * 3600
"""The longest time that a key set is cached, whatever its max-age."""
FORCED_AFTER_SECONDS: Final = 10
"""The shortest time between two reads of a URL because of an unknown kid."""
HEADERS: Final = (("Accept", "application/json"), ("Accept-Encoding", "identity"))
FAILED_SECONDS: Final = 2
LONGEST_FAILED_SECONDS: Final = 32
"""How long a URL is not read again after a failure: at first, and after many in a row."""

_MAX_AGE = re.compile(r'(?:^|[\s,])max-age="?(\d{1,10})', re.IGNORECASE)
_NOT_KEPT = re.compile(r"(?:^|[\s,])no-(?:store|cache)(?:$|[\s,=])", re.IGNORECASE)


class Unreadable(Exception):
    """A key set cannot be read now; the message says why and quotes nothing of it."""


class _Kept(msgspec.Struct):
    keys: Sequence[JWK] = ()
    failure: str | None = None
    pause: float = 0
    """For how many seconds it is not read again after the failure."""
    read_at: float = 0
    fresh_until: float = 0


class KeySets:
    """
    The key sets of clients, cached by URL as Cache-Control allows (RFC 9111, section 5.2.2).

    Requests that need the same URL at the same time share one read.
    """

    def __init__(
        self,
        pool: httpcore.AsyncConnectionPool,
        settings: SmartAuthSettings,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._clock = clock
        self._kept = OrderedDict[str, _Kept]()
        self._reading = dict[str, asyncio.Task[_Kept]]()

    async def read(self, url: str, *, again: bool = False) -> Sequence[JWK]:
        """
        Return the keys at a URL.

        `again` reads the URL although the cached set is fresh, because it lacks a kid: the key may
        be new. That happens at most every `FORCED_AFTER_SECONDS`.

        Raises:
            Unreadable: The URL cannot be read.
        """
        now = self._clock()
        kept = self._kept.get(url)
        if kept is None or self._is_due(kept, now, again=again):
            kept = await self._joined(url)
        if kept.failure is not None:
            raise Unreadable(kept.failure)
        return kept.keys

    async def close(self) -> None:
        """Cancel all reads."""
        tasks = list(self._reading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_due(self, kept: _Kept, now: float, *, again: bool) -> bool:
        if again:  # whoever has just read a set that may not be kept does not need it anew
            return kept.failure is None and now >= kept.read_at + FORCED_AFTER_SECONDS
        return now >= kept.fresh_until

    async def _joined(self, url: str) -> _Kept:
        task = self._reading.get(url)
        if task is None:
            task = self._reading[url] = asyncio.create_task(self._renew(url))
            task.add_done_callback(lambda _: self._reading.pop(url, None))
        return await asyncio.shield(task)

    async def _renew(self, url: str) -> _Kept:
        kept = _Kept(read_at=self._clock())
        try:
            async with asyncio.timeout(self._settings.jwks_timeout):
                kept.keys, seconds = await self._fetched(url)
            kept.fresh_until = kept.read_at + seconds
        except TimeoutError:
            kept.failure = "its server did not respond in time"
        except (Refused, ValueError) as error:
            kept.failure = str(error)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError):
            kept.failure = "its server cannot be reached over TLS"
        if kept.failure is not None:
            earlier = self._kept.get(url, kept)
            kept.pause = min(max(FAILED_SECONDS, 2 * earlier.pause), LONGEST_FAILED_SECONDS)
            # A silent server has taken longer than that, so it is counted from the end.
            kept.fresh_until = self._clock() + kept.pause
            log.warning("keys.unreadable", reason=kept.failure)
        self._kept[url] = kept
        self._kept.move_to_end(url)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return kept

    async def _fetched(self, url: str) -> tuple[Sequence[JWK], float]:
        check_url(url, allow_loopback_http=self._settings.jwks_allow_loopback_http)
        async with self._pool.stream("GET", url, headers=HEADERS) as response:
            if response.status != 200:  # noqa: PLR2004  a redirect leads to an unregistered URL
                raise Refused(f"its server responded with status {response.status}")
            said = {name.lower(): value.decode("latin-1") for name, value in response.headers}
            if said.get(b"content-encoding", "identity") != "identity":
                raise Refused("its server sent a compressed body, which was not accepted")
            body = bytearray()
            async for chunk in response.aiter_stream():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise Refused(f"it has more than {MAX_BYTES} bytes")
        keys = await in_thread(parse_key_set, bytes(body))
        return keys, _seconds(said.get(b"cache-control", ""), said.get(b"age", ""))


@asynccontextmanager
async def open_key_sets(settings: SmartAuthSettings) -> AsyncIterator[KeySets]:
    """
    Yield the key sets, and close their connections at the end.

    SSL_CERT_FILE names the trusted certificates; proxy settings are not used.
    """
    context = await in_thread(httpcore.default_ssl_context)
    network = AllowedAddresses(
        allow_private=settings.jwks_allow_private,
        allow_loopback_http=settings.jwks_allow_loopback_http,
    )
    async with httpcore.AsyncConnectionPool(
        ssl_context=context, max_connections=MAX_CONNECTIONS, network_backend=network
    ) as pool:
        sets = KeySets(pool, settings)
        try:
            yield sets
        finally:
            await sets.close()


def _seconds(control: str, age: str) -> float:
    if _NOT_KEPT.search(control):
        return 0
    said = _MAX_AGE.search(control)
    if said is None:
        return DEFAULT_SECONDS
    already = int(age) if re.fullmatch(r"\d{1,10}", age) else 0
    return min(max(0, int(said[1]) - already), LONGEST_SECONDS)
