"""
Extensions that are wrong on purpose, each held to its suite by a class of its own.

Not collected with the other tests: `test_broken_extensions.py` runs the tests in `caught_by`, the
ones that name the broken clause, and checks that they fail.
"""

import asyncio
import itertools
import threading
import time
from contextlib import asynccontextmanager, suppress

import click
import pytest
from litestar import get, post
from msgspec.structs import replace

from helios_core import (
    API_LEVEL,
    ConfigurationError,
    FileAuthorizerExtension,
    Forbidden,
    InvalidToken,
    JobNotFound,
    ResourceKey,
    RestReads,
    TokenVerifierExtension,
    Transform,
    TransformEffect,
    scopes_of,
)
from helios_core.http.requests import HTTPRequest
from helios_core.testing.extensions import health_checks, observers, routes
from tests.testing import extensions
from tests.testing.extensions import LABEL, READER, OneGroup, WithoutNames, opening
from tests.tokens import StaticVerifier, principal


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    """What waits for what never comes has waited long enough after a moment."""
    for suite in (health_checks, observers, routes):
        monkeypatch.setattr(suite, "PATIENCE_SECONDS", 0.5)


class TestUndescribed(extensions.GoodTransform):
    effect = TransformEffect(rest=RestReads.WITHHELD)
    caught_by = ("test_the_server_takes_the_descriptor",)


class Counting(WithoutNames):
    """Adds a number to every resource."""

    numbers = itertools.count()

    def apply(self, resource, key):
        return super().apply(resource | {"number": next(self.numbers)}, key)


class TestCounting(extensions.GoodTransform):
    implementation = Counting
    caught_by = (
        "test_the_same_resource_gives_the_same_result",
        "test_threads_do_not_disturb_each_other",
    )


class Salted(WithoutNames):
    """Renames with a salt that another process does not have."""

    def __init__(self, *_):
        self._salt = str(next(Counting.numbers))

    def rename(self, key):
        return super().rename(key.type.resource(key.id + self._salt))


class TestSalted(extensions.GoodTransform):
    implementation = Salted
    caught_by = ("test_the_same_resource_gives_the_same_result",)


class Picky(WithoutNames):
    """Expects every resource to have what most have."""

    def apply(self, resource, key):
        return super().apply(resource | {"meta": resource["meta"]}, key)


class TestPicky(extensions.GoodTransform):
    implementation = Picky
    caught_by = ("test_any_resource_is_taken", "test_what_comes_back_can_leave")


class Forgetful(WithoutNames):
    """Forgets to rename."""

    def apply(self, resource, key):
        return resource if super().apply(dict(resource), key) else None


class TestForgetful(extensions.GoodTransform):
    implementation = Forgetful
    caught_by = ("test_what_comes_back_can_leave",)


class TestDropsUndeclared(extensions.GoodTransform):
    effect = TransformEffect(tags=(LABEL,), rest=RestReads.WITHHELD, drops=False)
    caught_by = ("test_what_comes_back_can_leave",)


class Adding(Transform):
    """Claims that it only drops, and adds something."""

    def __init__(self, *_):
        pass

    def apply(self, resource, key):
        return resource | {"seen": True}


class TestAdding(extensions.GoodTransform):
    implementation = Adding
    effect = TransformEffect(changes=False, conceals=False)
    powers = frozenset()
    caught_by = ("test_nothing_is_changed_that_only_may_be_dropped",)


class Shared(WithoutNames):
    """Keeps the resource it works on where the next call finds it."""

    def apply(self, resource, key):
        self._resource = resource
        time.sleep(0.0001)
        return super().apply(self._resource, key)


class TestShared(extensions.GoodTransform):
    implementation = Shared
    caught_by = ("test_threads_do_not_disturb_each_other",)


class Chatty(WithoutNames):
    """Prints what it does."""

    def apply(self, resource, key):
        print(resource)  # noqa: T201
        return super().apply(resource, key)


class TestChatty(extensions.GoodTransform):
    implementation = Chatty
    caught_by = ("test_nothing_of_a_resource_is_logged",)


class Prefixing(WithoutNames):
    """Puts something before the id, which anybody can take away."""

    def rename(self, key):
        return f"x-{key.id}"[:64]


