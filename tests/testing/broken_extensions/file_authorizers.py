"""File authorizers that are wrong on purpose."""

import pytest

from helios_core import (
    API_LEVEL,
    FileAuthorizerExtension,
    Forbidden,
    JobNotFound,
    ResourceKey,
    scopes_of,
)
from tests.testing import extensions
from tests.testing.extensions import OneGroup, opening


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
