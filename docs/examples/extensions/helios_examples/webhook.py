"""An observer: every export that is complete or in error is posted to a web address."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
import msgspec

from helios_core import (
    API_LEVEL,
    Backends,
    BackendUnavailable,
    Job,
    JobStatus,
    Observer,
    ObserverExtension,
    Secret,
    hookimpl,
)


class WebhookSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where exports are announced."""

    url: Annotated[str, msgspec.Meta(description="Address to which every ended export is posted")]
    token: Annotated[Secret | None, msgspec.Meta(description="Sent as a bearer token")] = None


@asynccontextmanager
async def open_observer(settings: WebhookSettings, _backends: Backends) -> AsyncIterator[Observer]:
    """Yield the observer; its connections are kept for as long as the process runs."""
    token = settings.token
    headers = {"Authorization": f"Bearer {token.reveal()}"} if token else {}
    async with httpx.AsyncClient(headers=headers, timeout=10) as client:

        async def announce(job: Job) -> None:
            if job.status not in (JobStatus.COMPLETE, JobStatus.ERROR):
                return
            try:
                response = await client.post(
                    settings.url, json={"export": job.id, "status": job.status}
                )
                response.raise_for_status()
            except httpx.HTTPError as error:
                reason = f"the webhook does not take exports ({type(error).__name__})"
                raise BackendUnavailable(reason) from error

        yield announce


@hookimpl
def helios_observer() -> ObserverExtension:
    """Offer to announce exports."""
    return ObserverExtension(api_level=API_LEVEL, settings=WebhookSettings, open=open_observer)
