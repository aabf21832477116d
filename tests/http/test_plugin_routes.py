"""Routes of plugins: under their prefix, under the rules of every other route."""

import asyncio

import pytest
import structlog
from litestar import Controller, Response, asgi, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec.structs import replace

from helios_core import Caller, ResourceNotFound
from helios_core.config.settings import Settings
from helios_core.errors import BrokenPlugin
from helios_core.http.app import create_app
from helios_core.http.plugin_routes import plugin_routers
from helios_core.http.requests import HTTPRequest
from helios_core.storage.backends import OpenedRoutes
from tests.pace import scaled


@get("/hello/{name:str}")
async def hello(name: FromPath[str], caller: NamedDependency[Caller]) -> dict[str, str]:
    return {"hello": name, "tenant": caller.tenant, "version": caller.fhir_version}


@get("/fail/{how:str}")
async def fail(how: FromPath[str]) -> None:
    if how == "exit":
        raise SystemExit(1)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "missing":
        raise ResourceNotFound("There is no such thing.")
    raise ValueError("Jane Doe")


@post("/measure", status_code=200)
async def measure(request: HTTPRequest) -> dict[str, int]:
    return {"bytes": len(await request.body())}


@get("/wait")
async def wait() -> None:
    await asyncio.Event().wait()


HANDLERS = [hello, fail, measure, wait]


def routes(*handlers, plugin="demo", public=True):
    return OpenedRoutes(plugin=plugin, handlers=handlers, public=public)


@pytest.fixture
async def site(open_site):
    settings = Settings(max_body_bytes=1000)
    return await open_site(settings, routes=(routes(*HANDLERS),))


async def test_a_route_answers_under_the_plugins_prefix(site):
    response = await site.client.get("/_plugins/demo/hello/you", headers={"X-Tenant-ID": "ward"})

    assert response.json() == {"hello": "you", "tenant": "ward", "version": "R4"}
    assert (await site.client.get("/hello/you")).status_code == 404


async def test_two_plugins_may_have_the_same_route(open_site):
    site = await open_site(routes=(routes(hello), routes(hello, plugin="other")))

    for name in ("demo", "other"):
        assert (await site.client.get(f"/_plugins/{name}/hello/you")).status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/_plugins/demo/fail/somehow", 500, "exception"),
        ("/_plugins/demo/fail/exit", 500, "exception"),
        ("/_plugins/demo/fail/interrupt", 500, "exception"),
        ("/_plugins/demo/fail/missing", 404, "not-found"),
        ("/_plugins/demo/nothing", 404, "not-found"),
        ("/_plugins/demo", 404, "not-found"),
        ("/_plugins/elsewhere", 404, "not-found"),
        ("/_plugins", 404, "not-found"),
        ("/_plugins/demo/measure", 405, "not-supported"),
    ],
)
async def test_every_error_is_an_operation_outcome(site, outcome, path, status, code):
    response = await site.client.get(path)

    outcome(response, status, code)
    assert "Jane" not in response.text


async def test_the_limit_of_bodies_holds(site, outcome):
    accepted = await site.client.post("/_plugins/demo/measure", content=b"x" * 1000)
    refused = await site.client.post("/_plugins/demo/measure", content=b"x" * 1001)

    assert accepted.json() == {"bytes": 1000}
    outcome(refused, 413, "too-long")


async def test_a_malformed_tenant_is_refused_before_the_handler_runs(site, outcome):
    response = await site.client.get(
        "/_plugins/demo/hello/you", headers={"X-Tenant-ID": "../other"}
    )

    outcome(response, 400)


async def test_requests_are_logged_by_route(site):
    with structlog.testing.capture_logs() as lines:
        await site.client.get("/_plugins/demo/hello/Jane")

    [line] = [line for line in lines if line["event"] == "request.answered"]
    assert (line["route"], line["status"]) == ("/_plugins/demo/hello/{name}", 200)
    assert "Jane" not in str(lines)


async def test_a_request_that_waits_keeps_no_other_waiting(site):
    waiting = asyncio.ensure_future(site.client.get("/_plugins/demo/wait"))
    await asyncio.sleep(0)

    response = await asyncio.wait_for(site.client.get("/_liveness"), scaled(20))

    assert response.status_code == 200
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_server_lives_on_whatever_a_route_raises(live):
    site = await live(routes=(routes(fail),))

    for how in ("exit", "interrupt"):
        assert (await site.client.get(f"/_plugins/demo/fail/{how}")).status_code == 500

    assert (await site.client.get("/_liveness")).status_code == 200


@get("/sync", sync_to_thread=False)
def synchronous() -> None:
    pass


@get("/threaded", sync_to_thread=True)
def threaded() -> None:
    pass


@get("/large", request_max_body_size=10**9)
async def large() -> None:
    pass


@get("/own-errors", exception_handlers={ValueError: lambda *_: Response("x")})
async def own_errors() -> None:
    pass


@get("/untyped")
async def untyped(name):  # what it is and where it comes from is not said
    return name


@asgi("/raw")
async def raw(scope: dict, receive: object, send: object) -> None:
    pass


class Controlled(Controller):
    pass


@pytest.mark.parametrize(
    ("handlers", "said"),
    [
        ([synchronous], "is not asynchronous"),
        ([threaded], "is not asynchronous"),
        ([large], "a body limit of its own"),
        ([own_errors], "an error handler"),
        ([raw], "of type"),
        ([Controlled], "of type type"),
        (["/path"], "of type str"),
        ([untyped], "cannot be used"),
        (7, "cannot be used"),
    ],
)
def test_routes_that_cannot_be_served_stop_the_start(backends, handlers, said):
    opened = OpenedRoutes(plugin="demo", handlers=handlers, public=False)

    with pytest.raises(BrokenPlugin, match="plugin demo offers") as caught:
        create_app(Settings(), replace(backends, routes=[opened]))

    assert said in str(caught.value)


@pytest.mark.parametrize("public", [True, False])
def test_whether_routes_are_public_stands_where_authorisation_looks(public):
    [router] = plugin_routers([routes(hello, public=public)], guard=None)

    assert router.opt == {"public": public}
