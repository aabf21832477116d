"""What is not served says so by its name, and OPTIONS lists what a 405 does."""

import pytest

PATHS = [
    "/",
    "/Patient",
    "/Patient/x",
    "/Patient/_search",
    "/Patient/x/_history",
    "/Patient/x/_history/1",
    "/$export",
    "/Patient/$export",
    "/Group/g/$export",
    "/metadata",
    "/health",
    "/export-status/x",
    "/export-file/x/y",
]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/$foo", "$foo"),
        ("/Patient/$validate", "$validate"),
        ("/Patient/$foo", "$foo"),
        ("/Patient/x/$foo", "$foo"),
        ("/Observation/$export", "$export"),
        ("/Patient/x/_search", "_search"),
        ("/Patient/x/y/_history", "_history"),
    ],
)
async def test_what_is_not_served_is_named(client, outcome, method, path, name):
    issue = outcome(await client.request(method, path), 404, "not-supported")

    assert name in issue["diagnostics"]


async def test_a_group_that_is_absent_is_no_operation_that_is(client, outcome):
    response = await client.get("/Group/g/$export", headers={"Prefer": "respond-async"})

    outcome(response, 404, "not-found")


@pytest.mark.parametrize("path", PATHS)
async def test_options_lists_what_a_405_does(client, path):
    options = await client.request("OPTIONS", path)
    refused = await client.request("TRACE", path)

    assert (options.status_code, options.content) == (204, b"")
    assert refused.status_code == 405
    assert options.headers["allow"] == refused.headers["allow"]


async def test_options_of_no_address_are_none(client, outcome):
    outcome(await client.request("OPTIONS", "/nothing/at/all/to/find"), 404, "not-found")
