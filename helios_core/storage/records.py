"""Records: a power of job stores to keep small data of plugins, such as registered clients."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol, runtime_checkable

import msgspec

LARGEST_RECORD = 1024 * 1024
"""How many bytes the value of a record may have."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept under one key."""

    key: str
    value: bytes


@runtime_checkable
class SupportsRecords(Protocol):
    """
    The power of a job store to keep small records, by namespace and key.

    Namespaces and keys are 1 to 200 printable ASCII characters, and a namespace begins with the
    name of the plugin that owns it. Values are opaque, with at most `LARGEST_RECORD` bytes.

    K1  `insert_record` stores a record only where none is: of several calls for one key, at once
        and in whatever processes, exactly one stores.
    K2  `replace_record` changes a record only if it still has the expected value: of several calls
        that expect the same, at once and in whatever processes, exactly one changes it.
    K3  A record that is kept for a time is there for that long, by the store's clock, and no
        longer: then its key is free, and no method returns it. Changing it does not prolong it.
    K4  A record is seen under its own namespace and key only.
    K5  `records` returns every record that exists throughout once, ordered by the code points of
        keys, whatever the page size and whatever is stored or deleted meanwhile.
    K6  A change is there for every process once its call has returned, and survives a restart.
    """

    async def insert_record(
        self, namespace: str, key: str, value: bytes, *, keep_for: timedelta | None = None
    ) -> bool:
        """
        Store a record where none is, and return whether it was stored (K1, K3).

        It is kept for `keep_for`, above 0, or until it is deleted if that is None.

        Raises:
            BackendUnavailable: The store did not confirm it; it may have been stored.
        """
        ...

    async def replace_record(
        self, namespace: str, key: str, expected: bytes, value: bytes
    ) -> bool:
        """
        Replace the value of a record that has the expected one; return whether it had (K2).

        Raises:
            BackendUnavailable: The store did not confirm it; it may have been replaced.
        """
        ...

    async def record(self, namespace: str, key: str) -> bytes | None:
        """
        Return the value of a record, or None if there is none.

        Raises:
            BackendUnavailable: The store cannot respond now.
        """
        ...

    async def records(
        self, namespace: str, *, after: str = "", limit: int = 100
    ) -> Sequence[Record]:
        """
        Return the first records of a namespace whose keys come after one, at most `limit` (K5).

        Raises:
            BackendUnavailable: The store cannot respond now.
        """
        ...

    async def delete_record(self, namespace: str, key: str) -> bool:
        """
        Delete a record; return whether there was one.

        Raises:
            BackendUnavailable: The store did not confirm it; it may have been deleted.
        """
        ...
