"""Every cell of docs/reference/parameters.md, sent to a server."""

from datetime import timedelta
from itertools import product

import pytest

from helios_core.kickoff import SERVED
from tests.parameters import CASES, LEVELS, METHODS, Outcome

LEASE = timedelta(seconds=1)
HANDLINGS = ("", "strict", "lenient")
IGNORING = {Outcome.DECLINED: {"lenient"}, Outcome.LEFT_OUT: {"", "lenient"}}


@pytest.fixture
async def filled(site):
    members = [{"entity": {"reference": "Patient/p1"}}]
    await site.put(
        {"resourceType": "Patient", "id": "p1"},
        {"resourceType": "Patient", "id": "p2"},
        {"resourceType": "Group", "id": "g1", "member": members},
    )
    return site


async def sent(site, case, level, method, handling):
    """Kick off with one handling."""
    prefer = "respond-async" + (f", handling={handling}" if handling else "")
    request = {"params": case.query()} if method == "GET" else {"json": case.body()}
    return await site.client.request(method, LEVELS[level], headers={"Prefer": prefer}, **request)


async def reported(site, location):
    """End an export, and give what it would have reported."""
    job = await site.backends.jobs.get("default", location.rsplit("/", 1)[1])
    await site.client.delete(location)
    return job.request.ignored


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parameter}: {case.what}")
async def test_every_value_has_the_outcome_of_its_cells(filled, outcome, case, level):
    """B2-KO-03, B2-KO-20, B2-KO-21, TR-10, TR-11, TR-13, TR-15"""
    for method, handling in product(METHODS, HANDLINGS):
        expected = case.at(level, method)
        if expected is None:
            continue
        response = await sent(filled, case, level, method, handling)
        if expected is Outcome.ESTIMATED:
            assert response.status_code == 200, (method, handling)
        elif expected is Outcome.ACCEPTED or handling in IGNORING.get(expected, ()):
            assert response.status_code == 202, (method, handling, response.text)
            ignored = await reported(filled, response.headers["content-location"])
            assert len(ignored) == (expected is not Outcome.ACCEPTED), (method, handling)
            assert all(case.parameter in reason for reason in ignored), (method, handling)
        else:
            assert case.parameter in outcome(response, 400)["diagnostics"], (method, handling)
    assert await filled.backends.jobs.claim("w", lease_for=LEASE, max_attempts=3) is None


def test_every_parameter_that_is_served_is_on_the_grid():
    assert {*SERVED, "_pretty", "bogus"} <= {case.parameter for case in CASES}
