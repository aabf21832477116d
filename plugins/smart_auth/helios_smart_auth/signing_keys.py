"""The keys that sign access tokens, kept in the job store and shared by all processes."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

import msgspec
from joserfc.jwk import ECKey

from helios_core import BackendError, BackendUnavailable, SupportsRecords

NAMESPACE: Final = "smart_auth.keys"
RECORD: Final = "ring"
ALGORITHM: Final = "ES384"
KEPT_SECONDS: Final = 600
"""How long a retired key is still published: twice the longest validity of a token."""
FRESH_SECONDS: Final = 5
"""The longest time until every process knows that the keys have changed."""
FORCED_SECONDS: Final = 0.1
"""The shortest time between two reads because of tokens with unknown keys."""
TRIES: Final = 20
"""How often a rotation is attempted when other processes rotate the keys, too."""


class StoredKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key of the ring."""

    kid: str
    jwk: dict[str, Any]
    """With its private half until it is retired."""
    created_at: int
    """Seconds since 1970."""
    retired_at: int | None = None


class Ring(msgspec.Struct, frozen=True, kw_only=True):
    """All keys whose tokens are accepted; the first one signs."""

    keys: tuple[StoredKey, ...]

    @property
    def public(self) -> Sequence[Mapping[str, Any]]:
        """The public keys as members of a JWK set."""
        return [
            {
                **{name: key.jwk[name] for name in ("kty", "crv", "x", "y")},
                "kid": key.kid,
                "use": "sig",
                "alg": ALGORITHM,
            }
            for key in self.keys
        ]


class SigningKeys:
    """The key ring that all processes on one job store share; created at the first use."""

    def __init__(
        self, records: SupportsRecords, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._records = records
        self._clock = clock
        self._ring: Ring | None = None
        self._imported = dict[str, ECKey]()
        self._read_at = self._forced_at = float("-inf")
        self._turn = asyncio.Lock()

    async def ring(self) -> Ring:
        """
        Return the keys as they were at most `FRESH_SECONDS` ago.

        Raises:
            BackendUnavailable: The job store cannot respond now.
        """
        if self._ring is None or time.monotonic() >= self._read_at + FRESH_SECONDS:
            return await self._read()
        return self._ring

    async def signer(self) -> tuple[str, ECKey]:
        """Return the kid and the key for signing new tokens."""
        ring = await self.ring()
        return ring.keys[0].kid, self._imported[ring.keys[0].kid]

    async def verifier(self, kid: str) -> ECKey | None:
        """Return the key with this kid, or None if its tokens are not accepted."""
        ring = await self.ring()
        if kid not in self._imported:
            ring = await self._newer_ring(kid)
        now = self._clock()
        accepted = any(
            key.kid == kid and (key.retired_at is None or now < key.retired_at + KEPT_SECONDS)
            for key in ring.keys
        )
        return self._imported[kid] if accepted else None

    async def rotate(self, *, revoke: bool = False) -> Ring:
        """
        Sign with a new key from now on; `revoke` invalidates all tokens issued so far.

        Raises:
            BackendUnavailable: The job store cannot respond now, or other processes rotated the
            keys at each of `TRIES` attempts.
        """
        for _ in range(TRIES):
            ring, stored = await self._stored()
            now = int(self._clock())
            old = [] if revoke else [_retired(key, now) for key in ring.keys]
            kept = [key for key in old if now < (key.retired_at or now) + KEPT_SECONDS]
            changed = Ring(keys=(_new_key(now), *kept))
            new = msgspec.json.encode(changed)
            if await self._records.replace_record(NAMESPACE, RECORD, stored, new):
                self._ring = None
                return changed
        raise BackendUnavailable("other processes keep rotating the keys; try again")

    async def _newer_ring(self, kid: str) -> Ring:
        """Return the keys as they are now: another process may sign with a key made since."""
        async with self._turn:
            now = time.monotonic()
            if kid not in self._imported and now >= self._forced_at + FORCED_SECONDS:
                self._forced_at = now
                return await self._read()
        return await self.ring()

    async def _read(self) -> Ring:
        now = time.monotonic()
        ring, _ = await self._stored()
        self._imported = {
            key.kid: self._imported.get(key.kid) or ECKey.import_key(key.jwk) for key in ring.keys
        }
        self._ring, self._read_at = ring, now
        return ring

    async def _stored(self) -> tuple[Ring, bytes]:
        stored = await self._records.record(NAMESPACE, RECORD)
        if stored is None:
            new = msgspec.json.encode(Ring(keys=(_new_key(int(self._clock())),)))
            _ = await self._records.insert_record(NAMESPACE, RECORD, new)  # or another did
            stored = await self._records.record(NAMESPACE, RECORD)
        try:
            return msgspec.json.decode(stored or b"", type=Ring), stored or b""
        except msgspec.MsgspecError:
            raise BackendError(
                "the keys that sign tokens cannot be read: the record is damaged, or a newer"
                " version of Helios wrote it"
            ) from None


def _new_key(now: int) -> StoredKey:
    key = ECKey.generate_key("P-384", private=True)
    return StoredKey(kid=uuid4().hex, jwk=dict(key.as_dict(private=True)), created_at=now)


def _retired(key: StoredKey, now: int) -> StoredKey:
    if key.retired_at is not None:
        return key
    public = {name: value for name, value in key.jwk.items() if name != "d"}
    return msgspec.structs.replace(key, jwk=public, retired_at=now)
