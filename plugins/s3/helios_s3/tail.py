"""The tail of the log: the rows of commits after the last checkpoint, in memory."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet

from helios_s3.encoding import SHARED, Commit, StoredRow


class Tail:
    """The rows and lines of commits that are in no run yet."""

    def __init__(self) -> None:
        self._versions = defaultdict[str, dict[str, list[StoredRow]]](dict)
        self._compartments = defaultdict[str, dict[str, list[StoredRow]]](dict)
        self._sorted = dict[str, list[str]]()
        self._commits = list[tuple[int, list[tuple[str, StoredRow]], int]]()
        self.bytes = 0
        self.rows = 0

    @property
    def commits(self) -> int:
        """The number of its commits."""
        return len(self._commits)

    @property
    def collections(self) -> list[str]:
        """The names of its collections."""
        return [name for name, versions in self._versions.items() if versions]

    def append(self, number: int, commit: Commit, lines: Sequence[bytes]) -> None:
        """Append the rows of the next commit."""
        rest = iter(lines)
        rows = [
            (collection, StoredRow(row, None, 0, None if row.deleted else next(rest)))
            for collection, of_collection in commit.rows
            for row in of_collection
        ]
        self._append(number, rows, sum(map(len, lines)))

    def _append(self, number: int, rows: list[tuple[str, StoredRow]], size: int) -> None:
        for collection, found in rows:
            versions = self._versions[collection]
            compartments = self._compartments[collection]
            if found.row.id not in versions:
                self._sorted.pop(collection, None)
            versions.setdefault(found.row.id, []).append(found)
            for patient in found.row.compartments:
                compartments.setdefault(patient, []).append(found)
        self._commits.append((number, rows, size))
        self.bytes += size
        self.rows += len(rows)

    def after(self, through: int) -> "Tail":
        """Return a tail without the commits up to one; readers of this tail keep it."""
        rest = Tail()
        for number, rows, size in self._commits:
            if number > through:
                rest._append(number, rows, size)
        return rest

    def versions(self, collection: str, ids: Collection[str]) -> dict[str, list[StoredRow]]:
        """Return the versions of ids, oldest first."""
        versions = self._versions.get(collection, {})
        return {
            resource_id: [*versions[resource_id]] for resource_id in ids if resource_id in versions
        }

    def in_compartments(
        self, collection: str, patients: AbstractSet[str]
    ) -> Iterator[tuple[str, StoredRow]]:
        """Yield compartments and rows, of these patients and of the shared compartment."""
        compartments = self._compartments.get(collection, {})
        fewer, more = sorted((patients, compartments.keys()), key=len)
        for patient in (SHARED, *(patient for patient in fewer if patient in more)):
            for found in compartments.get(patient, ()):
                yield patient, found

    def between(
        self, collection: str, start: str, end: str | None, *, most: int
    ) -> tuple[list[StoredRow], str | None]:
        """
        Return the sorted rows of ids from `start`, inclusive, to `end`, exclusive.

        With more than `most` ids, only their rows are returned, and the last id as the second
        value; otherwise that is None.
        """
        ids = self._ids(collection)
        first = bisect_left(ids, start)
        last = len(ids) if end is None else bisect_left(ids, end)
        within = ids[first : min(last, first + most)]
        versions = self._versions.get(collection, {})
        rows = [found for resource_id in within for found in versions[resource_id]]
        return rows, within[-1] if first + most < last else None

    def all_rows(self) -> Iterator[tuple[str, StoredRow]]:
        """Yield all rows in the order of a run."""
        for collection in sorted(self.collections):
            versions = self._versions[collection]
            for resource_id in self._ids(collection):
                for found in versions[resource_id]:
                    yield collection, found

    def _ids(self, collection: str) -> list[str]:
        if collection not in self._versions:
            return []
        if collection not in self._sorted:
            self._sorted[collection] = sorted(self._versions[collection])
        return self._sorted[collection]
