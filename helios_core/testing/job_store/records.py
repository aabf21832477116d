"""SupportsRecords: the records that a job store keeps for plugins."""

import asyncio
from datetime import timedelta
from pathlib import Path

from helios_core import LARGEST_RECORD, JobStore, Record, SupportsRecords
from helios_core.testing.job_store.contract import HOUR, MINUTE, JobStoreContract

NAMESPACE = "plugin.things"
ORDERED = ("!", "0", "10", "2", "A", "Z", "_", "a", "aa", "b", "z", "~", "~~")
"""Keys in the order of their code points, which is not the order of any language."""
RIVALS = 12


class RecordClauses(JobStoreContract):
    """The power to keep records."""

    async def test_a_record_is_inserted_only_where_none_is(self, store: JobStore) -> None:
        """K1: and an existing record stays as it was."""
        records = self._records(store)

        assert await records.record(NAMESPACE, "one") is None
        assert await records.insert_record(NAMESPACE, "one", b"first")
        assert not await records.insert_record(NAMESPACE, "one", b"second", keep_for=HOUR)
        assert await records.record(NAMESPACE, "one") == b"first"
        assert await records.delete_record(NAMESPACE, "one")
        assert await records.record(NAMESPACE, "one") is None
        assert not await records.delete_record(NAMESPACE, "one")
        assert await records.insert_record(NAMESPACE, "one", b"third")

    async def test_of_several_inserts_at_once_one_stores(self, store: JobStore) -> None:
        """K1: also if the key is free because a record has expired."""
        records = self._records(store)
        assert await records.insert_record(NAMESPACE, "old", b"old", keep_for=MINUTE)
        await self.let_pass(store, HOUR)

        for key in ("new", "old"):
            values = [b"%d" % number for number in range(RIVALS)]
            stored = await asyncio.gather(
                *(records.insert_record(NAMESPACE, key, value, keep_for=HOUR) for value in values)
            )

            assert stored.count(True) == 1
            assert await records.record(NAMESPACE, key) == values[stored.index(True)]

    async def test_a_record_is_replaced_only_if_it_is_as_expected(self, store: JobStore) -> None:
        """K2: so that nobody overwrites a value that they have not seen."""
        records = self._records(store)
        assert not await records.replace_record(NAMESPACE, "one", b"", b"new")
        assert await records.insert_record(NAMESPACE, "one", b"first")

        assert not await records.replace_record(NAMESPACE, "one", b"other", b"new")
        assert await records.record(NAMESPACE, "one") == b"first"
        assert await records.replace_record(NAMESPACE, "one", b"first", b"second")
        assert not await records.replace_record(NAMESPACE, "one", b"first", b"third")
        assert await records.record(NAMESPACE, "one") == b"second"

    async def test_of_several_replacements_at_once_one_is_made(self, store: JobStore) -> None:
        """K2: the others learn that they have to read again."""
        records = self._records(store)
        assert await records.insert_record(NAMESPACE, "one", b"old")
        values = [b"%d" % number for number in range(RIVALS)]

        replaced = await asyncio.gather(
            *(records.replace_record(NAMESPACE, "one", b"old", value) for value in values)
        )

        assert replaced.count(True) == 1
        assert await records.record(NAMESPACE, "one") == values[replaced.index(True)]

    async def test_a_record_is_there_for_its_time_and_no_longer(self, store: JobStore) -> None:
        """K3: no method returns it then, and its key is free."""
        records = self._records(store)
        for key in ("read", "listed", "replaced", "deleted", "inserted"):
            assert await records.insert_record(NAMESPACE, key, b"old", keep_for=HOUR)
        await self.let_pass(store, HOUR - MINUTE)
        assert await records.record(NAMESPACE, "read") == b"old"
        assert len(await records.records(NAMESPACE)) == 5
        assert not await records.insert_record(NAMESPACE, "inserted", b"new")

        await self.let_pass(store, 2 * MINUTE)

        assert await records.record(NAMESPACE, "read") is None
        assert await records.records(NAMESPACE) == []
        assert not await records.replace_record(NAMESPACE, "replaced", b"old", b"new")
        assert not await records.delete_record(NAMESPACE, "deleted")
        assert await records.insert_record(NAMESPACE, "inserted", b"new")
        assert await _keys(records) == ["inserted"]

    async def test_a_record_without_a_time_stays(self, store: JobStore) -> None:
        """K3: and so does one that took the key of an expired one without a time."""
        records = self._records(store)
        assert await records.insert_record(NAMESPACE, "ever", b"value")
        assert await records.insert_record(NAMESPACE, "late", b"old", keep_for=MINUTE)
        await self.let_pass(store, HOUR)
        assert await records.insert_record(NAMESPACE, "late", b"new")

        await self.let_pass(store, timedelta(days=36500))

        assert await records.insert_record(NAMESPACE, "another", b"", keep_for=MINUTE)
        assert await _keys(records) == ["another", "ever", "late"]

    async def test_a_change_does_not_prolong_a_record(self, store: JobStore) -> None:
        """K3: nor does it shorten its time."""
        records = self._records(store)
        assert await records.insert_record(NAMESPACE, "one", b"old", keep_for=HOUR)
        await self.let_pass(store, HOUR - MINUTE)
        assert await records.replace_record(NAMESPACE, "one", b"old", b"new")
        assert await records.record(NAMESPACE, "one") == b"new"

        await self.let_pass(store, 2 * MINUTE)

        assert await records.record(NAMESPACE, "one") is None

    async def test_namespaces_do_not_see_each_other(self, store: JobStore) -> None:
        """K4: nor does one that begins like another, or a key that differs in case."""
        records = self._records(store)
        for namespace in (NAMESPACE, f"{NAMESPACE}.more", NAMESPACE.upper()):
            for key in ("one", "One"):
                assert await records.insert_record(namespace, key, f"{namespace}/{key}".encode())

        assert await records.delete_record(f"{NAMESPACE}.more", "one")
        assert await records.replace_record(NAMESPACE, "One", f"{NAMESPACE}/One".encode(), b"new")

        assert await _keys(records) == ["One", "one"]
        assert await _keys(records, f"{NAMESPACE}.more") == ["One"]
        assert await records.record(NAMESPACE, "one") == f"{NAMESPACE}/one".encode()
        assert (
            await records.record(NAMESPACE.upper(), "One") == f"{NAMESPACE.upper()}/One".encode()
        )

    async def test_records_are_listed_by_the_characters_of_their_keys(
        self, store: JobStore
    ) -> None:
        """K5: in whatever order they came, and every page begins where the last one ended."""
        records = self._records(store)
        for key in sorted(ORDERED, key=hash):
            assert await records.insert_record(NAMESPACE, key, key.encode())
        assert await records.insert_record(f"{NAMESPACE}.more", "b", b"another's")

        assert await records.records(NAMESPACE, limit=1000) == [
            Record(key=key, value=key.encode()) for key in ORDERED
        ]
        assert await _keys(records, limit=4) == list(ORDERED)

        assert await records.delete_record(NAMESPACE, ORDERED[3])
        [first, *_] = await records.records(NAMESPACE, after=ORDERED[3], limit=2)
        assert first.key == ORDERED[4]

    async def test_a_value_is_any_bytes(self, store: JobStore) -> None:
        """SupportsRecords: from none to the maximum number."""
        records = self._records(store)
        large = bytes(range(256)) * (LARGEST_RECORD // 256)

        for key, value in (("none", b""), ("zero", b"\0"), ("large", large)):
            assert await records.insert_record(NAMESPACE, key, b"before")
            assert await records.replace_record(NAMESPACE, key, b"before", value)
            assert await records.record(NAMESPACE, key) == value
            assert await records.replace_record(NAMESPACE, key, value, b"after")

    async def test_records_are_shared_and_survive_a_restart(self, tmp_path: Path) -> None:
        """K1, K2, K6: all processes see the same records."""
        self.needs_persistence()
        async with self.opened(tmp_path) as one, self.opened(tmp_path) as two:
            first, second = self._records(one), self._records(two)
            stored = await asyncio.gather(
                *(
                    each.insert_record(NAMESPACE, "one", b"value", keep_for=HOUR)
                    for each in (first, second) * (RIVALS // 2)
                )
            )
            assert stored.count(True) == 1
            replaced = await asyncio.gather(
                *(
                    each.replace_record(NAMESPACE, "one", b"value", b"%d" % number)
                    for number, each in enumerate((first, second) * (RIVALS // 2))
                )
            )
            assert replaced.count(True) == 1
            value = await first.record(NAMESPACE, "one")
            assert await second.record(NAMESPACE, "one") == value == b"%d" % replaced.index(True)

        async with self.opened(tmp_path) as store:
            assert await self._records(store).record(NAMESPACE, "one") == value

    def _records(self, store: JobStore) -> SupportsRecords:
        self.needs(SupportsRecords)
        assert isinstance(store, SupportsRecords)
        return store


async def _keys(
    records: SupportsRecords, namespace: str = NAMESPACE, *, limit: int = 2
) -> list[str]:
    """Return all keys of a namespace, page by page."""
    keys, page = list[str](), await records.records(namespace, limit=limit)
    while page:
        assert len(page) <= limit
        assert not keys or page[0].key > keys[-1], "a page begins before the end of the last one"
        keys += [record.key for record in page]
        page = await records.records(namespace, after=keys[-1], limit=limit)
    return keys
