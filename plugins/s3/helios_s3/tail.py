"""The rows of the commits behind the last checkpoint, in memory."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet

from helios_s3.encoding import SHARED, Commit, Found


class Tail:
    """What the runs of the checkpoint do not have yet, with the lines."""

    def __init__(self) -> None:
        self._versions = defaultdict[str, dict[str, list[Found]]](dict)
        self._compartments = defaultdict[str, dict[str, list[Found]]](dict)
        self._sorted = dict[str, list[str]]()
        self._commits = list[tuple[int, list[tuple[str, Found]], int]]()
        self.bytes = 0
        self.rows = 0

    @property
    def commits(self) -> int:
        """How many commits it has the rows of."""
        return len(self._commits)

    @property
    def collections(self) -> list[str]:
        """The collections that it has rows of."""
        return [name for name, versions in self._versions.items() if versions]

    def append(self, number: int, commit: Commit, lines: Sequence[bytes]) -> None:
        """Take the rows of the next commit."""
        rest = iter(lines)
        rows = [
            (collection, Found(row, None, 0, None if row.deleted else next(rest)))
            for collection, of_collection in commit.rows
            for row in of_collection
        ]
        self._take(number, rows, sum(map(len, lines)))

    def _take(self, number: int, rows: list[tuple[str, Found]], size: int) -> None:
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

    def behind(self, through: int) -> "Tail":
        """Return the tail without the commits up to one; whoever reads this one still has them."""
        rest = Tail()
        for number, rows, size in self._commits:
            if number > through:
                rest._take(number, rows, size)
        return rest

    def versions(self, collection: str, ids: Collection[str]) -> dict[str, list[Found]]:
        """Return the versions of ids, the oldest first."""
        versions = self._versions.get(collection, {})
        return {each: [*versions[each]] for each in ids if each in versions}

    def in_compartments(
        self, collection: str, patients: AbstractSet[str]
    ) -> Iterator[tuple[str, Found]]:
        """Yield the rows in the compartments of patients, and in the shared one, with its name."""
        compartments = self._compartments.get(collection, {})
        fewer, more = sorted((patients, compartments.keys()), key=len)
        for patient in (SHARED, *(each for each in fewer if each in more)):
            for found in compartments.get(patient, ()):
                yield patient, found

    def between(
        self, collection: str, start: str, end: str | None, *, most: int
    ) -> tuple[list[Found], str | None]:
        """
        Return the rows of ids from `start` up to, but without, `end`, sorted.

        With more than `most` ids they end early, and the second value is the last of these ids.
        """
        ids = self._ids(collection)
        first = bisect_left(ids, start)
        last = len(ids) if end is None else bisect_left(ids, end)
        within = ids[first : min(last, first + most)]
        versions = self._versions.get(collection, {})
        rows = [found for each in within for found in versions[each]]
        return rows, within[-1] if first + most < last else None

    def all_rows(self) -> Iterator[tuple[str, Found]]:
        """Yield all rows as a run has them."""
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
