"""Responses of servers to `hello`, which explain why none of them can be used."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from pymongo.monitoring import (
    ServerHeartbeatFailedEvent,
    ServerHeartbeatListener,
    ServerHeartbeatStartedEvent,
    ServerHeartbeatSucceededEvent,
)

from helios_core import BackendUnavailable, ConfigurationError

Hello: TypeAlias = Mapping[str, Any]

_INITIATE = "mongosh --eval 'rs.initiate()'"


class Introductions(ServerHeartbeatListener):
    """
    The last response of each server to `hello`.

    The driver drops servers that do not belong to the replica set of the address, and reports
    them as if they were down.
    """

    def __init__(self) -> None:
        self._responses: dict[tuple[str, int | None], Hello] = {}
        self._failure = ""

    def started(self, event: ServerHeartbeatStartedEvent) -> None:
        """Do nothing: only responses count."""

    def succeeded(self, event: ServerHeartbeatSucceededEvent) -> None:
        """Keep the response."""
        self._responses[event.connection_id] = event.reply.document

    def failed(self, event: ServerHeartbeatFailedEvent) -> None:
        """Keep the driver's description of the failure, which has host, port and OS error."""
        self._responses.pop(event.connection_id, None)
        self._failure = str(event.reply).partition(" (configured timeouts")[0]

    def explain(self, replica_set: str | None) -> None:
        """
        Raise an error with the reason why no server can be used, if it is known.

        `replica_set` is the name in the address, None if it has none.

        Raises:
            ConfigurationError: A server belongs to no replica set or to another one.
            BackendUnavailable: The members' names cannot be reached, or they do not respond.
        """
        for hello in self._responses.values():
            check_transactions(hello)
            name = hello.get("setName")
            if replica_set and name != replica_set:
                kind = "a mongos; leave replicaSet out"
                if name:
                    kind = f"a member of the replica set {name}; set that name"
                raise ConfigurationError(
                    f"the address of MongoDB has replicaSet={replica_set}, but the server there"
                    f" is {kind}"
                )
        names = {host for hello in self._responses.values() for host in hello.get("hosts", ())}
        if names and not names & {f"{host}:{port}" for host, port in self._responses}:
            raise BackendUnavailable(
                "a member of MongoDB's replica set responded, but no member can be reached by the"
                f" names in the set's configuration: {', '.join(sorted(names))}; start the"
                " members, make the names resolvable here, or change them with rs.reconfig(); for"
                " a single member, use directConnection=true instead of replicaSet"
            )
        if self._failure:
            raise BackendUnavailable(
                f"MongoDB did not respond ({self._failure}): it is down, or cannot be reached at"
                " this address; try again later"
            )


def check_transactions(hello: Hello) -> None:
    """
    Check that a server has transactions.

    Raises:
        ConfigurationError: It belongs to no replica set; the message has the commands for one.
    """
    if "setName" in hello or hello.get("msg") == "isdbgrid":
        return
    if hello.get("isreplicaset"):
        raise ConfigurationError(
            "the server at the address of MongoDB belongs to a replica set that was not initiated;"
            f" run once: {_INITIATE}"
        )
    raise ConfigurationError(
        "the server at the address of MongoDB is standalone, but only a replica set has"
        " transactions; make it a replica set of one member: restart it with mongod --replSet"
        f" rs0, and run once: {_INITIATE}"
    )
