"""New URLs from a new poll, in place of file URLs that have expired."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx

from helios_core.client.manifest import read_manifest


class LatestURLs:
    """
    The latest URLs of the files of one export.

    URLs that differ only in their query name the same file: the query is a signature, which every
    poll renews.
    """

    def __init__(self, base_url: str, poll: Callable[[], Awaitable[bytes]]) -> None:
        self._base_url = httpx.URL(base_url)
        self._poll = poll
        self._latest = dict[httpx.URL, str]()
        self._polling = asyncio.Lock()

    def latest(self, url: str) -> str:
        """Return the latest URL of the file that a URL names."""
        return self._latest.get(_without_query(url), url)

    async def renew(self, url: str) -> str:
        """Return a newer URL of the same file; poll for it if no newer one is known yet."""
        async with self._polling:
            if self.latest(url) == url:
                entries = read_manifest(await self._poll()).entries
                urls = [self._base_url.join(entry.url) for _, entry in entries]
                self._latest = {_without_query(url): str(url) for url in urls}
            return self.latest(url)


def _without_query(url: httpx.URL | str) -> httpx.URL:
    return httpx.URL(url).copy_with(query=None)
