"""Who may export what, and see which export: the contract of an authorizer, and the core's own."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import ParamSpec

import msgspec

from helios_core.errors import BackendError, Forbidden
from helios_core.model.exports import Level
from helios_core.model.jobs import Job
from helios_core.model.principals import Principal
from helios_core.model.scopes import EVERYTHING, EXPORT_LETTERS, NAMES, Grant, scopes_of
from helios_core.storage.isolation import contained, decide_within
from helios_core.storage.job_records import job_not_found

P = ParamSpec("P")


class ExportIntent(msgspec.Struct, frozen=True, kw_only=True):
    """What a client wants to export, before anything has been looked up."""

    tenant: str
    level: Level
    group_id: str | None = None
    """The id in the URL at group level, whether or not there is such a Group."""


class FileAuthorizer(ABC):
    """
    Decides about exports: who may start which, and who may see them.

    A1  Authorisation comes before any existence probe: the response is the same whether or not
        the named resources exist.
    A2  A job belongs to the client that started it, by issuer and client id; to all others it is
        not found.
    A3  An export has only the types for which `grant` returns a grant that is not empty. The
        grants are stored in the job, and later ones do not change it.
    A4  The same rules hold before every poll, every download and every signing of a URL, by the
        token that is presented then.
    A5  A client that `groups` limits exports these Groups and has no other interaction, over REST
        or with routes of plugins: nobody can tell of a resource whether it is a Group's.
    """

    def groups(self, principal: Principal) -> frozenset[str] | None:
        """
        Return the ids of the Groups that a client is limited to, None if it is not (A5).

        The limit of its token holds in any case. It is asked of every request, and does not block.
        """
        return principal.groups

    @abstractmethod
    async def authorize_export(self, principal: Principal, intent: ExportIntent) -> None:
        """
        Return if a client may start an export at all (A1).

        Raises:
            Forbidden: It may not; the message does not say whether anything exists.
        """

    @abstractmethod
    def grant(self, principal: Principal, resource_type: str) -> Grant:
        """Return which resources of a type a client may export (A3); it does not block."""

    @abstractmethod
    async def authorize_job(self, principal: Principal, job: Job) -> None:
        """
        Return if a client may see a job and its files (A2, A4).

        Raises:
            JobNotFound: The job is not the client's.
            Forbidden: It is, but what it exports is not covered by what the token allows.
        """

    @abstractmethod
    async def authorize_end(self, principal: Principal, job: Job) -> None:
        """
        Return if a client may end a job, which reveals nothing about it (A2).

        Raises:
            JobNotFound: The job is not the client's.
        """


class ScopeAuthorizer(FileAuthorizer):
    """The core's own rule: scopes and groups of the token, and the owner of the job."""

    async def authorize_export(self, principal: Principal, intent: ExportIntent) -> None:
        """
        Require, at group level, that the client may read the Group.

        A client that is limited to some groups may export nothing but one of these.

        Raises:
            Forbidden: The client may not.
        """
        _require_group(self.groups(principal), intent.level, intent.group_id)
        if intent.level is Level.GROUP:
            require_letters(principal, "Group", "r")

    def grant(self, principal: Principal, resource_type: str) -> Grant:
        """Return which resources of a type the client may both read and search."""
        return scopes_of(principal.scopes).grant(resource_type, EXPORT_LETTERS)

    async def authorize_job(self, principal: Principal, job: Job) -> None:
        """
        Require the owner, and scopes that cover what the job exports.

        Raises:
            JobNotFound: The job is somebody else's.
            Forbidden: The token allows less than what the job exports.
        """
        await self.authorize_end(principal, job)
        _require_group(self.groups(principal), job.request.level, job.request.group_id)
        exported = job.request.grants()
        for resource_type in job.request.output_types:
            granted = self.grant(principal, resource_type)
            if not granted.covers(exported.get(resource_type, EVERYTHING)):
                raise Forbidden(
                    f"The export has {resource_type}, which the scopes of the access token do not "
                    "cover; request a token with the scopes that the export was started with."
                )

    async def authorize_end(self, principal: Principal, job: Job) -> None:
        """
        Require the owner.

        Raises:
            JobNotFound: The job is somebody else's.
        """
        if job.owner != principal.owner:
            raise job_not_found(job.id)


