"""P7: tenants and FHIR versions."""

from helios_core.fhir.definitions import FHIRVersion
from helios_core.memory.data_provider import MemoryDataProvider
from tests.testing.broken_data_providers.asking import asking
from tests.testing.on_memory import OnMemoryProvider


class IgnoresTheTenant(MemoryDataProvider):
    """All tenants look into one store."""

    def _changes(self, view, resource_type, within=None):
        for tenant in sorted({tenant for tenant, _, _ in self._scopes}):
            yield from super()._changes(asking(view, tenant=tenant), resource_type, within)


class TestIgnoresTheTenant(OnMemoryProvider):
    subject_class = IgnoresTheTenant
    caught_by = (
        "test_another_tenant_is_never_shown",
        "test_a_cohort_stays_in_its_tenant",
        "test_deletions_stay_in_their_tenant",
    )


class IgnoresTheFHIRVersion(MemoryDataProvider):
    def _changes(self, view, resource_type, within=None):
        for version in FHIRVersion:
            asked = asking(view, fhir_version=version)
            yield from super()._changes(asked, resource_type, within)


class TestIgnoresTheFHIRVersion(OnMemoryProvider):
    subject_class = IgnoresTheFHIRVersion
    caught_by = ("test_another_fhir_version_is_never_shown",)


class StoresAllTenantsTogether(MemoryDataProvider):
    def _versions(self, scope, resource_id):
        return super()._versions(("clinic", FHIRVersion.R4, scope[2]), resource_id)


class TestStoresAllTenantsTogether(OnMemoryProvider):
    subject_class = StoresAllTenantsTogether
    caught_by = (
        "test_a_write_stays_in_its_tenant_and_version",
        "test_another_tenant_is_never_shown",
    )
