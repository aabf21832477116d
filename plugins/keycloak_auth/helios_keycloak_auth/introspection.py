"""Asks the issuer whether a token has been revoked (RFC 7662)."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from time import monotonic
from typing import Any

from helios_core import BackendUnavailable, InvalidToken

MAX_REMEMBERED = 1024
"""For how many tokens the issuer's word is remembered."""

MAX_WAITING = 256
"""How many questions may be open at once; nobody waits in a longer line."""


class Introspection:
    """The issuer's word on tokens whose signature is right; it is good for a few seconds."""

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
        self._said = dict[bytes, tuple[bool, float]]()
        self._asking = dict[bytes, asyncio.Task[bool]]()

    async def check(self, token: str, digest: bytes) -> None:
        """
        Return if the token is active.

        Raises:
            InvalidToken: It is not.
            BackendUnavailable: The issuer does not say.
        """
        active, until = self._said.get(digest, (False, 0.0))
        if self._clock() >= until:
            active = await self._introspect(token, digest)
        if not active:
            raise InvalidToken("The access token has been revoked; request another one.")

    async def close(self) -> None:
        """End the questions that are open."""
        for task in (tasks := list(self._asking.values())):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _introspect(self, token: str, digest: bytes) -> bool:
        task = self._asking.get(digest)
        if task is None:
            if len(self._asking) >= MAX_WAITING:
                raise BackendUnavailable("too many tokens wait for the issuer's word")
            task = self._asking[digest] = asyncio.create_task(self._learn(token, digest))
            task.add_done_callback(lambda _: self._asking.pop(digest))
        try:
            return await asyncio.shield(task)
        except BackendUnavailable as error:
            # One error is for all who wait, and each has a traceback of its own.
            raise BackendUnavailable(f"a token cannot be introspected: {error}") from None

    async def _learn(self, token: str, digest: bytes) -> bool:
        active = (await self._send(token)).get("active")
        if not isinstance(active, bool):
            raise BackendUnavailable("the issuer does not say whether the token is active")
        if len(self._said) >= MAX_REMEMBERED:
            del self._said[next(iter(self._said))]
        self._said[digest] = active, self._clock() + self._ttl
        return active
