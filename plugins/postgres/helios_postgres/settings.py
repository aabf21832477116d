"""What an operator can set about PostgreSQL."""

from datetime import timedelta
from typing import Annotated

import msgspec
from msgspec import Meta

from helios_core import ConfigurationError, Secret

SCHEMES = frozenset({"postgres", "postgresql"})


class PostgresSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which database, how many connections to it, and how long to wait for what."""

    database_url: Annotated[
        Secret,
        Meta(
            title="postgresql://user@host:port/database",
            description="Database of resources and jobs, in libpq's form; ?sslmode= and the other"
            " parameters of libpq may follow",
            extra={
                "setting": "HFS_DATABASE_URL",
                "allowed": "an address like postgresql://user:password@host:5432/database",
            },
        ),
    ]
    read_url: Annotated[
        Secret | None,
        Meta(
            title="postgresql://user@host:port/database",
            description="A streaming replica that serves the reads of exports once it has"
            " replayed past their transaction time",
            extra={"default": "reads go to HFS_DATABASE_URL"},
        ),
    ] = None
    schema: Annotated[
        str,
        Meta(
            pattern="^[a-z_][a-z0-9_]{0,39}$",
            description="Schema that holds every table of the server; several servers may share a"
            " database under different schemas",
            extra={
                "allowed": "1 to 40 lower-case letters, digits and '_', not beginning with a digit"
            },
        ),
    ] = "helios"
    pool_size: Annotated[
        int,
        Meta(
            ge=1,
            title="connections",
            description="Connections a process opens at most for resources, to the database and"
            " to the replica alike",
        ),
    ] = 10
    job_pool_size: Annotated[
        int,
        Meta(
            ge=1,
            title="connections",
            description="Connections a process opens at most for jobs; one more listens for work",
        ),
    ] = 4
    connect_timeout: Annotated[
        timedelta,
        Meta(title="seconds", description="How long to wait for a connection, new or free"),
    ] = timedelta(seconds=10)
    statement_timeout: Annotated[
        timedelta,
        Meta(
            title="seconds",
            description="How long one statement of a request may take; the reads of an export"
            " and the writes of a load have no limit",
        ),
    ] = timedelta(seconds=30)
    settle_timeout: Annotated[
        timedelta,
        Meta(
            title="seconds",
            description="How long a kick-off waits for the writes under way to end before it is"
            " refused with 503",
        ),
    ] = timedelta(seconds=5)

    def __post_init__(self) -> None:
        """
        Refuse the address of another database.

        Raises:
            ConfigurationError: An address does not start with postgresql://.
        """
        _refuse_others("HFS_DATABASE_URL", self.database_url)
        if self.read_url is not None:
            _refuse_others("HFS_POSTGRES_READ_URL", self.read_url)

    @property
    def statement_timeout_ms(self) -> int:
        """The statement time-out as PostgreSQL counts it."""
        return max(1, self.statement_timeout // timedelta(milliseconds=1))


def _refuse_others(name: str, url: Secret) -> None:
    scheme, found, _ = url.reveal().partition("://")
    if not found:
        raise ConfigurationError(
            f"{name} is not an address; PostgreSQL needs one like"
            " postgresql://user:password@host:5432/database"
        )
    if scheme not in SCHEMES:
        raise ConfigurationError(
            f"{name} starts with {scheme}://, which plugin postgres cannot use; give"
            " postgresql://user:password@host:5432/database, or select the plugin of that"
            " database"
        )
