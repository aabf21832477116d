"""What an index leads to, for tests of the plugins that keep one."""

from helios_core import Level
from helios_core.fhir import compile_query
from helios_core.storage.data_provider import SearchQuery
from helios_core.testing import SEARCHES, compile_searches, corpus
from helios_core.testing.corpus import view
from helios_core.testing.data_provider.prefilters import sift_candidates

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


async def sifting_is_exact(provider):
    """Check every search, at system level and for a cohort."""
    for level, patients in ((Level.SYSTEM, None), (Level.GROUP, ("p1", "p2"))):
        for alternatives in SEARCHES:
            request = corpus.request(level=level)
            found = await sifted(provider, alternatives, export_request=request, patients=patients)
            assert found.matches == found.expected


async def pages_are_exact(provider, order):
    """Check the pages of every search in an order."""
    everything = await pages(provider, compile_query(corpus.VERSION, "Observation", []), order)
    assert everything
    for alternatives in SEARCHES:
        condition = compile_searches(alternatives)
        found = await pages(provider, condition, order)
        assert found == [each for each in everything if condition.matches(each.content)]
