"""What an operator can set about MongoDB."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from helios_core import ConfigurationError, Secret

SCHEMES = ("mongodb", "mongodb+srv")


class ReadFrom(StrEnum):
    """Which members of the replica set serve the reads of exports."""

    PRIMARY = "primary"
    PRIMARY_PREFERRED = "primaryPreferred"
    SECONDARY = "secondary"
    SECONDARY_PREFERRED = "secondaryPreferred"
    NEAREST = "nearest"


class MongoSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which database, how many connections to it, and how long to wait for what."""

    database_url: Annotated[
        Secret,
        Meta(
            title="mongodb://user@host:port/?replicaSet=name",
            description="Replica set or sharded cluster of resources and jobs; the options of"
            " MongoDB's connection strings may follow",
            extra={
                "setting": "HFS_DATABASE_URL",
                "allowed": "an address like mongodb://user:password@host:27017/?replicaSet=rs0",
            },
        ),
    ]
    database: Annotated[
        str,
        Meta(
            pattern="^[A-Za-z0-9_-]{1,60}$",
            description="Database that holds every collection of the server; several servers may"
            " share a replica set under different databases",
            extra={"allowed": "1 to 60 letters, digits, '_' and '-'"},
        ),
    ] = "helios"
    read_preference: Annotated[
        ReadFrom,
        Meta(
            description="Which members serve the reads of exports, once they have reached the"
            " transaction time; everything else is read from the primary",
        ),
    ] = ReadFrom.PRIMARY
    pool_size: Annotated[
        int,
        Meta(
            ge=1,
            title="connections",
            description="Connections a process opens at most to each member, for resources and"
            " again for jobs",
        ),
    ] = 20
    connect_timeout: Annotated[
        timedelta,
        Meta(
            title="seconds",
            description="How long to wait for a connection, or for a member that can be used",
        ),
    ] = timedelta(seconds=10)
    timeout: Annotated[
        timedelta,
        Meta(
            title="seconds",
            description="How long one answer may take, and how long a write is tried again that"
            " met another one or lost its answer",
        ),
    ] = timedelta(seconds=30)

    def __post_init__(self) -> None:
        """
        Refuse the address of another database.

        Raises:
            ConfigurationError: The address does not start with mongodb:// or mongodb+srv://.
        """
        scheme, found, _ = self.database_url.reveal().partition("://")
        if not found:
            raise ConfigurationError(
                "HFS_DATABASE_URL is not an address; MongoDB needs one like"
                " mongodb://user:password@host:27017/?replicaSet=rs0"
            )
        if scheme not in SCHEMES:
            raise ConfigurationError(
                f"HFS_DATABASE_URL starts with {scheme}://, which plugin mongodb cannot use;"
                " give mongodb://user:password@host:27017/?replicaSet=rs0, or select the plugin"
                " of that database"
            )
