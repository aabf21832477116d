"""What is particular about writing to MongoDB."""

import pytest

from helios_core import Put, VersionConflict
from helios_core.testing import corpus, take_snapshot, view_everything, write


async def test_a_resource_larger_than_a_document_is_stored_and_exported(provider, raw):
    large = corpus.patient("large", note="x" * (50 << 20))
    await write(provider, large, corpus.patient("small"))

    snapshot = await take_snapshot(provider, await view_everything(provider))

    assert snapshot.names == ["Patient/large", "Patient/small"]
    stored = await provider.get(corpus.type_key("Patient").resource("large"))
    assert len(stored.content) > 50 << 20
    assert await raw.chunks.count_documents({}) == 7


async def test_a_write_that_fails_leaves_nothing(provider, raw):
    with pytest.raises(VersionConflict):
        await write(provider, corpus.patient("p1"), Put(resource=corpus.patient("p2"), if_match=7))

    assert await raw.versions.count_documents({}) == 0
