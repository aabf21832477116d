"""Every cell of docs/reference/parameters.md, sent to a server."""

from datetime import timedelta
from itertools import product

import pytest

from helios_core.config.settings import Settings
from helios_core.export.kickoff.parameters import PARAMETERS
from helios_core.fhir.bulk_data import GuideVersion
from tests.parameters import CASES, DRAFT, LEVELS, METHODS, Outcome

LEASE = timedelta(seconds=1)
HANDLINGS = ("", "strict", "lenient")
IGNORING = {Outcome.DECLINED: {"lenient"}, Outcome.LEFT_OUT: {"", "lenient"}}


async def fill(site):
    """Store who the cases are about."""
    members = [{"entity": {"reference": "Patient/p1"}}]
    await site.put(
        {"resourceType": "Patient", "id": "p1"},
        {"resourceType": "Patient", "id": "p2"},
        {"resourceType": "Group", "id": "g1", "member": members},
    )
    return site


@pytest.fixture
async def filled(site):
    return await fill(site)


async def sent(site, case, level, method, handling):
    """Kick off with one handling."""
    prefer = "respond-async" + (f", handling={handling}" if handling else "")
    request = {"params": case.query()} if method == "GET" else {"json": case.body()}
    return await site.client.request(method, LEVELS[level], headers={"Prefer": prefer}, **request)


async def reported(site, location):
    """End an export, and give what it would have reported."""
    job = await site.backends.job_store.get("default", location.rsplit("/", 1)[1])
    await site.client.delete(location)
    return job.request.ignored


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parameter}: {case.what}")
async def test_every_value_has_the_outcome_of_its_cells(filled, outcome, case, level):
    """B2-KO-03, B2-KO-20, B2-KO-21, TR-10, TR-11, TR-13, TR-15"""
    await check(filled, outcome, case, level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("case", DRAFT, ids=lambda case: f"{case.parameter}: {case.what}")
async def test_the_draft_of_version_4_has_the_outcomes_of_its_table(
    open_site, outcome, case, level
):
    """B4-01, B4-02, B4-08"""
    site = await fill(await open_site(Settings(bulk_data_ig=GuideVersion.DRAFT_4)))

    got = await sent(site, case, level, "GET", "") if case.raw is None else None
    assert got is None or got.status_code == 405
    await check(site, outcome, case, level, methods=("POST",))


async def check(filled, outcome, case, level, *, methods=METHODS):
    """Send a case with every method and handling, and hold what happens to its cells."""
    for method, handling in product(methods, HANDLINGS):
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
    assert await filled.backends.job_store.claim("w", lease_for=LEASE, max_attempts=3) is None


def test_every_parameter_that_is_served_is_on_the_grid():
    served = {each.name for each in PARAMETERS}
    assert {*served, "_pretty", "bogus"} <= {case.parameter for case in CASES}
