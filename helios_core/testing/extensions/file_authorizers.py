"""The contract suite of authorizers of exports: clauses A1 to A5 of `FileAuthorizer`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from helios_core import (
    Backends,
    ExportIntent,
    FileAuthorizer,
    FileAuthorizerExtension,
    Forbidden,
    Grant,
    Job,
    JobNotFound,
    Level,
    Principal,
    TypeConstraint,
)
from helios_core.config.extensions import SelectedExtension, open_file_authorizer
from helios_core.memory import MemoryDataProvider
from helios_core.storage.file_authorizer import ContainedAuthorizer
from helios_core.storage.job_records import job_not_found
from helios_core.testing import corpus
from helios_core.testing.extensions.contract import ExtensionSuite

TYPES = ("Patient", "Observation")


class FileAuthorizerSuite(ExtensionSuite):
    """
    Tests that every authorizer of exports passes.

    A subclass implements the fixture `extension` and its `settings`. It may override the client,
    and the exports that its rule allows and refuses.
    """

    hook = "helios_file_authorizer"

    def principal(self, *scopes: str) -> Principal:
        """Return the client of the tests with these scopes."""
        return Principal(
            issuer="https://issuer.example",
            subject="client",
            client_id="client",
            scopes=scopes,
            expires_at=datetime.now(UTC) + timedelta(hours=1),
        )

    def allowed(self) -> Sequence[ExportIntent]:
        """Return exports that the client may start with all scopes."""
        return [ExportIntent(tenant=corpus.TENANT, level=Level.SYSTEM)]

    def refused(self) -> Sequence[ExportIntent]:
        """Return exports that the client may not start, whatever its scopes; possibly none."""
        return []

    @pytest.fixture
    def untouchable(self, backends: Backends) -> Backends:
        """Return backends whose data provider fails a test that uses it."""
        return replace(backends, data_provider=_Untouchable())

    @pytest.fixture
    async def subject(
        self,
        extension: FileAuthorizerExtension,
        selected: SelectedExtension,
        untouchable: Backends,
    ) -> AsyncIterator[FileAuthorizer]:
        """Open the authorizer, wrapped as in a server."""
        async with extension.open(selected.settings, untouchable) as authorizer:
            yield ContainedAuthorizer(authorizer, time_limit=extension.time_limit)

    async def test_the_server_takes_the_authorizer(
        self, selected: SelectedExtension, backends: Backends, stack: AsyncExitStack
    ) -> None:
        """It opens, and is a FileAuthorizer."""
        assert isinstance(await open_file_authorizer(stack, [selected], backends), FileAuthorizer)

    async def test_exports_are_allowed_and_refused_without_a_look_at_the_data(
        self, subject: FileAuthorizer
    ) -> None:
        """A1: the response does not reveal whether a Group exists."""
        principal = self.principal("system/*.cruds")
        for intent in self.allowed():
            await subject.authorize_export(principal, intent)
        for intent in self.refused():
            with pytest.raises(Forbidden):
                await subject.authorize_export(principal, intent)

    @pytest.mark.parametrize("differs", ["client_id", "issuer"])
    async def test_the_job_of_another_client_is_not_found(
        self, subject: FileAuthorizer, differs: str
    ) -> None:
        """A2: with the message for a job that never existed, for its files and for its end."""
        owner = self.principal("system/*.cruds")
        job = self._job(owner)
        other = replace(owner, **{differs: "another"})
        for check in (subject.authorize_job, subject.authorize_end):
            with pytest.raises(JobNotFound) as refusal:
                await check(other, job)
            assert str(refusal.value) == str(job_not_found(job.id))

    async def test_a_job_without_owner_belongs_to_nobody(self, subject: FileAuthorizer) -> None:
        """A2: it was started when everybody could see it."""
        principal = self.principal("system/*.cruds")
        job = replace(self._job(principal), owner=None)
        for check in (subject.authorize_job, subject.authorize_end):
            with pytest.raises(JobNotFound):
                await check(principal, job)

    async def test_the_owner_sees_a_job_and_ends_it(self, subject: FileAuthorizer) -> None:
        """A2: with another token, which may be of another subject of the same client."""
        principal = self.principal("system/*.cruds")
        job = self._job(principal)
        for check in (subject.authorize_job, subject.authorize_end):
            await check(replace(principal, subject="renewed"), job)

    def test_without_scopes_nothing_is_exported(self, subject: FileAuthorizer) -> None:
        """A3: and scopes of users or patients, or one of read and search alone, grant nothing."""
        for scopes in ((), ("user/*.cruds", "patient/*.cruds"), ("system/*.r",), ("system/*.s",)):
            for name in TYPES:
                assert subject.grant(self.principal(*scopes), name).is_nothing, (scopes, name)

    def test_scopes_decide_by_type(self, subject: FileAuthorizer) -> None:
        """A3: a grant for one type grants nothing of another."""
        principal = self.principal("system/Patient.rs")

        assert not subject.grant(principal, "Patient").is_nothing
        assert subject.grant(principal, "Observation").is_nothing

    async def test_the_token_of_every_request_has_to_cover_the_job(
        self, subject: FileAuthorizer
    ) -> None:
        """A4: a token of the same client with fewer scopes does not suffice."""
        job = self._job(self.principal("system/*.cruds"))
        for scopes in ((), ("system/Patient.rs",), ("system/*.rs?status=final",)):
            with pytest.raises(Forbidden):
                await subject.authorize_job(self.principal(*scopes), job)

    async def test_a_limit_that_is_frozen_covers_itself(self, subject: FileAuthorizer) -> None:
        """A4: and no other limit."""
        principal = self.principal("system/*.rs?_id=a")
        granted = subject.grant(principal, "Patient")
        job = self._job(principal, granted=granted)

        await subject.authorize_job(principal, job)
        with pytest.raises(Forbidden):
            await subject.authorize_job(self.principal("system/*.rs?_id=b"), job)

    def test_a_limit_to_groups_is_a_set_of_what_may_be_exported(
        self, subject: FileAuthorizer
    ) -> None:
        """A5: the server takes anything else for a fault."""
        limit = subject.groups(self.principal("system/*.cruds"))

        assert limit is None or {each.group_id for each in self.allowed()} <= limit

    def _job(self, owner: Principal, *, granted: Grant | None = None) -> Job:
        job = corpus.job("job")
        intent = self.allowed()[0]
        limited = tuple(
            TypeConstraint(resource_type="Patient", any_of=clause)
            for clause in (granted.clauses if granted else ())
        )
        request = replace(
            job.request,
            tenant=intent.tenant,
            level=intent.level,
            group_id=intent.group_id,
            types=("Patient",) if limited else TYPES,
            constraints=limited,
        )
        return replace(job, owner=owner.owner, request=request)


class _Untouchable(MemoryDataProvider):
    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401  every attribute
        raise AssertionError(f"the authorizer looks at the data: {name}")
