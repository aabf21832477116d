"""Resources in a bucket, as the tests write and read them."""

from helios_core import Put
from helios_core.testing import corpus, take_snapshot


async def put(provider, *resources, if_match=None):
    changes = [Put(resource=each, if_match=if_match) for each in resources]
    return await provider.write(corpus.TENANT, corpus.VERSION, changes)


async def everything(provider):
    shown = corpus.view(await provider.transaction_time())
    return await take_snapshot(provider, shown)
