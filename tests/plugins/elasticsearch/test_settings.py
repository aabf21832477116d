import elastic_transport
import pytest

from helios_core import ConfigurationError, Secret
from helios_elasticsearch import ElasticsearchSettings
from helios_elasticsearch.connections import make_client

NODE = "http://127.0.0.1:9200"


@pytest.mark.parametrize(
    "nodes",
    [
        (),
        ("127.0.0.1:9200",),
        ("ftp://127.0.0.1",),
        ("http://user:canary@127.0.0.1:9200",),
        ("http://127.0.0.1:9200/canary",),
        ("http://127.0.0.1:port",),
        (NODE, "https://"),
    ],
)
def test_what_is_no_address_of_a_node_is_refused(nodes):
    with pytest.raises(ConfigurationError, match="HFS_ELASTICSEARCH_NODES") as raised:
        ElasticsearchSettings(nodes=nodes)

    assert "canary" not in str(raised.value)


@pytest.mark.parametrize(
    "credentials",
    [
        {"username": "helios"},
        {"password": Secret("canary")},
        {"username": "helios", "password": Secret("canary"), "api_key": Secret("canary")},
    ],
)
def test_half_and_double_credentials_are_refused(credentials):
    with pytest.raises(ConfigurationError, match="HFS_ELASTICSEARCH_USERNAME") as raised:
        ElasticsearchSettings(nodes=(NODE,), **credentials)

    assert "canary" not in str(raised.value)


@pytest.mark.parametrize(
    ("node", "asked"),
    [
        ("https://es.example.org", "https://es.example.org:443"),
        ("http://es.example.org/", "http://es.example.org:80"),
        ("https://es.example.org:9200", "https://es.example.org:9200"),
        ("https://[::1]:9200", "https://[::1]:9200"),
        ("http://[::1]", "http://[::1]:80"),
    ],
)
async def test_a_node_is_asked_at_its_port(node, asked):
    client = make_client(ElasticsearchSettings(nodes=(node,)))

    assert [each.base_url for each in client.transport.node_pool.all()] == [asked]
    await client.close()


@pytest.mark.parametrize("content", [None, "not PEM"])
def test_a_file_of_authorities_that_cannot_be_used_prevents_the_start(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)

    with pytest.raises(ConfigurationError, match="HFS_ELASTICSEARCH_CA_FILE"):
        make_client(ElasticsearchSettings(nodes=("https://127.0.0.1:9200",), ca_file=path))


async def test_credentials_are_sent():
    user = {"username": "helios", "password": Secret("secret")}
    for credentials, header in (
        ({"api_key": Secret("a2V5")}, "ApiKey a2V5"),
        (user, "Basic aGVsaW9zOnNlY3JldA=="),
    ):
        client = make_client(ElasticsearchSettings(nodes=(NODE,), **credentials))
        assert client._headers["authorization"] == header
        await client.close()


async def test_a_client_that_is_closed_connects_no_more():
    client = make_client(ElasticsearchSettings(nodes=(NODE,)))
    await client.close()

    with pytest.raises(elastic_transport.ConnectionError):
        await client.info()

    assert [node.session for node in client.transport.node_pool.all()] == [None]
