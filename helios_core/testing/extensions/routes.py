"""The contract suite of routes: clauses R1 to R4 of `RouteExtension`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import httpx
import pytest
from msgspec.structs import replace

from helios_core import Backends
from helios_core.config.extensions import SelectedExtension, open_routes
from helios_core.config.settings import Settings
from helios_core.http.access import PLUGIN_PREFIX
from helios_core.http.app import create_app
from helios_core.storage.backends import OpenedRoutes
from helios_core.testing.extensions.contract import PLUGIN, ExtensionSuite

MAX_BODY_BYTES = 1000
PATIENCE_SECONDS = 10
BODIES = (b"", b"{", b"null", b"[1]", b"\xff", b"x" * (MAX_BODY_BYTES + 1))
"""Bodies at which no route may fail."""


class RouteSuite(ExtensionSuite):
    """
    Tests that the routes of every plugin pass.

    A subclass implements the fixture `extension` and its `settings`. Its own tests send requests
    with `client`, to paths below `prefix`.
    """

    hook = "helios_routes"
    prefix: ClassVar[str] = f"{PLUGIN_PREFIX}/{PLUGIN}"
    """Where the suite mounts the routes."""

    @pytest.fixture
    async def subject(
        self, selected: SelectedExtension, backends: Backends
    ) -> AsyncIterator[OpenedRoutes]:
        """Open the routes."""
        async with AsyncExitStack() as stack:
            [opened] = await open_routes(stack, [selected], backends)
            yield opened

    @pytest.fixture
    def app(self, subject: OpenedRoutes, backends: Backends) -> Any:  # noqa: ANN401  an ASGI app
        """Return a server with the routes; it raises if one is not a Litestar route handler."""
        settings = Settings(max_body_bytes=MAX_BODY_BYTES)
        return create_app(settings, replace(backends, routes=[subject]))

    @pytest.fixture
    async def client(self, app: Any) -> AsyncIterator[httpx.AsyncClient]:  # noqa: ANN401
        """Return a client of that server."""
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            yield client

    async def test_the_server_takes_the_routes(
        self, subject: OpenedRoutes, backends: Backends
    ) -> None:
        """R1, R2: each is asynchronous, without error handler and body limit of its own."""
        create_app(Settings(), replace(backends, routes=[subject]))

        assert subject.handlers, "the plugin offers no route"

    async def test_a_plain_route_answers(
        self, subject: OpenedRoutes, client: httpx.AsyncClient
    ) -> None:
        """R3: a GET without parameters is no server error, and is answered in time."""
        for path in self._plain_paths(subject, "GET"):
            async with asyncio.timeout(PATIENCE_SECONDS):
                response = await client.get(path)
            assert response.status_code < 500, path

    async def test_no_body_breaks_a_route(
        self, subject: OpenedRoutes, client: httpx.AsyncClient
    ) -> None:
        """R4: no body that a client sends is a server error."""
        for method in ("POST", "PUT", "PATCH"):
            for path in self._plain_paths(subject, method):
                for body in BODIES:
                    response = await client.request(method, path, content=body)
                    assert response.status_code < 500, (path, body[:10])

    def _plain_paths(self, subject: OpenedRoutes, method: str) -> Sequence[str]:
        """Return the paths of a method that have no parameters."""
        paths = [
            path
            for handler in subject.handlers
            if method in handler.http_methods
            for path in handler.paths
        ]
        return [f"{self.prefix}{path}" for path in paths if "{" not in path]