class TestPrefixing(extensions.GoodTransform):
    implementation = Prefixing
    caught_by = ("test_new_ids_are_valid_distinct_and_silent",)


class Colliding(WithoutNames):
    """Has a thousand ids for all the world."""

    def rename(self, key):
        return str(int(super().rename(key), 16) % 1000)


class TestColliding(extensions.GoodTransform):
    implementation = Colliding
    caught_by = ("test_new_ids_are_valid_distinct_and_silent",)


class TestUndeclared(extensions.GoodTransform):
    powers = frozenset()
    caught_by = ("test_exactly_the_claimed_powers_are_present",)


class LeavingNames(WithoutNames):
    """Leaves the names it is there to drop."""

    def apply(self, resource, key):
        return super().apply(resource, key) and super().apply(resource, key) | {
            "name": [{"family": extensions.SECRET}]
        }


class TestLeavingNames(extensions.GoodTransform):
    implementation = LeavingNames
    caught_by = ("test_what_is_to_be_removed_is_gone",)


class TestWithoutExamples(extensions.GoodTransform):
    caught_by = ("test_what_is_to_be_removed_is_gone",)

    def confidential(self):
        return []


class TestDown(extensions.GoodHealthChecks):
    caught_by = ("test_checks_pass_when_all_is_well", "test_a_check_runs_again")

    def checks(self):
        self.line.up = False
        return super().checks()


class TestBlind(extensions.GoodHealthChecks):
    caught_by = ("test_a_check_fails_when_something_is_wrong",)

    def checks(self):
        return {"line": self.blind}

    async def blind(self):
        with suppress(Exception):
            await self.line.check()


class TestStubborn(extensions.GoodHealthChecks):
    caught_by = ("test_a_check_ends_when_it_is_cancelled",)

    def checks(self):
        return {"line": self.stubborn}

    async def stubborn(self):
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            # Longer than the suite waits, and not for ever: the loop waits for it in the end.
            for _ in range(20):
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.1)


class TestOneWay(extensions.GoodHealthChecks):
    caught_by = ("test_a_check_runs_again",)

    def checks(self):
        self.busy = False
        return {"line": self.once}

    async def once(self):
        assert not self.busy
        self.busy = True
        await self.line.check()


class TestNameless(extensions.GoodHealthChecks):
    caught_by = ("test_the_server_takes_the_checks",)

    def checks(self):
        return {"My Line": self.line.check}


class TestOnlyTheEnd(extensions.GoodObserver):
    caught_by = (
        "test_jobs_in_any_status_are_taken",
        "test_leaving_the_context_leaves_nothing_running",
    )

    async def observe(self, job):
        assert job.completed_at or job.status == "complete"


class TestOnce(extensions.GoodObserver):
    caught_by = ("test_the_same_job_may_come_twice",)

    async def observe(self, job):
        assert job.id not in vars(self).setdefault("seen", set())
        self.seen.add(job.id)


class TestUndisturbed(extensions.GoodObserver):
    caught_by = ("test_a_call_ends_when_it_is_cancelled",)

    async def observe(self, job):
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            for _ in range(20):
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.1)


class TestLeavesAThread(extensions.GoodObserver):
    caught_by = ("test_leaving_the_context_leaves_nothing_running",)

    def opener(self):
        @asynccontextmanager
        async def opener(*_):
            threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
            yield self.observe

        return opener


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


def make_silent(host):
    @click.command(help="Say something.")
    @click.option("--word")
    def silent(word):
        click.echo(host.settings().word + word)

    return silent


class TestSilent(extensions.GoodCommand):
    arguments = ()
    make = staticmethod(make_silent)
    caught_by = ("test_everything_has_a_help_text",)


def make_early(host):
    word = "x"
    with suppress(AttributeError):
        word = host.settings().word

    @click.command()
    def early():
        """Print the word."""
        click.echo(word)

    return early


class TestEarly(extensions.GoodCommand):
    arguments = ()
    make = staticmethod(make_early)
    caught_by = ("test_help_needs_no_setting",)


def make_swallowing(host):
    @click.command()
    def swallowing():
        """Print the word, or nothing."""
        with suppress(ConfigurationError):
            click.echo(host.settings().word)

    return swallowing


