"""Routes that are wrong on purpose."""

from litestar import get, post

from helios_core.http.requests import HTTPRequest
from tests.testing import extensions


@get("/sync", sync_to_thread=False)
def blocking() -> None:
    pass


class TestBlocking(extensions.GoodRoutes):
    handlers = (blocking,)
    caught_by = ("test_the_server_takes_the_routes",)


class TestEmpty(extensions.GoodRoutes):
    handlers = ()
    caught_by = ("test_the_server_takes_the_routes",)


@get("/things")
async def breaking() -> None:
    raise ValueError


class TestBreaking(extensions.GoodRoutes):
    handlers = (breaking,)
    caught_by = ("test_a_plain_route_answers",)


@post("/things")
async def trusting(request: HTTPRequest) -> int:
    return len((await request.json())["things"])


class TestTrusting(extensions.GoodRoutes):
    handlers = (trusting,)
    caught_by = ("test_no_body_breaks_a_route",)
