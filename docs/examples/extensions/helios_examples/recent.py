"""A command: `helios recent` lists the exports that completed last."""

from pathlib import Path
from typing import Annotated

import click
import msgspec

from helios_core import API_LEVEL, CommandExtension, CommandHost, HeliosError, Job, hookimpl


class RecentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How many exports are listed, and of which tenant."""

    count: Annotated[
        int, msgspec.Meta(ge=1, le=100, description="Exports that `helios recent` lists")
    ] = 10
    tenant: Annotated[str, msgspec.Meta(extra={"setting": "HFS_DEFAULT_TENANT"})] = "default"


def make_command(host: CommandHost) -> click.Command:
    """Return the command; nothing is read or opened before it runs."""

    @click.command()
    @click.option("--tenant", help="Default: HFS_DEFAULT_TENANT.")
    @click.option("--to", type=click.Path(path_type=Path), help="File for the list.")
    def recent(tenant: str | None, to: Path | None) -> None:
        """List the exports that completed last."""
        settings = host.settings()
        jobs = host.run(read_recent(tenant or settings.tenant, settings.count))
        text = "".join(
            f"{job.id}  {job.request.level}  {job.completed_at:%Y-%m-%d %H:%M}\n" for job in jobs
        )
        if to is None:
            click.echo(text, nl=False)
            return
        try:
            to.write_text(text, encoding="utf-8")
        except OSError as error:
            raise HeliosError(f"{to} cannot be written: {error.strerror}") from error

    async def read_recent(tenant: str, count: int) -> list[Job]:
        async with host.open_backends() as backends:
            return await backends.job_store.recent(tenant, limit=count)

    return recent


@hookimpl
def helios_command() -> CommandExtension:
    """Offer `helios recent`."""
    return CommandExtension(api_level=API_LEVEL, settings=RecentSettings, command=make_command)