class ContainedAuthorizer(FileAuthorizer):
    """An authorizer whose faults become BackendErrors, so that a broken one allows nothing."""

    def __init__(self, authorizer: FileAuthorizer, *, time_limit: timedelta) -> None:
        self._authorizer = authorizer
        self._time_limit = time_limit

    def groups(self, principal: Principal) -> frozenset[str] | None:
        """
        Call the authorizer, which cannot lift the limit of the token.

        Raises:
            BackendError: It fails.
        """
        with contained():
            limit: object = self._authorizer.groups(principal)
        if limit is None:
            return principal.groups
        if not isinstance(limit, frozenset):
            raise BackendError(f"the file authorizer limits to groups by {type(limit).__name__}")
        return limit if principal.groups is None else limit & principal.groups

    async def authorize_export(self, principal: Principal, intent: ExportIntent) -> None:
        """
        Check the limit to groups (A5), then call the authorizer.

        Raises:
            Forbidden: The authorizer raised it.
            BackendError: The authorizer failed, or took longer than its time limit.
        """
        _require_group(self.groups(principal), intent.level, intent.group_id)
        await self._authorize(self._authorizer.authorize_export, principal, intent)

    def grant(self, principal: Principal, resource_type: str) -> Grant:
        """
        Call the authorizer.

        Raises:
            BackendError: The authorizer failed.
        """
        with contained():
            granted: object = self._authorizer.grant(principal, resource_type)
        if not isinstance(granted, Grant):
            raise BackendError(
                f"the file authorizer returned {type(granted).__name__}, which is not a Grant"
            )
        return granted

    async def authorize_job(self, principal: Principal, job: Job) -> None:
        """
        Call the authorizer.

        Raises:
            JobNotFound: The authorizer raised it.
            Forbidden: The authorizer raised it.
            BackendError: The authorizer failed, or took longer than its time limit.
        """
        await self._authorize(self._authorizer.authorize_job, principal, job)
        _require_group(self.groups(principal), job.request.level, job.request.group_id)

    async def authorize_end(self, principal: Principal, job: Job) -> None:
        """
        Call the authorizer.

        Raises:
            JobNotFound: The authorizer raised it.
            BackendError: The authorizer failed, or took longer than its time limit.
        """
        await self._authorize(self._authorizer.authorize_end, principal, job)

    async def _authorize(
        self, function: Callable[P, Awaitable[object]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        decision = await decide_within(
            "file authorizer", self._time_limit, Forbidden, function, *args, **kwargs
        )
        if decision is not None:
            returned = type(decision).__name__
            raise BackendError(
                f"the file authorizer returned {returned}; to refuse, it has to raise Forbidden"
            )


def _require_group(groups: frozenset[str] | None, level: Level, group_id: str | None) -> None:
    """Raise Forbidden unless a client that is limited to some groups exports one of them."""
    if groups is None or (level is Level.GROUP and group_id in groups):
        return
    raise Forbidden(
        "The client may export certain groups only, and this is not an export of one of them; "
        "name one of them in Group/[id]/$export."
    )


def require_letters(principal: Principal, resource_type: str, letters: str) -> None:
    """
    Raise unless the scopes of a token grant each of the letters for some of a type.

    Raises:
        Forbidden: A letter is missing; the message says which.
    """
    if missing := scopes_of(principal.scopes).missing(resource_type, letters):
        raise Forbidden(lacking(resource_type, missing))


def lacking(resource_type: str, missing: str) -> str:
    """Return the message about the letters that scopes lack for a type."""
    names = " and ".join(NAMES[letter] for letter in missing)
    return (
        f"The scopes of the access token lack {names} on {resource_type}; request a token with "
        f"system/{resource_type}.{missing}."
    )
