"""The settings of MongoDB."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from helios_core import ConfigurationError, Secret

SCHEMES = ("mongodb", "mongodb+srv")


class ReadFrom(StrEnum):
    """The members of the replica set that exports are read from."""

    PRIMARY = "primary"
    PRIMARY_PREFERRED = "primaryPreferred"
    SECONDARY = "secondary"
    SECONDARY_PREFERRED = "secondaryPreferred"
    NEAREST = "nearest"


class MongoSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The address of the database, and the limits of connections and waits."""

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
            description="Members that exports are read from, once they have reached the"
            " transaction time; everything else is read from the primary",
        ),
    ] = ReadFrom.PRIMARY
    pool_size: Annotated[
        int,
        Meta(
            ge=1,
            title="connections",
            description="The most connections of a process to each member, for resources and"
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
            description="How long one response may take, and how long a write is repeated that"
            " conflicts with another one or whose response was lost",
        ),
    ] = timedelta(seconds=30)

    def __post_init__(self) -> None:
        """
        Check that the address is one of MongoDB.

        Raises:
            ConfigurationError: The address does not start with mongodb:// or mongodb+srv://.
        """
        scheme, found, _ = self.database_url.reveal().partition("://")
        if not found:
            raise ConfigurationError(
                "HFS_DATABASE_URL is not an address; set it to one like"
                " mongodb://user:password@host:27017/?replicaSet=rs0"
            )
        if scheme not in SCHEMES:
            raise ConfigurationError(
                f"HFS_DATABASE_URL starts with {scheme}://, which plugin mongodb cannot use;"
                " set it to an address like mongodb://user:password@host:27017/?replicaSet=rs0, or"
                " select the plugin of that database"
            )