class TestSwallowing(extensions.GoodCommand):
    arguments = ()
    make = staticmethod(make_swallowing)
    caught_by = ("test_a_wrong_configuration_is_not_hidden",)


class TestNoCommand(extensions.GoodCommand):
    make = staticmethod(opening("nothing"))
    caught_by = ("test_help_needs_no_setting",)


class TestOpensNothing(extensions.GoodTokenVerifier):
    caught_by = ("test_the_server_takes_the_verifier",)

    @pytest.fixture
    def extension(self):
        return TokenVerifierExtension(api_level=API_LEVEL, open=opening("nobody"))


class Credulous(StaticVerifier):
    """Looks at neither the end of a token nor whether anybody issued it."""

    async def verify(self, token):
        return self.principals.get(token) or self.principals[READER]


class TestCredulous(extensions.GoodTokenVerifier):
    implementation = Credulous
    caught_by = (
        "test_invalid_tokens_are_refused",
        "test_an_issuer_that_is_down_makes_no_token_invalid",
        "test_a_changed_token_is_refused",
        "test_whatever_is_sent_is_refused_in_time",
    )


class Pessimist(StaticVerifier):
    """Takes an issuer that is down for one that says no."""

    async def verify(self, token):
        if not self.up:
            raise InvalidToken("Nobody vouches for the token.")
        return await super().verify(token)


class TestPessimist(extensions.GoodTokenVerifier):
    implementation = Pessimist
    caught_by = ("test_an_issuer_that_is_down_makes_no_token_invalid",)


class Generous(StaticVerifier):
    """Grants more than the token says."""

    async def verify(self, token):
        found = await super().verify(token)
        return replace(found, scopes=(*found.scopes, "system/*.cruds"))


class TestGenerous(extensions.GoodTokenVerifier):
    implementation = Generous
    caught_by = ("test_the_principal_is_what_the_token_says",)


class Shortened(StaticVerifier):
    """Compares the beginnings of tokens only."""

    async def verify(self, token):
        return await super().verify(READER if token.startswith(READER[:10]) else token)


class TestShortened(extensions.GoodTokenVerifier):
    implementation = Shortened
    caught_by = (
        "test_invalid_tokens_are_refused",
        "test_a_changed_token_is_refused",
    )


class Confused(StaticVerifier):
    """Mixes the requests up that wait at the same time."""

    latest = None

    async def verify(self, token):
        number = self.asked
        found = await super().verify(token)
        await asyncio.sleep(0)
        if self.asked > number + 1:
            return principal("somebody else")
        return found


class TestConfused(extensions.GoodTokenVerifier):
    implementation = Confused
    caught_by = ("test_many_tokens_at_once_are_verified",)


class Fragile(StaticVerifier):
    """Breaks at what it does not know how to encode."""

    async def verify(self, token):
        token.encode("ascii")
        return await super().verify(token)


class TestFragile(extensions.GoodTokenVerifier):
    implementation = Fragile
    caught_by = ("test_whatever_is_sent_is_refused_in_time",)


class Talkative(StaticVerifier):
    """Quotes the token that it refuses."""

    async def verify(self, token):
        try:
            return await super().verify(token)
        except InvalidToken as error:
            raise InvalidToken(f"The token {token} is not on the list.") from error


class TestTalkative(extensions.GoodTokenVerifier):
    implementation = Talkative
    caught_by = ("test_no_token_is_shown",)


class Placeless(StaticVerifier):
    """Names the token endpoint relative to whatever."""

    async def smart_configuration(self, base):
        return await super().smart_configuration(base) | {"token_endpoint": "/token"}


class TestPlaceless(extensions.GoodTokenVerifier):
    implementation = Placeless
    caught_by = ("test_clients_learn_where_they_get_tokens",)


class TestAuthorizesNothing(extensions.GoodFileAuthorizer):
    caught_by = ("test_the_server_takes_the_authorizer",)

    @pytest.fixture
    def extension(self):
        return FileAuthorizerExtension(api_level=API_LEVEL, open=opening("nobody"))


class Probing(OneGroup):
    """Looks whether there is such a Group before it says no."""

    async def authorize_export(self, principal, intent):
        key = ResourceKey(intent.tenant, "R4", "Group", intent.group_id or "")
        await self.backends.data_provider.get(key)
        await super().authorize_export(principal, intent)


