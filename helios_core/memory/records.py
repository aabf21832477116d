"""Records of the reference job store."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec

from helios_core.storage.records import Record


class _Kept(msgspec.Struct):
    value: bytes
    until: datetime | None


class MemoryRecords:
    """Keeps records in the memory of one process; no method awaits, so each is atomic."""

    def __init__(self, *, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._records: dict[tuple[str, str], _Kept] = {}

    async def insert_record(
        self, namespace: str, key: str, value: bytes, *, keep_for: timedelta | None = None
    ) -> bool:
        """Store a record if there is none under its key (K1, K3); drop all that have expired."""
        now = self._clock()
        self._records = {
            name: kept
            for name, kept in self._records.items()
            if kept.until is None or now < kept.until
        }
        if (namespace, key) in self._records:
            return False
        until = None if keep_for is None else now + keep_for
        self._records[namespace, key] = _Kept(value, until)
        return True

    async def replace_record(
        self, namespace: str, key: str, expected: bytes, value: bytes
    ) -> bool:
        """Replace the value of a record that has the expected one (K2)."""
        kept = self._kept(namespace, key)
        if kept is None or kept.value != expected:
            return False
        kept.value = value
        return True

    async def record(self, namespace: str, key: str) -> bytes | None:
        """Return the value of a record."""
        kept = self._kept(namespace, key)
        return kept.value if kept else None

    async def records(
        self, namespace: str, *, after: str = "", limit: int = 100
    ) -> Sequence[Record]:
        """Return records of a namespace, by key (K5)."""
        keys = sorted(key for name, key in self._records if name == namespace and key > after)
        present = ((key, self._kept(namespace, key)) for key in keys)
        return [Record(key=key, value=kept.value) for key, kept in present if kept][:limit]

    async def delete_record(self, namespace: str, key: str) -> bool:
        """Delete a record."""
        present = self._kept(namespace, key) is not None
        self._records.pop((namespace, key), None)
        return present

    def _kept(self, namespace: str, key: str) -> _Kept | None:
        kept = self._records.get((namespace, key))
        expired = kept is not None and kept.until is not None and kept.until <= self._clock()
        return None if expired else kept
