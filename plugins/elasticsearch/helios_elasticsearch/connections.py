"""The client of a cluster, which never logs the content of requests and responses."""

import logging
from http import HTTPStatus
from io import BytesIO
from typing import Any, cast

import elastic_transport
import msgspec
from elastic_transport import (
    AiohttpHttpNode,
    ApiError,
    HttpHeaders,
    JsonSerializer,
    SerializationError,
)
from elastic_transport._node import NodeApiResponse
from elastic_transport.client_utils import DEFAULT, DefaultType
from elasticsearch import AsyncElasticsearch, UnsupportedProductError

from helios_core import BackendUnavailable, ConfigurationError
from helios_elasticsearch.errors import BLOCKED, kind_of, translated
from helios_elasticsearch.mappings import aliases, all_aliases
from helios_elasticsearch.settings import ElasticsearchSettings

_JSON = ("application/json", "application/vnd.elasticsearch+json")
_REFUSED = (401, 403)
_OPENING_SECONDS = 5


class _Node(AiohttpHttpNode):
    """A node whose requests are not logged, and which does not reconnect after `close`."""

    _closed = False

    async def perform_request(  # type: ignore[override]  # asynchronous, as the class above
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: HttpHeaders | None = None,
        request_timeout: DefaultType | float | None = DEFAULT,
    ) -> NodeApiResponse:
        """
        Send a request, and drop the warnings in its response.

        Raises:
            ConnectionError: The client was closed.
            UnsupportedProductError: A response below status 500 is not JSON, so that the server
                        is not Elasticsearch. (A proxy whose server is down responds with 5xx.)
        """
        if self._closed:
            # The class above would open a session that nobody closes.
            raise elastic_transport.ConnectionError("the client is closed")
        # aiohttp writes bytes at once, and warns if there are many; it reads a file in chunks.
        sent = cast("bytes", BytesIO(body)) if body else None
        response = await super().perform_request(method, target, sent, headers, request_timeout)
        # The client would print them on standard error, for example that security is off.
        response.meta.headers.pop("warning", None)
        meta = response.meta
        is_down = meta.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if response.body and meta.mimetype not in _JSON and not is_down:
            raise UnsupportedProductError("not JSON", meta=meta, body=None)
        return response

    async def close(self) -> None:  # type: ignore[override]  # asynchronous, as above
        """Close all connections; later requests fail."""
        self._closed = True
        await super().close()

    def _log_request(self, *_arguments: object, **_options: object) -> None:
        """Log nothing: bodies contain ids and hashes of values."""


class _Serializer(JsonSerializer):
    """JSON as the rest of the server reads and writes it, by msgspec."""

    def dumps(self, data: Any) -> bytes:  # noqa: ANN401 - whatever the client sends
        return data if isinstance(data, bytes) else msgspec.json.encode(data)

    def loads(self, data: bytes) -> Any:  # noqa: ANN401 - whatever the server sends
        try:
            return msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            raise SerializationError("not JSON", errors=(error,)) from error


def make_client(settings: ElasticsearchSettings) -> AsyncElasticsearch:
    """
    Return a client, which connects with its first request.

    Raises:
        ConfigurationError: An address or the CA file cannot be used.
    """
    # Its log lines contain URLs of requests and error texts of servers and proxies. A request
    # that fails on all nodes raises; one that succeeds on another node needs no log line.
    logging.getLogger("elastic_transport").setLevel(logging.CRITICAL)
    options: dict[str, Any] = {}
    if settings.api_key is not None:
        options["api_key"] = settings.api_key.reveal()
    if settings.username is not None and settings.password is not None:
        options["basic_auth"] = (settings.username, settings.password.reveal())
    if settings.ca_file is not None:
        options["ca_certs"] = str(settings.ca_file)
    try:
        return AsyncElasticsearch(
            [_with_port(node) for node in settings.nodes],
            node_class=_Node,
            request_timeout=settings.timeout.total_seconds(),
            # Every node gets one attempt, and one more is left for a connection that was closed
            # while it was idle.
            max_retries=len(settings.nodes),
            serializers=dict.fromkeys(_JSON, _Serializer()),
            **options,
        )
    except (ValueError, OSError) as error:
        raise ConfigurationError(
            "HFS_ELASTICSEARCH_NODES or HFS_ELASTICSEARCH_CA_FILE cannot be used"
            f" ({type(error).__name__}): the file must have certificates in PEM"
        ) from error


async def require_elasticsearch(
    client: AsyncElasticsearch, settings: ElasticsearchSettings
) -> None:
    """
    Raise an error if the server is not Elasticsearch or refuses the credentials.

    A server that does not respond is accepted: it may be back when it is needed.

    Raises:
        ConfigurationError: The server is not Elasticsearch, or it refuses the credentials.
    """
    limit = min(_OPENING_SECONDS, settings.timeout.total_seconds())
    try:
        with translated():
            await aliases(client.options(request_timeout=limit), all_aliases(settings))
    except BackendUnavailable as error:
        cause = error.__cause__
        if isinstance(cause, UnsupportedProductError):
            raise ConfigurationError(
                "The server at HFS_ELASTICSEARCH_NODES does not identify itself as Elasticsearch;"
                " OpenSearch is not supported"
            ) from error
        if (
            isinstance(cause, ApiError)
            and cause.meta.status in _REFUSED
            and kind_of(cause) != BLOCKED
        ):
            raise ConfigurationError(str(error)) from error


def _with_port(node: str) -> str:
    """Return an address with a port, which the client requires."""
    scheme, _, rest = node.rstrip("/").partition("://")
    has_port = ":" in rest.rpartition("]")[2]
    port = 443 if scheme == "https" else 80
    return f"{scheme}://{rest}" if has_port else f"{scheme}://{rest}:{port}"