class TestProbing(extensions.GoodFileAuthorizer):
    implementation = Probing
    caught_by = ("test_exports_are_allowed_and_refused_without_a_look_at_the_data",)


class Bare(OneGroup):
    """Takes the client id alone for the owner."""

    async def authorize_end(self, principal, job):
        if job.owner is None or not job.owner.endswith(f"|{principal.client_id}"):
            raise JobNotFound(f"{job.id} is not there")


class TestBare(extensions.GoodFileAuthorizer):
    implementation = Bare
    caught_by = ("test_the_job_of_another_client_is_not_found",)


class Inviting(OneGroup):
    """Shows everybody what belongs to nobody."""

    async def authorize_end(self, principal, job):
        if job.owner is not None:
            await super().authorize_end(principal, job)


class TestInviting(extensions.GoodFileAuthorizer):
    implementation = Inviting
    caught_by = ("test_a_job_without_owner_belongs_to_nobody",)


class Personal(OneGroup):
    """Shows a job to the subject that started it, and not to its client."""

    async def authorize_end(self, principal, job):
        await super().authorize_end(principal, job)
        if principal.subject != principal.client_id:
            raise JobNotFound(f"{job.id} is not there")


class TestPersonal(extensions.GoodFileAuthorizer):
    implementation = Personal
    caught_by = ("test_the_owner_sees_a_job_and_ends_it",)


class HalfWay(OneGroup):
    """Takes reading for enough."""

    def grant(self, principal, resource_type):
        return scopes_of(principal.scopes).grant(resource_type, "r")


class TestHalfWay(extensions.GoodFileAuthorizer):
    implementation = HalfWay
    caught_by = ("test_without_scopes_nothing_is_exported",)


class Typeless(OneGroup):
    """Takes the scope of one type for all of them."""

    def grant(self, principal, resource_type):
        granted = super().grant(principal, resource_type)
        patients = super().grant(principal, "Patient")
        return granted if patients.is_nothing else patients


class TestTypeless(extensions.GoodFileAuthorizer):
    implementation = Typeless
    caught_by = (
        "test_scopes_decide_by_type",
        "test_the_token_of_every_request_has_to_cover_the_job",
    )


class OnceTrusting(OneGroup):
    """Asks for the scopes at the start alone."""

    async def authorize_job(self, principal, job):
        await self.authorize_end(principal, job)


class TestOnceTrusting(extensions.GoodFileAuthorizer):
    implementation = OnceTrusting
    caught_by = (
        "test_the_token_of_every_request_has_to_cover_the_job",
        "test_a_limit_that_is_frozen_covers_itself",
    )


class LimitBlind(OneGroup):
    """Takes every limit for every other one."""

    async def authorize_job(self, principal, job):
        await self.authorize_end(principal, job)
        for name in job.request.types:
            granted, exported = self.grant(principal, name), job.request.grant(name)
            if granted.is_nothing or exported.is_everything > granted.is_everything:
                raise Forbidden("The token covers less.")


class TestLimitBlind(extensions.GoodFileAuthorizer):
    implementation = LimitBlind
    caught_by = ("test_a_limit_that_is_frozen_covers_itself",)


class Listing(OneGroup):
    """Limits to a list of groups, which the server does not take."""

    def groups(self, principal):
        return ["own"]


class TestListing(extensions.GoodFileAuthorizer):
    implementation = Listing
    caught_by = (
        "test_a_limit_to_groups_is_a_set_of_what_may_be_exported",
        "test_exports_are_allowed_and_refused_without_a_look_at_the_data",
        "test_the_owner_sees_a_job_and_ends_it",
        "test_a_limit_that_is_frozen_covers_itself",
    )


class AtOdds(OneGroup):
    """Limits to another group than the one that may be exported."""

    def groups(self, principal):
        return frozenset({"another"})


class TestAtOdds(extensions.GoodFileAuthorizer):
    implementation = AtOdds
    caught_by = (
        "test_a_limit_to_groups_is_a_set_of_what_may_be_exported",
        "test_exports_are_allowed_and_refused_without_a_look_at_the_data",
        "test_the_owner_sees_a_job_and_ends_it",
        "test_a_limit_that_is_frozen_covers_itself",
    )
