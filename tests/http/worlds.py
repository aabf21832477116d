"""
Two servers that a client cannot tell apart: on one there is more, which it may not see.

Whatever is sent, their responses have to be the same but for what depends on time and chance.
"""

import base64
import re
from itertools import zip_longest
from urllib.parse import unquote, urlsplit

import httpx

import helios_postgres
import helios_sqlite
from helios_core import Secret
from helios_core.http.app import create_app
from helios_core.memory import MemoryDataProvider, MemoryJobStore, MemoryOutputStore
from helios_core.storage.backends import Backends
from helios_postgres import PostgresSettings
from helios_sqlite import SQLiteSettings
from tests.http.conftest import ASYNC, BASE, Site
from tests.http.fuzzing import UNLIMITED
from tests.tokens import StaticVerifier, bearer, principal

MARK = "canary"
"""In all that is on one of the servers only."""

VOLATILE = (
    (re.compile(r'(?<="digest":")[0-9a-f]{16}'), "<digest>"),
    (re.compile(r"\?X-Amz-[^\"]+"), "<signature>"),
    (re.compile(r"helios-[0-9a-f]{12}\b"), "<bucket>"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|\+00:00)"), "<instant>"),
    (re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}"), "<id>"),
    (re.compile(r"\d{15,}"), "<stamp>"),
    (re.compile(r'(?<="valueDuration":\{"value":)[\d.]+'), "<seconds>"),
    (re.compile(r"(?<=after=)[\w-]{40,}"), "<page>"),
)
SEALED = re.compile(r"(_after=\d+\.)[\w-]{80,}")
"""The token of a page of versions, which nobody can read."""
PLACE = re.compile(r"WyJ[\w%-]+")
"""The beginning of a list of texts in JSON and base64: where a page began."""
IGNORED = {
    "date",
    "retry-after",
    "x-request-id",
    "last-modified",
    "expires",
    "content-length",
    "etag",
}


def settled(text):
    """Return a text without what differs between two servers that have seen the same."""
    text = SEALED.sub(r"\1<place>", text)
    text = PLACE.sub(lambda match: decoded(unquote(match[0])), text)
    for pattern, replacement in VOLATILE:
        text = pattern.sub(replacement, text)
    return text


def seen(response):
    """Return what a client learns from a response."""
    headers = {n: settled(v) for n, v in response.headers.items() if n not in IGNORED}
    version = re.fullmatch(r'W/"\d+"', response.headers.get("etag", ""))
    return response.status_code, headers, version and version[0], settled(response.text)


def decoded(word):
    return base64.urlsafe_b64decode(word + "=" * (-len(word) % 4)).decode("latin-1")


class World:
    """A server, and its client; on one there is more than on the other."""

    def __init__(self, site, verifier):
        self.site = site
        self.verifier = verifier

    async def send(self, method, path, **options):
        headers = bearer("client") | options.pop("headers", {})
        return await self.site.client.request(method, path, headers=headers, **options)

    async def export_as(self, client, path, **headers):
        response = await self.site.client.get(path, headers=ASYNC | bearer(client) | headers)
        assert response.status_code == 202, response.text
        location = response.headers["content-location"]
        await self.site.finish(location, tenant=self.verifier.principals[client].tenant)
        manifest = await self.site.client.get(location, headers=bearer(client))
        return urlsplit(manifest.json()["output"][0]["url"]).path.split("/")[-2:]


def memory_stores():
    return {"data_provider": MemoryDataProvider(), "job_store": MemoryJobStore()}


async def sqlite_stores(stack, folder):
    folder.mkdir()
    return await _stores(
        stack, helios_sqlite, SQLiteSettings(data_dir=str(folder), synchronous="normal")
    )


async def postgres_stores(stack, url):
    options = PostgresSettings(database_url=Secret(url), pool_size=3, job_pool_size=2)
    await helios_postgres.migrate(options)
    return await _stores(stack, helios_postgres, options)


async def _stores(stack, plugin, options):
    return {
        "data_provider": await stack.enter_async_context(plugin.open_data_provider(options)),
        "job_store": await stack.enter_async_context(plugin.open_job_store(options)),
    }


async def open_world(stack, scopes, **stores):
    """Open a server that keeps in memory what has no store of its own."""
    known = {
        "client": principal("client", *scopes, tenant="t1"),
        "rival": principal("rival", "system/*.cruds", tenant="t1"),
        "elsewhere": principal("client", "system/*.cruds", tenant="t2"),
    }
    verifier = StaticVerifier(known)
    backends = Backends(
        announce=lambda _job: None,
        token_verifier=verifier,
        **{"output_store": MemoryOutputStore(), **memory_stores(), **stores},
    )
    transport = httpx.ASGITransport(create_app(UNLIMITED, backends), raise_app_exceptions=False)
    client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url=BASE))
    site = Site(backends, client)
    return World(site, verifier)


