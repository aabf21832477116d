"""What an operator can set about Elasticsearch."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from helios_core import ConfigurationError, Secret

EXAMPLE = "https://es1.example.org:9200,https://es2.example.org:9200"


class ElasticsearchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster, the credentials, and how indices are named and created."""

    nodes: Annotated[
        tuple[str, ...],
        Meta(
            description="Nodes of one cluster, which get requests in turn; a node that does not"
            " respond is skipped for a while.",
            extra={
                "allowed": "http or https addresses without credentials and paths, joined by"
                " commas"
            },
        ),
    ]
    api_key: Annotated[
        Secret | None,
        Meta(
            description="API key, in the encoded form in which Elasticsearch shows it.",
            extra={"default": "no API key"},
        ),
    ] = None
    username: Annotated[
        str | None,
        Meta(
            description="User, if there is no API key.",
            extra={"default": "no authentication"},
        ),
    ] = None
    password: Annotated[
        Secret | None, Meta(description="The password that belongs to the user.")
    ] = None
    ca_file: Annotated[
        Path | None,
        Meta(
            description="PEM file of the authorities that the nodes' certificates are checked"
            " with.",
            extra={"default": "the authorities of certifi"},
        ),
    ] = None
    prefix: Annotated[
        str,
        Meta(
            pattern="^[a-z][a-z0-9-]{0,60}$",
            description="Beginning of the names of all indices; several servers may share a"
            " cluster under different prefixes.",
            extra={"allowed": "1 to 61 lower-case letters, digits and '-'"},
        ),
    ] = "helios"
    shards: Annotated[
        int,
        Meta(
            ge=1,
            le=1024,
            title="shards",
            description="Primary shards of a new index; one is enough for a hundred million"
            " resources.",
        ),
    ] = 1
    timeout: Annotated[
        timedelta,
        Meta(title="seconds", description="How long one response may take."),
    ] = timedelta(seconds=30)

    def __post_init__(self) -> None:
        """
        Check that addresses and credentials make sense.

        Raises:
            ConfigurationError: A node is not an address, there are two kinds of credentials, or a
                user without a password or a password without a user.
        """
        if not self.nodes or not all(map(_is_address, self.nodes)):
            raise ConfigurationError(
                "HFS_ELASTICSEARCH_NODES must be http or https addresses without user, password,"
                f" path and query, joined by commas, such as {EXAMPLE}"
            )
        if self.api_key is not None and self.username is not None:
            raise ConfigurationError(
                "HFS_ELASTICSEARCH_API_KEY and HFS_ELASTICSEARCH_USERNAME are both set; remove one"
            )
        if (self.username is None) != (self.password is None):
            raise ConfigurationError(
                "HFS_ELASTICSEARCH_USERNAME and HFS_ELASTICSEARCH_PASSWORD belong together; set"
                " both or none"
            )


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    plain = not (parts.username or parts.password or parts.path.strip("/") or parts.query)
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and plain
