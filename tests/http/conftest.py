import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial

import httpx
import msgspec
import pytest
import uvicorn
from litestar import Litestar

from helios_core.config.settings import Settings
from helios_core.export.pipeline.shard_export import PartLimits
from helios_core.export.worker import WorkerOptions, run_worker
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.resources import parse_resource
from helios_core.http.app import create_app
from helios_core.memory import MemoryDataProvider, MemoryJobStore, MemoryOutputStore
from helios_core.storage.backends import Backends
from helios_core.storage.data_provider import Delete, Put
from helios_sqlite import SQLiteSettings, open_data_provider, open_job_store
from tests.http.fuzzing import STORED, UNLIMITED, Fuzzed

BASE = "http://fhir.example"
ASYNC = {"Prefer": "respond-async"}


def litestar_of(app):
    """Return the application inside of those that are around it."""
    while not isinstance(app, Litestar):
        app = app.app if hasattr(app, "app") else app._app
    return app


class Site:
    """A server over memory backends, and what tests do with it all the time."""

    def __init__(self, backends, client):
        self.backends = backends
        self.client = client

    async def put(self, *resources, tenant="default", version=FHIRVersion.R4):
        """Store resources behind the server's back."""
        changes = [
            Put(resource=parse_resource(msgspec.json.encode(r), version)) for r in resources
        ]
        return await self.backends.data_provider.write(tenant, version, changes)

    async def delete(self, resource_type, resource_id):
        change = Delete(resource_type=resource_type, id=resource_id)
        await self.backends.data_provider.write("default", FHIRVersion.R4, [change])

    async def kick_off(self, path="/$export", **options):
        options["headers"] = ASYNC | options.get("headers", {})
        method = options.pop("method", "GET")
        response = await self.client.request(method, path, **options)
        assert response.status_code == 202, response.text
        return response.headers["content-location"]

    async def finish(self, location, *, tenant="default", **limits):
        """Work until an export has ended."""
        job_id = location.rsplit("/", 1)[1]
        options = WorkerOptions(
            retry_after=timedelta(milliseconds=1),
            outage_patience=timedelta(0),
            limits=PartLimits(**limits),
        )
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(run_worker("tester", self.backends, options, stop=stop))
            while (await self.backends.job_store.get(tenant, job_id)).status.active:
                await asyncio.sleep(0.005)
            stop.set()

    async def manifest(self, path="/$export", *, limits=None, **options):
        """Export, and return the manifest."""
        location = await self.kick_off(path, **options)
        await self.finish(location, **(limits or {}))
        response = await self.client.get(location)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture
def backends():
    return Backends(
        data_provider=MemoryDataProvider(),
        job_store=MemoryJobStore(),
        output_store=MemoryOutputStore(),
        announce=lambda _job: None,
    )


@pytest.fixture
async def open_site(backends):
    """Open sites with settings or backends of their own."""
    async with AsyncExitStack() as stack:

        async def open_site(settings=None, **replaced):
            own = msgspec.structs.replace(backends, **replaced)
            app = create_app(settings or Settings(), own)
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            client = httpx.AsyncClient(transport=transport, base_url=BASE)
            return Site(own, await stack.enter_async_context(client))

        yield open_site


@pytest.fixture
async def site(open_site):
    return await open_site()


@pytest.fixture(params=["memory", "sqlite"])
async def open_either_site(request, open_site, tmp_path):
    """Open sites over memory, and such whose resources are in a database."""
    if request.param == "memory":
        yield open_site
        return
    async with open_data_provider(SQLiteSettings(data_dir=str(tmp_path))) as provider:
        yield partial(open_site, data_provider=provider)


@pytest.fixture
async def either_site(open_either_site):
    return await open_either_site()


@pytest.fixture(params=["sqlite", pytest.param("memory", marks=pytest.mark.in_turn)])
async def fuzzed(request, open_site, tmp_path):
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            made = Fuzzed(await open_site(UNLIMITED))
        else:
            own = SQLiteSettings(data_dir=str(tmp_path))
            provider = await stack.enter_async_context(open_data_provider(own))
            jobs = await stack.enter_async_context(open_job_store(own))
            made = Fuzzed(
                await open_site(UNLIMITED, data_provider=provider, job_store=jobs), own.path
            )
        await made._site.put(*STORED)
        yield made


@pytest.fixture
def client(site):
    return site.client


@asynccontextmanager
async def serving(settings, backends):
    """Run a real server on a free port of the loopback interface; yield its port."""
    app = create_app(settings, backends)
    config = uvicorn.Config(
        app, port=0, ws="none", log_config=None, access_log=False, loop="asyncio", lifespan="on"
    )
    server = uvicorn.Server(config)
    async with asyncio.TaskGroup() as group:
        group.create_task(server._serve())
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield server.servers[0].sockets[0].getsockname()[1]
        finally:
            server.should_exit = True


@pytest.fixture
async def live(backends):
    """Start real servers over the memory backends."""
    async with AsyncExitStack() as stack:

        async def live(settings=None, **replaced):
            own = msgspec.structs.replace(backends, **replaced)
            port = await stack.enter_async_context(serving(settings or Settings(), own))
            url = f"http://127.0.0.1:{port}"
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=60))
            return Site(own, client)

        yield live


@pytest.fixture
def outcome():
    """Check that a response is a FHIR error, and return its one issue."""

    def outcome(response, status, code=None):
        assert response.status_code == status, response.text
        assert response.headers["content-type"].startswith("application/fhir+json")
        body = response.json()
        assert body["resourceType"] == "OperationOutcome"
        [issue] = body["issue"]
        assert issue["severity"] in {"fatal", "error"}
        assert issue["diagnostics"]
        if code is not None:
            assert issue["code"] == code
        return issue

    return outcome
