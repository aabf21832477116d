"""SupportsTypeHistory: the versions of types, their order and their pages."""

from datetime import timedelta

import msgspec

from helios_core.memory.data_provider import MemoryDataProvider
from helios_core.storage.data_provider import VersionPage
from helios_core.testing import corpus
from tests.testing.on_memory import OnMemoryProvider

MICROSECOND = timedelta(microseconds=1)


class _Changed(MemoryDataProvider):
    """Lists the versions of a query that has been changed."""

    def changed(self, query):
        return query

    async def versions(self, query, *, count, after=None):
        return await super().versions(self.changed(query), count=count, after=after)


class ForgetsDeletions(MemoryDataProvider):
    async def versions(self, query, *, count, after=None):
        page = await super().versions(query, count=count, after=after)
        kept = [version for version in page.versions if version.content is not None]
        return VersionPage(versions=kept, next=page.next)


class TestForgetsDeletions(OnMemoryProvider):
    subject_class = ForgetsDeletions
    caught_by = (
        "test_all_versions_are_listed_newest_first",
        "test_of_one_instant_the_later_version_comes_first",
        "test_the_versions_that_were_current_are_listed",
    )


class ListsOldestFirst(MemoryDataProvider):
    async def versions(self, query, *, count, after=None):
        page = await super().versions(query, count=count, after=after)
        return VersionPage(versions=page.versions[::-1], next=page.next)


class TestListsOldestFirst(OnMemoryProvider):
    subject_class = ListsOldestFirst
    caught_by = (
        "test_all_versions_are_listed_newest_first",
        "test_of_one_instant_the_later_version_comes_first",
        "test_pages_of_versions_are_stable_while_others_write",
        "test_the_versions_of_a_period_are_listed",
    )


class ListsWhatIsNewer(_Changed):
    """New versions push the others onto later pages."""

    async def versions(self, query, *, count, after=None):
        now = msgspec.structs.replace(query, until=await self.transaction_time())
        skipped = int(after.removeprefix("at:0:")) if after else 0
        page = await super().versions(now, count=skipped + count)
        more = f"at:0:{skipped + count}" if page.next else None
        return VersionPage(versions=page.versions[skipped:], next=more)


class TestListsWhatIsNewer(OnMemoryProvider):
    subject_class = ListsWhatIsNewer
    caught_by = (
        "test_a_made_up_page_of_versions_is_refused",
        "test_pages_of_versions_are_stable_while_others_write",
        "test_the_versions_of_a_period_are_listed",
        "test_the_versions_that_were_current_are_listed",
    )


class BeginsAfterSince(_Changed):
    def changed(self, query):
        since = query.since and query.since + MICROSECOND
        return msgspec.structs.replace(query, since=since)


class TestBeginsAfterSince(OnMemoryProvider):
    subject_class = BeginsAfterSince
    caught_by = ("test_the_versions_of_a_period_are_listed",)


class ListsWhatHadEnded(_Changed):
    def changed(self, query):
        return msgspec.structs.replace(query, current_from=None)


class TestListsWhatHadEnded(OnMemoryProvider):
    subject_class = ListsWhatHadEnded
    caught_by = ("test_the_versions_that_were_current_are_listed",)


class ListsOtherTenants(_Changed):
    def changed(self, query):
        return msgspec.structs.replace(query, tenant="hospital")


class TestListsOtherTenants(OnMemoryProvider):
    subject_class = ListsOtherTenants
    caught_by = (
        "test_a_made_up_page_of_versions_is_refused",
        "test_all_versions_are_listed_newest_first",
        "test_of_one_instant_the_later_version_comes_first",
        "test_pages_of_versions_are_stable_while_others_write",
        "test_the_versions_of_a_period_are_listed",
        "test_the_versions_of_others_are_not_listed",
        "test_the_versions_that_were_current_are_listed",
    )


class _ListsCollections(MemoryDataProvider):
    """Lists only the collections it thinks of."""

    def thinks_of(self, key):
        raise NotImplementedError

    async def collections(self):
        return [key for key in await super().collections() if self.thinks_of(key)]


class FeedsOneTenant(_ListsCollections):
    def thinks_of(self, key):
        return key.tenant == corpus.TENANT


class TestFeedsOneTenant(OnMemoryProvider):
    subject_class = FeedsOneTenant
    caught_by = ("test_a_change_feed_names_every_collection_that_was_written",)


class FeedsWhatIsThere(MemoryDataProvider):
    """A type whose resources are all deleted is not listed, and its index never learns of it."""

    async def collections(self):
        return [
            key
            for key, collection in self._collections.items()
            if any(versions[-1].stored.content for versions in collection.values())
        ]


class TestFeedsWhatIsThere(OnMemoryProvider):
    subject_class = FeedsWhatIsThere
    caught_by = ("test_a_change_feed_names_every_collection_that_was_written",)
