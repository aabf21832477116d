"""What servers say of themselves, and why an address may lead to none that can be used."""

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
    The last answer of each server to `hello`.

    The driver forgets servers that are not of the replica set which the address names, and reports
    them like servers that are down.
    """

    def __init__(self) -> None:
        self._heard: dict[tuple[str, int | None], Hello] = {}
        self._failure = ""

    def started(self, event: ServerHeartbeatStartedEvent) -> None:
        """Do nothing: only answers count."""

    def succeeded(self, event: ServerHeartbeatSucceededEvent) -> None:
        """Keep the answer."""
        self._heard[event.connection_id] = event.reply.document

    def failed(self, event: ServerHeartbeatFailedEvent) -> None:
        """Keep why there was no answer, as the driver words it: with host, port and OS error."""
        self._heard.pop(event.connection_id, None)
        self._failure = str(event.reply).partition(" (configured timeouts")[0]

    def explain(self, replica_set: str | None) -> None:
        """
        Name the reason why none of the servers can be used, if it is known.

        `replica_set` is the name in the address, None if there is none.

        Raises:
            ConfigurationError: A server is of no replica set, or of another one than is named.
            BackendUnavailable: The members have names that cannot be reached, or do not answer.
        """
        for hello in self._heard.values():
            check_transactions(hello)
            name = hello.get("setName")
            if replica_set and name != replica_set:
                found = "a mongos; leave replicaSet out"
                if name:
                    found = f"of the replica set {name}; name that one"
                raise ConfigurationError(
                    f"the address of MongoDB says replicaSet={replica_set}, and the server there"
                    f" is {found}"
                )
        names = {each for hello in self._heard.values() for each in hello.get("hosts", ())}
        if names and not names & {f"{host}:{port}" for host, port in self._heard}:
            raise BackendUnavailable(
                "a member of the replica set of MongoDB answered, and none can be reached by the"
                f" names in its configuration: {', '.join(sorted(names))}; start the members,"
                " make the names known here, or change them with rs.reconfig(); for a single"
                " member, directConnection=true instead of replicaSet ignores its name"
            )
        if self._failure:
            raise BackendUnavailable(
                f"MongoDB did not answer ({self._failure}): it is down, or cannot be reached by"
                " this address; try again later"
            )


def check_transactions(hello: Hello) -> None:
    """
    Refuse a server without transactions.

    Raises:
        ConfigurationError: It is of no replica set; the message has the commands for one.
    """
    if "setName" in hello or hello.get("msg") == "isdbgrid":
        return
    if hello.get("isreplicaset"):
        raise ConfigurationError(
            "the server at the address of MongoDB is to be a member of a replica set that has not"
            f" been initiated; run once: {_INITIATE}"
        )
    raise ConfigurationError(
        "the server at the address of MongoDB is a standalone server, and only a replica set has"
        " transactions; make it one of a single member: start it again with mongod --replSet"
        f" rs0, and run once: {_INITIATE}"
    )
