"""The settings of PostgreSQL."""

from datetime import timedelta
from typing import Annotated

import msgspec
from msgspec import Meta

from helios_core import ConfigurationError, Secret

SCHEMES = frozenset({"postgres", "postgresql"})


class PostgresSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The address of the database, and the limits of connections and waits."""

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
            description="A streaming replica that exports are read from once it has replayed past"
            " their transaction time",
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
            description="The most connections of a process for resources, to the database and"
            " again to the replica",
        ),
    ] = 10
    job_pool_size: Annotated[
        int,
        Meta(
            ge=1,
            title="connections",
            description="The most connections of a process for jobs; one more listens for work",
        ),
    ] = 4
    connect_timeout: Annotated[
        timedelta,
        Meta(title="seconds", description="How long to wait for a new or free connection"),
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
            description="How long a kick-off waits for open write transactions before it is"
            " refused with 503",
        ),
    ] = timedelta(seconds=5)

    def __post_init__(self) -> None:
        """
        Check that the addresses are those of PostgreSQL.

        Raises:
            ConfigurationError: An address does not start with postgresql://.
        """
        _check_scheme("HFS_DATABASE_URL", self.database_url)
        if self.read_url is not None:
            _check_scheme("HFS_POSTGRES_READ_URL", self.read_url)

    @property
    def statement_timeout_ms(self) -> int:
        """The statement timeout in milliseconds, at least 1."""
        return max(1, self.statement_timeout // timedelta(milliseconds=1))


def _check_scheme(name: str, url: Secret) -> None:
    scheme, found, _ = url.reveal().partition("://")
    if not found:
        raise ConfigurationError(
            f"{name} is not an address; set it to one like"
            " postgresql://user:password@host:5432/database"
        )
    if scheme not in SCHEMES:
        raise ConfigurationError(
            f"{name} starts with {scheme}://, which plugin postgres cannot use; set it to an"
            " address like postgresql://user:password@host:5432/database, or select the plugin"
            " of that database"
        )
