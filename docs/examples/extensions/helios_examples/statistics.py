"""A route: `GET /_plugins/statistics/exports` shows how long the last exports took."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from litestar import get
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler

from helios_core import API_LEVEL, Backends, Caller, NoSettings, RouteExtension, hookimpl


@asynccontextmanager
async def open_routes(
    _settings: NoSettings, backends: Backends
) -> AsyncIterator[Sequence[HTTPRouteHandler]]:
    """Yield the handlers; whatever they need is opened before and closed after the yield."""

    @get("/exports")
    async def exports(caller: NamedDependency[Caller]) -> list[dict[str, Any]]:
        jobs = await backends.job_store.recent(caller.tenant, limit=20)
        return [
            {
                "level": job.request.level,
                "seconds": (job.completed_at - job.created_at).total_seconds(),
            }
            for job in jobs
            if job.completed_at and job.created_at
        ]

    yield [exports]


@hookimpl
def helios_routes() -> RouteExtension:
    """Offer statistics to those who are authorised."""
    return RouteExtension(api_level=API_LEVEL, open=open_routes, public=False)
