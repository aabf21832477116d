"""The jobs that a client may see: its own, and only with scopes that cover them."""

from helios_core.model.jobs import Job
from helios_core.model.principals import Principal
from helios_core.storage.backends import Backends


async def visible_job(
    backends: Backends, principal: Principal | None, tenant: str, job_id: str
) -> Job:
    """
    Return a job whose status, manifest or files a client may see.

    Raises:
        JobNotFound: There is no such job, or it is another client's.
        Forbidden: The scopes of the token do not cover what the job exports.
    """
    job = await backends.job_store.get(tenant, job_id)
    if principal is not None:
        await backends.file_authorizer.authorize_job(principal, job)
    return job


async def endable_job(
    backends: Backends, principal: Principal | None, tenant: str, job_id: str
) -> Job:
    """
    Return a job that a client may end.

    Raises:
        JobNotFound: There is no such job, or it is another client's.
    """
    job = await backends.job_store.get(tenant, job_id)
    if principal is not None:
        await backends.file_authorizer.authorize_end(principal, job)
    return job
