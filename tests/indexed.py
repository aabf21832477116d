"""What an index leads to, for tests of the plugins that keep one."""

from helios_core.storage.data_provider import SearchQuery
from helios_core.testing import corpus
from helios_core.testing.corpus import view
from helios_core.testing.data_provider.prefilters import compile_searches, sift_candidates

PAGE = 4


async def sifted(provider, alternatives, **options):
    """Return what an export reads of what is compile_searches for, and what it should find."""
    now = await provider.transaction_time()
    return await sift_candidates(provider, view(now, **options), compile_searches(alternatives))


async def pages(provider, condition, order):
    """Return what all pages of a search hold, each of which tells the same total."""
    found, after = [], None
    while True:
        page = await provider.search(
            corpus.type_key(condition.resource_type),
            SearchQuery(filter=condition, order=order, total=True),
            count=PAGE,
            after=after,
        )
        found += page.resources
        if (after := page.next) is None:
            assert page.total == len(found)
            return found
