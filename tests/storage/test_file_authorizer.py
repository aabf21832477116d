from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from helios_core import ExportIntent, Forbidden, Level, Principal, ScopeAuthorizer
from helios_core.testing import corpus

LIMITED = Principal(
    issuer="https://issuer.example",
    subject="client",
    client_id="client",
    scopes=("system/*.rs",),
    groups=frozenset({"a"}),
    expires_at=datetime(2030, 1, 1, tzinfo=UTC),
)


def intent(level, group_id=None):
    return ExportIntent(tenant="default", level=level, group_id=group_id)


@pytest.mark.parametrize(
    ("level", "group_id"),
    [(Level.SYSTEM, None), (Level.PATIENT, None), (Level.GROUP, "b"), (Level.GROUP, "A")],
)
async def test_a_client_of_some_groups_starts_no_other_export(level, group_id):
    with pytest.raises(Forbidden):
        await ScopeAuthorizer().authorize_export(LIMITED, intent(level, group_id))
    await ScopeAuthorizer().authorize_export(
        replace(LIMITED, groups=None), intent(level, group_id)
    )


async def test_a_client_of_some_groups_starts_exports_of_those():
    await ScopeAuthorizer().authorize_export(LIMITED, intent(Level.GROUP, "a"))


async def test_a_group_is_exported_by_who_may_read_groups():
    """B3-01: before anything is looked up."""
    without = replace(LIMITED, groups=None, scopes=("system/Patient.rs", "system/Group.s"))

    with pytest.raises(Forbidden, match="read on Group"):
        await ScopeAuthorizer().authorize_export(without, intent(Level.GROUP, "a"))
    await ScopeAuthorizer().authorize_export(without, intent(Level.PATIENT))


async def test_a_client_that_has_lost_a_group_sees_its_exports_no_more():
    job = replace(corpus.job("job"), owner=LIMITED.owner)
    assert job.request.level is Level.SYSTEM

    with pytest.raises(Forbidden):
        await ScopeAuthorizer().authorize_job(LIMITED, job)
    request = replace(job.request, level=Level.GROUP, group_id="a")
    await ScopeAuthorizer().authorize_job(LIMITED, replace(job, request=request))
    await ScopeAuthorizer().authorize_end(LIMITED, job)
