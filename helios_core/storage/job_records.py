"""What job stores share: the stored form of a job, and the messages of errors."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any, TypeAlias

import msgspec
import structlog

from helios_core.errors import (
    BackendError,
    JobNotFound,
    LeaseLost,
    PartNotFound,
    TooManyExports,
    UnreadableJob,
)
from helios_core.model.exports import Shard
from helios_core.model.jobs import Job, JobKey, JobStatus, JobSummary, Lease
from helios_core.model.parts import Part, PartKind

log = structlog.stdlib.get_logger()

PART_KINDS = (PartKind.OUTPUT, PartKind.DELETED, PartKind.ERROR)
"""The order of kinds among the parts of a job; stores keep the index, so it never changes."""

MAX_TOKEN = 2**63 - 1
"""The largest fencing token that every store can keep; only damage brings a token there."""

_Token: TypeAlias = Annotated[int, msgspec.Meta(lt=MAX_TOKEN)]


def stored_job(
    accepted: bytes,
    *,
    status: str,
    created_at: datetime,
    completed_at: datetime | None,
    failure: str | None,
) -> Job:
    """
    Return a job from its JSON as it was accepted, and from what has changed since.

    Raises:
        UnreadableJob: The JSON or the status is not one that this version knows.
    """
    try:
        return msgspec.structs.replace(
            msgspec.json.decode(accepted, type=Job),
            status=JobStatus(status),
            created_at=created_at,
            completed_at=completed_at,
            failure=failure,
        )
    except (ValueError, TypeError, RecursionError) as error:  # decoding raises ValueErrors
        raise unreadable_job(error) from error


def stored_shard(planned: bytes, token: object) -> Shard:
    """
    Return a shard from its JSON, after checking that a claim can raise its token (J3).

    Raises:
        UnreadableJob: As in `stored_job`, or the token is not an integer below `MAX_TOKEN`.
    """
    try:
        msgspec.convert(token, _Token)
        return msgspec.json.decode(planned, type=Shard)
    except (ValueError, TypeError, RecursionError) as error:
        raise unreadable_job(error) from error


def stored_part(published: bytes) -> Part:
    """
    Return a published part from its JSON.

    Raises:
        UnreadableJob: As in `stored_job`.
    """
    try:
        return msgspec.json.decode(published, type=Part)
    except (ValueError, TypeError, RecursionError) as error:
        raise unreadable_job(error) from error


def unreadable_job(error: BaseException) -> UnreadableJob:
    """Return the error of a job whose stored form is damaged, or of a newer version."""
    return UnreadableJob(
        f"a stored export cannot be read ({type(error).__name__}): the row is damaged, or a newer "
        "version of Helios wrote it; it is left as it is"
    )


class SetAside:
    """
    The jobs of one store that this process cannot read (J15).

    They stay as they are: another process, perhaps of a newer version, may be able to read them.
    Each is logged once.
    """

    def __init__(self) -> None:
        self._keys = dict[int, JobKey]()

    @property
    def numbers(self) -> list[int]:
        """The numbers by which the store identifies these jobs."""
        return list(self._keys)

    @property
    def keys(self) -> list[JobKey]:
        """The keys of these jobs."""
        return list(self._keys.values())

    def add(self, number: int, key: JobKey, error: Exception) -> None:
        """Set a job aside because reading it, or working on it, raised `error`."""
        if number not in self._keys:
            known = isinstance(error, UnreadableJob)
            reason = error if known else unreadable_job(error.__cause__ or error)
            self._keys[number] = key
            log.error("job.set_aside", job_id=key.id, tenant=key.tenant, reason=str(reason))

    def summary(
        self,
        number: int,
        summary: JobSummary,
        accepted: bytes,
        shards: Iterable[Sequence[Any]] = (),
    ) -> JobSummary:
        """
        Return the summary of a stored job with the job itself, unless it cannot be read.

        `shards` are those that are still to be exported, each with its fencing token.
        """
        try:
            for shard, token in shards:
                stored_shard(shard, token)
            job = stored_job(
                accepted,
                status=summary.status,
                created_at=summary.created_at,
                completed_at=summary.completed_at,
                failure=summary.failure,
            )
        except UnreadableJob as error:
            self.add(number, summary.key, error)
            return summary
        return msgspec.structs.replace(summary, job=job)


def count_exported(parts: Iterable[Part]) -> int:
    """Return how many resources are in those of the parts that are output."""
    return sum(part.count for part in parts if part.key.kind is PartKind.OUTPUT)


def checked_parts(
    job_id: str, parts: list[Part], *, published: int, exported: int, lost_shards: int
) -> list[Part]:
    """
    Return the parts of a job if they are all of those that were published (J20).

    `published` is how many parts the completed shards of the job have published, `exported` how
    many resources, `lost_shards` how many of its shards are missing.

    Raises:
        BackendError: Parts or shards are missing.
    """
    if lost_shards:
        raise BackendError(f"export {job_id}: {lost_shards_reason(lost_shards)}")
    # A damaged database index may lead to the rows of another job.
    own = {part.key.name: part for part in parts if part.key.job_id == job_id}
    exact = len(own) == len(parts) == published
    if not exact or count_exported(parts) != exported:
        raise BackendError(
            f"parts of the export {job_id} are missing from the job store: {len(own)} of"
            f" {published} are left, with {count_exported(own.values())} of {exported} resources;"
            " start a new export"
        )
    return parts


def notes_lost(job_id: str) -> BackendError:
    """Return the error of a job that lacks notes of completed shards (J20)."""
    return BackendError(
        f"notes of the export {job_id} are missing from the job store; start a new export"
    )


def lost_shards_reason(count: int) -> str:
    """Return why a job with missing shards fails (J20)."""
    return f"{count} of its shards are missing from the job store; start a new export"


def give_up_reason(number: int, attempts: int, last_error: str | None) -> str:
    """Return why a job fails when a shard has used up its attempts (J9)."""
    error = last_error or "none of its workers reported back"
    return f"shard {number} was given up after {attempts} attempts: {error}"


def job_not_found(job_id: str) -> JobNotFound:
    """Return the error for a job that the tenant does not have, or no longer has."""
    return JobNotFound(f"there is no export {job_id}, or it was deleted; start a new one")


def part_not_found() -> PartNotFound:
    """Return the error for a file name that no published part of the job has."""
    return PartNotFound("This export has no file of that name; see its manifest.")


def too_many_exports(active: int, max_active: int) -> TooManyExports:
    """Return the error for a job that exceeds the tenant's limit of active jobs (J1)."""
    return TooManyExports(
        f"{active} exports are active and {max_active} are allowed; wait for one to finish, or"
        " delete one"
    )


def lease_lost(lease: Lease) -> LeaseLost:
    """Return the error for a lease that is no longer the newest one of its shard (J4)."""
    return LeaseLost(
        f"lease {lease.token} on shard {lease.shard.number} of export {lease.job.id} is lost:"
        " the shard was claimed again or handed back, or the job was ended; write nothing more"
        " under it"
    )
