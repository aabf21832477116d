"""Who is counted as one client, on a real server behind a real proxy's header."""

import pytest

from tests.processes import Site


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path, HFS_BULK_EXPORT_POLLS_PER_MINUTE="6")
    yield site
    site.end()


def polled(client, path, address):
    return client.http.get(path, headers={"X-Forwarded-For": address}).status_code


def test_clients_behind_a_proxy_are_told_apart(site):
    """B2-ST-05"""
    _, client = site.serve(HFS_TRUSTED_PROXIES="127.0.0.1")
    path = client.kick_off()

    answers = [
        polled(client, path, address) for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2")
    ]

    assert [answer == 429 for answer in answers] == [False, True, False]


def test_a_proxy_that_is_not_known_is_one_client(site):
    _, client = site.serve(HFS_TRUSTED_PROXIES="192.0.2.200")
    path = client.kick_off()

    answers = [polled(client, path, address) for address in ("192.0.2.1", "192.0.2.2")]

    assert [answer == 429 for answer in answers] == [False, True]
