"""Whatever the client raises is BackendUnavailable, and says nothing of what is indexed."""

import asyncio
import logging
import uuid
import warnings
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import elastic_transport
import elasticsearch
import httpx
import pytest
from elastic_transport import ApiResponseMeta, HttpHeaders, NodeConfig
from elastic_transport._node import NodeApiResponse

from helios_core import BackendUnavailable, ConfigurationError, Dataset, IndexEntry, IndexQuery
from helios_core.fhir import AnyId, IndexTerms
from helios_elasticsearch import ElasticsearchSettings, connections, open_search_index
from helios_elasticsearch.errors import translated
from helios_elasticsearch.mappings import state_alias

NODE = NodeConfig("http", "127.0.0.1", 9200)

KINDS = {
    each
    for module in (elastic_transport, elasticsearch)
    for each in vars(module).values()
    if isinstance(each, type) and issubclass(each, Exception) and not issubclass(each, Warning)
}
API_ERRORS = sorted(
    (each for each in KINDS if issubclass(each, elastic_transport.ApiError)),
    key=lambda each: each.__name__,
)
OTHERS = sorted(KINDS.difference(API_ERRORS), key=lambda each: each.__name__)
OTHERS += [OSError, EOFError, TimeoutError, ValueError, RuntimeError, KeyError, TypeError]

STATUSES = [400, 401, 403, 404, 408, 409, 410, 413, 429, 500, 502, 503, 504]


async def reset(index, dataset):
    present = await index.state(dataset)
    await index.reset(dataset, uuid.uuid4().hex, expected=present and present.epoch)


CALLS = {
    "state": lambda index, dataset: index.state(dataset),
    "datasets": lambda index, _: index.datasets(),
    "reset": reset,
    "apply": lambda index, dataset: index.apply(dataset, "one", [ENTRY]),
    "advance": lambda index, dataset: index.advance(dataset, "one", reached=datetime.now(UTC)),
    "find": lambda index, dataset: index.find(dataset.type("Patient"), "one", QUERY, count=10),
    "count": lambda index, dataset: index.count(dataset.type("Patient"), "one", QUERY),
    "first reset": lambda index, dataset: index.reset(
        Dataset(uuid.uuid4().hex, dataset.fhir_version), "one", expected=None
    ),
    "size": lambda index, dataset: index.size(dataset, "one"),
}

ENTRY = IndexEntry(
    resource_type="Patient", id="canary", version_id=1, updated=1, terms=IndexTerms()
)
QUERY = IndexQuery(prefilter=AnyId(frozenset({"canary"})))


def meta(status, headers=()):
    return ApiResponseMeta(status, "1.1", HttpHeaders(dict(headers)), 0.1, NODE)


