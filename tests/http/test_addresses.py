"""The base URL of responses, and whom the server believes about it."""

from ipaddress import ip_network

import httpx
import pytest
from litestar import Request

from helios_core.config.settings import Settings
from helios_core.errors import InvalidRequest
from helios_core.http.addresses import PublicAddress
from helios_core.http.app import create_app
from tests.http.conftest import ASYNC

PROXIES = ("10.0.0.0/8", "2001:db8::/32")


@pytest.fixture
def base_for(backends):
    """Kick off as a peer with some headers, and return the base that the response names."""

    async def base_for(headers, *, peer="10.0.0.1", **settings):
        settings.setdefault("trusted_proxies", PROXIES)
        app = create_app(Settings(bulk_export_max_concurrent_per_tenant=100, **settings), backends)
        transport = httpx.ASGITransport(app, client=(peer, 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://inner:8080") as client:
            response = await client.get("/$export", headers=[*ASYNC.items(), *headers])
        if response.status_code != 202:
            return response.status_code
        return response.headers["content-location"].partition("/export-status/")[0]

    return base_for


FORWARDED = [
    ([("X-Forwarded-Proto", "https")], "https://inner:8080"),
    ([("X-Forwarded-Host", "fhir.example")], "http://fhir.example"),
    (
        [("X-Forwarded-Proto", "HTTPS"), ("X-Forwarded-Host", "fhir.example:8443")],
        "https://fhir.example:8443",
    ),
    ([("Forwarded", "for=192.0.2.7;proto=https;host=fhir.example")], "https://fhir.example"),
    (
        [("Forwarded", 'For="[2001:db9::1]:4711";Proto=https;Host="[2001:db9::2]:1"')],
        "https://[2001:db9::2]:1",
    ),
    ([("Forwarded", "for=192.0.2.7;proto=https")], "https://inner:8080"),
    # The client wrote the first entry, the proxy the second.
    ([("Forwarded", "for=1.1.1.1;host=evil, for=192.0.2.7;host=good")], "http://good"),
    (
        [("X-Forwarded-For", "1.1.1.1, 192.0.2.7"), ("X-Forwarded-Host", "evil, good")],
        "http://good",
    ),
    # Two trusted proxies in a row; the nearer one was called by its own name.
    (
        [("X-Forwarded-For", "192.0.2.7, 10.9.9.9"), ("X-Forwarded-Host", "evil, good, middle")],
        "http://good",
    ),
    (
        [
            ("Forwarded", "host=evil, for=192.0.2.7;host=good"),
            ("Forwarded", "for=10.2.2.2;host=in"),
        ],
        "http://good",
    ),
    # The nearer of two proxies passes on what the other one set.
    ([("X-Forwarded-For", "192.0.2.7, 10.9.9.9"), ("X-Forwarded-Host", "good")], "http://good"),
]


@pytest.mark.parametrize(("headers", "base"), FORWARDED)
async def test_a_trusted_proxy_is_believed(base_for, headers, base):
    assert await base_for(headers) == base


@pytest.mark.parametrize("peer", ["192.0.2.7", "11.0.0.1", "2001:db9::1", "testclient", ""])
@pytest.mark.parametrize(("headers", "base"), FORWARDED)
async def test_nobody_else_is_believed(base_for, headers, base, peer):
    assert await base_for(headers, peer=peer) == "http://inner:8080"
    assert base != "http://inner:8080"


AGREEING = "for=192.0.2.7;proto=https;host=fhir.example"


@pytest.mark.parametrize(
    "headers",
    [
        [("Forwarded", "host=evil"), ("X-Forwarded-Host", "good")],
        [("Forwarded", "for=192.0.2.7;host=good"), ("X-Forwarded-Host", "evil")],
        [("Forwarded", "proto=https;host=evil"), ("X-Forwarded-Proto", "https")],
        [("Forwarded", "proto=https;host=good"), ("X-Forwarded-Proto", "http")],
        [("Forwarded", "for=192.0.2.7"), ("X-Forwarded-Host", "evil")],
        [("Forwarded", AGREEING), ("X-Forwarded-Proto", "https")],
    ],
)
async def test_what_a_proxy_passes_on_beside_its_own_headers_is_not_believed(base_for, headers):
    assert await base_for(headers) == 400


async def test_a_proxy_may_report_one_address_in_both_ways(base_for):
    headers = [("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "fhir.example")]

    assert await base_for([("Forwarded", AGREEING), *headers]) == "https://fhir.example"


@pytest.mark.parametrize("peer", ["10.255.0.1", "::ffff:10.0.0.1", "2001:db8:1::1"])
async def test_a_proxy_is_known_by_its_network(base_for, peer):
    assert await base_for([("X-Forwarded-Host", "good")], peer=peer) == "http://good"


@pytest.mark.parametrize("host", ["a/b", "a b", "a@b", "a?b", "a#b", 'a"b', "ä", "a:b:c", "[", ""])
async def test_what_a_proxy_reports_must_be_a_host(base_for, host):
    base = await base_for([("X-Forwarded-Host", host.encode())])

    assert base == ("http://inner:8080" if host == "" else 400)


async def test_what_a_proxy_reports_must_be_a_scheme_of_http(base_for):
    assert await base_for([("X-Forwarded-Proto", "javascript")]) == 400


async def test_the_configured_address_outranks_everything(base_for):
    headers = [("X-Forwarded-Host", "evil"), ("Host", "evil")]

    assert await base_for(headers, base_url="https://fhir.example/r4") == "https://fhir.example/r4"


ALLOWED = ("fhir.example", "*.clinic.example", "127.0.0.1", "[::1]")


@pytest.mark.parametrize(
    "host",
    [
        "fhir.example",
        "FHIR.Example:8080",
        "fhir.example.",
        "a.clinic.example",
        "127.0.0.1:1",
        "[::1]:8080",
    ],
)
async def test_an_allowed_host_is_served(base_for, host):
    assert await base_for([("Host", host)], allowed_hosts=ALLOWED) == f"http://{host}"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "fhir.example.evil", "clinic.example", "xclinic.example", "fhir", "[::2]"],
)
@pytest.mark.parametrize("header", ["Host", "X-Forwarded-Host"])
async def test_a_host_that_is_not_allowed_is_refused(base_for, host, header):
    assert await base_for([(header, host)], allowed_hosts=ALLOWED) == 400


async def test_clients_behind_a_proxy_have_rate_limits_of_their_own(backends):
    app = create_app(
        Settings(trusted_proxies=PROXIES, bulk_export_kickoffs_per_minute=6), backends
    )
    transport = httpx.ASGITransport(app, client=("10.0.0.1", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://inner") as client:
        statuses = [
            (await client.get("/$export", headers=ASYNC | {"X-Forwarded-For": of})).status_code
            for of in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.1, 10.0.0.9")
        ]

    assert statuses == [202, 429, 202, 429]


async def test_a_client_behind_a_proxy_cannot_choose_whom_its_requests_count_for(backends):
    settings = Settings(
        trusted_proxies=PROXIES, bulk_export_kickoffs_per_minute=6, base_url="http://fhir.example"
    )
    transport = httpx.ASGITransport(create_app(settings, backends), client=("10.0.0.1", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://inner") as client:
        statuses = [
            (await client.get("/$export", headers=ASYNC | headers)).status_code
            for headers in (
                {"X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.8"},
                {"X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.9"},
                {"X-Forwarded-For": "192.0.2.1", "Forwarded": 'for="192.0.2.1:80";proto=https'},
                {"X-Forwarded-For": "192.0.2.1", "Forwarded": "proto=https"},
            )
        ]

    assert statuses == [202, 429, 202, 429]


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:1"])
async def test_an_authenticated_server_is_called_by_names_of_this_machine(address_of, host):
    assert address_of(host) == f"http://{host}"


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil", "127.0.0.2", "localhost:x"])
async def test_an_authenticated_server_refuses_every_other_name(address_of, host):
    with pytest.raises(InvalidRequest):
        address_of(host)


async def test_an_authenticated_server_believes_its_proxy(address_of):
    assert address_of("inner", ("X-Forwarded-Host", "fhir.example")) == "http://fhir.example"


@pytest.fixture
def address_of():
    address = PublicAddress(None, trusted_proxies=[ip_network("10.0.0.1")], authenticated=True)

    def address_of(host, *headers):
        lines = [("host", host), *headers]
        scope = {
            "type": "http",
            "scheme": "http",
            "client": ("10.0.0.1", 1),
            "headers": [(name.lower().encode(), value.encode()) for name, value in lines],
        }
        return address.base(Request(scope))

    return address_of
