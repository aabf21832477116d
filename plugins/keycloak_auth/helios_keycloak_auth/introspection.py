"""Token introspection: whether the issuer has revoked a token (RFC 7662)."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from time import monotonic
from typing import Any

from helios_core import BackendUnavailable, InvalidToken

MAX_REMEMBERED = 1024
"""For how many tokens the result is remembered."""

MAX_WAITING = 256
"""How many introspection requests may be open at once; further tokens fail at once."""


class Introspection:
    """Introspects tokens whose signature is valid, and remembers each result for `ttl`."""

    def __init__(
        self,
        send: Callable[[str], Awaitable[dict[str, Any]]],
        *,
        ttl: timedelta,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._send = send
        self._ttl = ttl.total_seconds()
        self._clock = clock
        self._results = dict[bytes, tuple[bool, float]]()
        self._pending = dict[bytes, asyncio.Task[bool]]()

    async def check(self, token: str, digest: bytes) -> None:
        """
        Check that a token is active; `digest` identifies it.

        Raises:
            InvalidToken: The token is not active.
            BackendUnavailable: The issuer cannot be reached, or its response does not say.
        """
        active, until = self._results.get(digest, (False, 0.0))
        if self._clock() >= until:
            active = await self._introspect(token, digest)
        if not active:
            raise InvalidToken("The access token has been revoked; request another one.")

    async def close(self) -> None:
        """Cancel the requests that are open."""
        for task in (tasks := list(self._pending.values())):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _introspect(self, token: str, digest: bytes) -> bool:
        task = self._pending.get(digest)
        if task is None:
            if len(self._pending) >= MAX_WAITING:
                raise BackendUnavailable(f"{MAX_WAITING} tokens are being introspected already")
            task = self._pending[digest] = asyncio.create_task(self._request(token, digest))
            task.add_done_callback(lambda _: self._pending.pop(digest))
        try:
            return await asyncio.shield(task)
        except BackendUnavailable as error:
            # All waiting callers share one error, and each of them needs a traceback of its own.
            raise BackendUnavailable(f"a token cannot be introspected: {error}") from None

    async def _request(self, token: str, digest: bytes) -> bool:
        active = (await self._send(token)).get("active")
        if not isinstance(active, bool):
            raise BackendUnavailable("the response to an introspection has no boolean `active`")
        if len(self._results) >= MAX_REMEMBERED:
            del self._results[next(iter(self._results))]
        self._results[digest] = active, self._clock() + self._ttl
        return active
