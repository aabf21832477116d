"""P7: tenants and FHIR versions."""

from helios_core.fhir.definitions import FHIRVersion
from helios_core.memory.data_provider import MemoryDataProvider
from helios_core.storage.resource_keys import ResourceKey
from tests.testing.broken_data_providers.asking import asking
from tests.testing.on_memory import OnMemoryProvider


class IgnoresTheTenant(MemoryDataProvider):
    """All tenants look into one store."""

    def _changes(self, view, resource_type, shard=None):
        for tenant in sorted({key.tenant for key in self._collections}):
            yield from super()._changes(asking(view, tenant=tenant), resource_type, shard)


class TestIgnoresTheTenant(OnMemoryProvider):
    subject_class = IgnoresTheTenant
    caught_by = (
        "test_another_tenant_is_never_shown",
        "test_a_cohort_stays_in_its_tenant",
        "test_deletions_stay_in_their_tenant",
    )


class IgnoresTheFHIRVersion(MemoryDataProvider):
    def _changes(self, view, resource_type, shard=None):
        for version in FHIRVersion:
            asked = asking(view, fhir_version=version)
            yield from super()._changes(asked, resource_type, shard)


class TestIgnoresTheFHIRVersion(OnMemoryProvider):
    subject_class = IgnoresTheFHIRVersion
    caught_by = ("test_another_fhir_version_is_never_shown",)


class StoresAllTenantsTogether(MemoryDataProvider):
    def _versions(self, key):
        return super()._versions(ResourceKey("clinic", FHIRVersion.R4, key.resource_type, key.id))


class TestStoresAllTenantsTogether(OnMemoryProvider):
    subject_class = StoresAllTenantsTogether
    caught_by = (
        "test_a_write_stays_in_its_tenant_and_version",
        "test_another_tenant_is_never_shown",
    )
