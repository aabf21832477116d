"""One good extension of every kind; broken ones differ from them in one thing."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import click
import msgspec
import pytest
from litestar import get, post
from litestar.params import FromPath

from helios_core import (
    API_LEVEL,
    BackendUnavailable,
    Coding,
    CommandExtension,
    ExportIntent,
    FileAuthorizerExtension,
    Forbidden,
    HealthExtension,
    InvalidRequest,
    Level,
    ObserverExtension,
    RestReads,
    RouteExtension,
    ScopeAuthorizer,
    TokenVerifierExtension,
    Transform,
    TransformEffect,
    TransformExtension,
)
from helios_core.http.requests import HTTPRequest
from helios_core.testing import (
    CommandSuite,
    FileAuthorizerSuite,
    HealthCheckSuite,
    ObserverSuite,
    RouteSuite,
    TokenVerifierSuite,
    TransformSuite,
)
from tests.tokens import StaticVerifier, principal

SECRET = TransformSuite.SECRET
LABEL = Coding(system="urn:x", code="y")


def opening(opened: Any) -> Callable[..., Any]:
    """Return what opens an extension: something given, or what a function makes."""

    @asynccontextmanager
    async def opener(*given: Any) -> AsyncIterator[Any]:
        yield opened(*given) if isinstance(opened, type) else opened

    return opener


async def ignore_cancellation() -> None:
    """Go on after a cancellation for longer than the suites wait, but not for ever."""
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        for _ in range(20):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.1)


class WithoutNames(Transform):
    """Drops names, and resources that cannot be had without them; renames what is left."""

    def __init__(self, *_: object) -> None:
        pass

    def apply(self, resource, key):
        if resource["resourceType"] == "Person":
            return None
        for name in ("name", "_name", "text"):
            resource.pop(name, None)
        resource["id"] = self.rename(key.resource(resource["id"]))
        return resource

    def rename(self, key):
        return hashlib.sha256(f"{key.resource_type}/{key.id}".encode()).hexdigest()


class GoodTransform(TransformSuite):
    implementation = WithoutNames
    effect = TransformEffect(tags=(LABEL,), rest=RestReads.WITHHELD)
    powers = TransformSuite.known_powers

    @pytest.fixture
    def extension(self):
        return TransformExtension(
            api_level=API_LEVEL,
            implementation=self.implementation,
            open=opening(self.implementation),
            effect=self.effect,
        )

    def confidential(self):
        named = {"resourceType": "Patient", "id": "p", "name": [{"family": SECRET}]}
        return [named, {"resourceType": "Person", "id": "p", "birthDate": SECRET}]


class Line:
    """A telephone line that can be cut."""

    up = True

    async def check(self):
        await asyncio.sleep(0)
        if not self.up:
            raise BackendUnavailable("the line is down")


class GoodHealthChecks(HealthCheckSuite):
    time_limit = timedelta(seconds=5)

    @pytest.fixture
    def extension(self):
        self.line = Line()
        return HealthExtension(
            api_level=API_LEVEL,
            open=opening(self.checks()),
            time_limit=self.time_limit,
        )

    def checks(self):
        return {"line": self.line.check}

    async def make_unwell(self):
        self.line.up = False


class GoodObserver(ObserverSuite):
    @pytest.fixture
    def extension(self):
        return ObserverExtension(
            api_level=API_LEVEL, open=self.opener(), time_limit=timedelta(seconds=5)
        )

    def opener(self):
        return opening(self.observe)

    async def observe(self, job):
        await asyncio.sleep(0)


@get("/things")
async def things() -> list[str]:
    return []


@get("/things/{name:str}")
async def thing(name: FromPath[str]) -> str:
    return name


@post("/things")
async def add(request: HTTPRequest) -> int:
    try:
        return len(msgspec.json.decode(await request.body(), type=dict[str, str]))
    except msgspec.DecodeError as error:
        raise InvalidRequest("The body is not an object of texts.") from error


class GoodRoutes(RouteSuite):
    handlers = (things, thing, add)

    @pytest.fixture
    def extension(self):
        return RouteExtension(api_level=API_LEVEL, open=opening(self.handlers), public=True)


def make_group(host):
    @click.group()
    def tools():
        """Do this and that."""

    @tools.command()
    @click.option("--loud", is_flag=True, help="Say it louder.")
    def word(*, loud):
        """Print the word."""
        said = host.settings().word
        click.echo(said.upper() if loud else said)

    return tools


class GoodCommand(CommandSuite):
    arguments = ("word",)
    make = staticmethod(make_group)

    @pytest.fixture
    def extension(self):
        return CommandExtension(api_level=API_LEVEL, command=self.make)


READER = "token-of-somebody-who-reads"
OUTDATED = "token-of-somebody-who-left"


class GoodTokenVerifier(TokenVerifierSuite):
    implementation = StaticVerifier

    @pytest.fixture
    def extension(self):
        outdated = principal("former", valid_for=timedelta(seconds=-1))
        self.verifier = self.implementation({READER: self.principal(), OUTDATED: outdated})
        return TokenVerifierExtension(api_level=API_LEVEL, open=opening(self.verifier))

    async def valid_token(self):
        return READER

    def principal(self):
        return principal("reader", "system/*.rs", "offline_access", tenant="t")

    async def invalid_tokens(self):
        return {"expired": OUTDATED, "unknown": "token-of-nobody-at-all"}

    async def make_unavailable(self):
        self.verifier.up = False
        return READER


class OneGroup(ScopeAuthorizer):
    """Lets everybody export one Group, and nothing else."""

    def __init__(self, _settings, backends):
        self.backends = backends

    async def authorize_export(self, principal, intent):
        await super().authorize_export(principal, intent)
        if intent.group_id != "own":
            raise Forbidden("This client may export its own Group only.")


class GoodFileAuthorizer(FileAuthorizerSuite):
    implementation = OneGroup

    @pytest.fixture
    def extension(self):
        return FileAuthorizerExtension(api_level=API_LEVEL, open=opening(self.implementation))

    def allowed(self):
        return [ExportIntent(tenant="t", level=Level.GROUP, group_id="own")]

    def refused(self):
        return [
            ExportIntent(tenant="t", level=Level.GROUP, group_id="another"),
            ExportIntent(tenant="t", level=Level.SYSTEM),
        ]