class Worlds:
    """Both servers; the second one has nothing that the client may not see."""

    def __init__(self, full, bare):
        self.full, self.bare = full, bare
        self.hidden, self.hidden_jobs = (), []
        self.written = False
        """Whether the client has stored anything itself, which it may see."""

    async def fill(self, visible, hidden, elsewhere):
        """Store what the client may see on both; on one, what it may not, and exports of it."""
        self.hidden = hidden
        for resource in visible:
            for world in (self.full, self.bare):
                await world.site.put(resource, tenant="t1")
        for _ in range(2):
            if hidden:
                await self.full.site.put(*hidden, tenant="t1")
        await self.full.site.put(*elsewhere, tenant="t2")
        self.hidden_jobs = [
            await self.full.export_as("rival", "/$export"),
            await self.full.export_as("elsewhere", "/$export"),
        ]

    async def send(self, method, path, **options):
        """Send a request to both, and return the response after checking that it is one."""
        full = await self.full.send(method, path, **options)
        bare = await self.bare.send(method, path, **options)
        assert seen(full) == seen(bare), (method, path, options)
        self.written |= method not in ("GET", "HEAD") and full.is_success
        if not self.written and MARK not in f"{path}{options}":
            assert MARK not in full.text, (method, path)
            assert not any(MARK in place for place in places(full.text)), (method, path)
        return full, bare

    async def follow(self, path):
        """Request a page and all that follow, from both."""
        full, bare = await self.send("GET", path)
        for _ in range(50):
            urls = [next_of(response) for response in (full, bare)]
            assert (urls[0] is None) == (urls[1] is None), path
            if urls[0] is None:
                return
            full = await self.full.send("GET", urls[0])
            bare = await self.bare.send("GET", urls[1])
            assert seen(full) == seen(bare), (path, urls)
            assert MARK not in urls[0] or MARK in path
            assert not any(MARK in place for place in places(urls[0]))
        raise AssertionError(f"{path} has no end")

    async def export(self, path, *, limits=None, **options):
        """
        Start an export on both, end it, and compare everything that there is to see of it.

        Return the number of pages of its manifest.
        """
        method = options.pop("method", "GET")
        full, bare = await self.send(method, path, headers=ASYNC, **options)
        if full.status_code != 202:
            return 0
        results = []
        for world, response in ((self.full, full), (self.bare, bare)):
            location = response.headers["content-location"]
            urls = [location, *(f"{location}?page={page}" for page in (0, 1, 2, 99))]
            started = [seen(await world.send("GET", url)) for url in urls]
            await world.site.finish(location, tenant="t1", **(limits or {}))
            ended = [seen(await world.send("GET", url)) for url in urls]
            results.append([*started, *ended, *await contents_of(world, location)])
        for full_has, bare_has in zip_longest(*results):
            assert full_has == bare_has, path
        assert MARK not in str(results[0]) or MARK in f"{path}{options}"
        return len([each for each in results[0] if each[0] == 200]) - 1


async def contents_of(world, location):
    """Yield the pages of a manifest, and the lines of all its files."""
    found, url = [], location
    while url:
        response = await world.send("GET", url)
        assert response.status_code == 200, response.text
        found.append(seen(response))
        manifest = response.json()
        for kind in ("output", "deleted", "error"):
            for item in manifest.get(kind, ()):
                file = await downloaded(world, item["url"], manifest["requiresAccessToken"])
                assert file.status_code == 200, file.text
                found.append((kind, item.get("type"), item["count"], settled(file.text)))
        url = next((each["url"] for each in manifest.get("link", ())), None)
    return found


async def downloaded(world, url, needs_token):
    """Return a file as a client gets it: a signed link without any token."""
    if needs_token:
        return await world.send("GET", url)
    async with httpx.AsyncClient(timeout=60) as client:
        return await client.get(url)


def places(text):
    """Yield what is encoded in what looks like base64."""
    for word in re.findall(r"[A-Za-z0-9_-]{16,}", text):
        try:
            yield decoded(word)
        except ValueError:
            continue


def next_of(response):
    if response.status_code != 200:
        return None
    links = response.json().get("link", ())
    return next((each["url"] for each in links if each["relation"] == "next"), None)
