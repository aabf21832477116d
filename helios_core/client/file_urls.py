"""Links that expire, and what a new poll has in their place."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx

from helios_core.client.manifest import read_manifest


class FileURLs:
    """
    The newest links to the files of one export.

    A link names the same file as another one that is the same up to the `?`; what comes behind it
    signs it, and every poll makes that anew.
    """

    def __init__(self, base_url: str, poll: Callable[[], Awaitable[bytes]]) -> None:
        self._base_url = httpx.URL(base_url)
        self._poll = poll
        self._known = dict[httpx.URL, str]()
        self._polling = asyncio.Lock()

    def newest(self, link: str) -> str:
        """Give the newest link to what a link names."""
        return self._known.get(_place(link), link)

    async def renewed(self, link: str) -> str:
        """Give a newer link than this one, from a new poll where none is known yet."""
        async with self._polling:
            if self.newest(link) == link:
                entries = read_manifest(await self._poll()).entries
                urls = [self._base_url.join(entry.url) for _, entry in entries]
                self._known = {_place(url): str(url) for url in urls}
            return self.newest(link)


def _place(url: httpx.URL | str) -> httpx.URL:
    return httpx.URL(url).copy_with(query=None)