@pytest.mark.parametrize("kind", API_ERRORS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("status", STATUSES)
def test_every_error_of_the_api_is_unavailability(kind, status):
    with pytest.raises(BackendUnavailable) as raised, translated():
        raise kind("canary", meta(status), {"error": "canary"})

    assert "canary" not in str(raised.value)


@pytest.mark.parametrize("kind", OTHERS, ids=lambda each: each.__name__)
def test_every_error_of_the_client_is_unavailability(kind):
    with pytest.raises(BackendUnavailable) as raised, translated():
        raise kind("canary")

    assert "canary" not in str(raised.value)


@pytest.mark.parametrize("kind", [BackendUnavailable, ConfigurationError, asyncio.CancelledError])
def test_errors_of_ours_and_cancellations_pass_as_they_are(kind):
    with pytest.raises(kind, match="ours"), translated():
        raise kind("ours")


class Nodes:
    """Makes one request after others fail, as a node or the client may."""

    def __init__(self, monkeypatch):
        self._perform = connections._Node.perform_request
        self.answer = None
        self.let_through = 0
        self.asked = 0
        nodes = self

        async def perform_request(node, *arguments, **options):
            nodes.asked += 1
            if nodes.answer is None or nodes.asked <= nodes.let_through:
                return await nodes._perform(node, *arguments, **options)
            if isinstance(nodes.answer, BaseException):
                raise nodes.answer
            return nodes.answer

        monkeypatch.setattr(connections._Node, "perform_request", perform_request)


@pytest.fixture
def nodes(monkeypatch):
    return Nodes(monkeypatch)


@pytest.fixture
async def built(index, dataset):
    await index.reset(dataset, "one", expected=None)
    await index.apply(dataset, "one", [ENTRY])
    return index


HTML = ("content-type", "text/html")
JSON = ("content-type", "application/vnd.elasticsearch+json;compatible-with=8")
PRODUCT = ("x-elastic-product", "Elasticsearch")

ANSWERS = {
    **{kind.__name__: kind("canary") for kind in OTHERS},
    **{
        str(status): NodeApiResponse(
            meta(status, [JSON, PRODUCT]), b'{"error":{"type":"x","reason":"canary"}}'
        )
        for status in STATUSES
        if status != 409  # the answer to a write that others were quicker with
    },
    "a page of a proxy": NodeApiResponse(meta(200, [HTML]), b"<p>canary"),
    "another product": NodeApiResponse(meta(200, [JSON]), b'{"canary":1}'),
    "an answer to nothing": NodeApiResponse(meta(200, [JSON, PRODUCT]), b'{"canary":1}'),
    "a list": NodeApiResponse(meta(200, [JSON, PRODUCT]), b'["canary"]'),
    "not JSON": NodeApiResponse(meta(200, [JSON, PRODUCT]), b'{"canary'),
    "an answer of a part": NodeApiResponse(
        meta(200, [JSON, PRODUCT]),
        b'{"timed_out":true,"_shards":{"failed":1},"hits":{"total":{"value":0}},"items":[]}',
    ),
}


@pytest.mark.parametrize("name", CALLS)
async def test_no_failure_of_any_request_is_anything_but_unavailability(
    built, dataset, nodes, name, caplog
):
    caplog.set_level(logging.DEBUG)
    nodes.asked = 0
    await CALLS[name](built, dataset)
    requests = nodes.asked

    for number in range(requests):
        for answer in ANSWERS.values():
            nodes.answer, nodes.let_through, nodes.asked = answer, number, 0
            with pytest.raises(BackendUnavailable) as raised:
                await CALLS[name](built, dataset)
            assert "canary" not in str(raised.value)
    assert "canary" not in caplog.text


@pytest.mark.parametrize("name", CALLS)
async def test_a_server_that_is_away_is_unavailable(dataset, name):
    settings = ElasticsearchSettings(nodes=("http://127.0.0.1:1",))
    async with open_search_index(settings) as index:
        with pytest.raises(BackendUnavailable, match="try again later"):
            await CALLS[name](index, dataset)


@asynccontextmanager
async def serving_xml(status):
    """Yield the address of a server that answers every request with XML."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        lines = (f"HTTP/1.1 {status} x", "Content-Type: application/xml", "Content-Length: 8")
        writer.write("\r\n".join((*lines, "Connection: close", "", "<Error/>")).encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield "http://{}:{}".format(*server.sockets[0].getsockname())


@pytest.mark.parametrize("status", [401, 403])
async def test_credentials_that_are_refused_prevent_the_start(settings, nodes, status):
    nodes.answer = NodeApiResponse(meta(status, [JSON, PRODUCT]), b"{}")
    with pytest.raises(ConfigurationError, match=r"credentials|right"):
        async with open_search_index(settings):
            pass


async def test_another_product_prevents_the_start(settings, nodes):
    nodes.answer = NodeApiResponse(meta(200, [JSON]), b"{}")
    with pytest.raises(ConfigurationError, match="OpenSearch"):
        async with open_search_index(settings):
            pass


@pytest.mark.parametrize("status", [200, 302, 400, 403, 404])
async def test_a_server_of_something_else_prevents_the_start(status):
    async with serving_xml(status) as url:
        with pytest.raises(ConfigurationError, match="does not identify itself as Elasticsearch"):
            async with open_search_index(ElasticsearchSettings(nodes=(url,))):
                pass


async def test_a_proxy_whose_server_is_down_does_not_prevent_the_start():
    async with (
        serving_xml(502) as url,
        open_search_index(ElasticsearchSettings(nodes=(url,))) as index,
    ):
        with pytest.raises(BackendUnavailable, match="it is down"):
            await index.datasets()


async def test_warnings_of_the_server_are_not_shown(index, dataset, nodes):
    warning = ("warning", '299 Elasticsearch "canary"')
    nodes.answer = NodeApiResponse(meta(404, [JSON, PRODUCT, warning]), b'{"found":false}')
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        assert await index.state(dataset) is None


BLOCKS = {"write": 403, "read_only_allow_delete": 429, "read_only": 403}
"""The statuses of changes to a blocked index; Elasticsearch sets the second on a full disk."""


@pytest.fixture
def block(elasticsearch_server, settings):
    """Block or unblock the indices of this test."""

    def set_block(name, value):
        url = f"{elasticsearch_server}/{settings.prefix}-*/_settings"
        httpx.put(url, json={f"index.blocks.{name}": value}).raise_for_status()

    return set_block


@pytest.mark.parametrize("name", BLOCKS)
async def test_a_blocked_index_is_not_taken_for_a_lack_of_rights_or_memory(
    built, dataset, block, name
):
    block(name, value=True)
    try:
        for call in ("apply", "advance", "reset"):
            with pytest.raises(BackendUnavailable, match=r"blocked.*free space") as raised:
                await CALLS[call](built, dataset)
            assert f"status {BLOCKS[name]}" in str(raised.value)
    finally:
        block(name, value=None)
    await CALLS["apply"](built, dataset)


@pytest.mark.parametrize("status", [403, 429])
async def test_a_block_does_not_prevent_the_start(settings, nodes, status):
    body = b'{"error":{"type":"cluster_block_exception","reason":"canary"}}'
    nodes.answer = NodeApiResponse(meta(status, [JSON, PRODUCT]), body)
    async with open_search_index(settings) as index:
        with pytest.raises(BackendUnavailable, match="blocked"):
            await index.datasets()


@pytest.fixture
def taken(elasticsearch_server, settings):
    """Have an index of another program under a name of ours."""
    httpx.put(f"{elasticsearch_server}/{state_alias(settings)}", json={}).raise_for_status()


@pytest.mark.usefixtures("taken")
async def test_an_index_of_another_program_is_refused_with_a_way_out(index, dataset):
    for call in ("reset", "first reset"):
        with pytest.raises(BackendUnavailable, match="HFS_ELASTICSEARCH_PREFIX"):
            await CALLS[call](index, dataset)


async def test_requests_are_not_logged(built, dataset, caplog):
    caplog.set_level(logging.DEBUG)
    for call in CALLS.values():
        await call(built, dataset)

    assert "canary" not in caplog.text
    assert "elastic_transport" not in {record.name for record in caplog.records}
