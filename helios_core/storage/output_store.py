"""Where output bytes go: the contract of an output store."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Protocol, runtime_checkable

from helios_core.model.parts import PartKey, StoredPart


class OutputStore(ABC):
    """
    Keeps parts.

    O1  A part is whole or absent, and durable once `put` returns (fsync of file and folder, or a
        completed multipart upload).
    O2  If the chunks raise, or the put is cancelled, nothing of the part stays.
    O3  Bytes come back unchanged; `put` returns their size and digest.
    O4  Reading a part that is absent raises PartMissing.
    O5  `delete` removes exactly what is below the job's prefix, and may be repeated.
    O6  Memory does not grow with the size of a part.
    O7  Byte ranges can be read.
    O8  Parts of one tenant or token never touch those of another.
    """

    @abstractmethod
    async def bind(self, owner: str) -> None:
        """
        Make the store belong to the job store named `owner`, for good.

        Raises:
            ConfigurationError: It belongs to another one, or cannot be written to.
        """

    @abstractmethod
    async def put(self, key: PartKey, chunks: AsyncIterator[bytes]) -> StoredPart:
        """
        Store a part (O1, O2, O3, O6).

        Raises:
            BackendUnavailable: The bytes could not be stored, a full disk included.
        """

    @abstractmethod
    def read(
        self, key: PartKey, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """
        Stream bytes from `start`, inclusive, to `end`, exclusive or None (O3, O4, O7).

        Raises:
            PartMissing: Before the first chunk, when the part is absent.
        """

    @abstractmethod
    async def discard(self, key: PartKey) -> None:
        """Remove one part that was never published; an absent one is ignored."""

    @abstractmethod
    async def delete(self, tenant: str, job_id: str) -> None:
        """
        Remove everything stored for a job (O5).

        Raises:
            BackendUnavailable: Something is still there; another try may succeed.
        """

    @abstractmethod
    def jobs(self) -> AsyncIterator[tuple[str, str]]:
        """Yield the tenant and id of each job with stored parts, so that orphans can be found."""


@runtime_checkable
class SupportsSignedURLs(Protocol):
    """
    The store can hand out URLs that need no token and bypass the server.

    Their responses have the headers of a download through the server: content type, content
    coding and the part's `name` as the file name. Two URLs of one part differ only in their query.
    """

    async def signed_urls(self, keys: Sequence[PartKey], *, valid_for: timedelta) -> Sequence[str]:
        """Return fresh URLs of parts, in order, valid for that long; never stored or logged."""
        ...
