"""Keys of resources: of a single one, and of all resources of one type."""

from typing import Protocol

import msgspec

from helios_core.fhir.definitions import FHIRVersion


class HasTenant(Protocol):
    """Something with a tenant and FHIR version, such as an export request or a caller."""

    @property
    def tenant(self) -> str:
        """The tenant whose resources are meant."""

    @property
    def fhir_version(self) -> FHIRVersion:
        """The FHIR version under which the resources are stored."""


class TypeKey(msgspec.Struct, frozen=True):
    """All resources of one type in one tenant and FHIR version: a collection."""

    tenant: str
    fhir_version: FHIRVersion
    resource_type: str

    @classmethod
    def of(cls, owner: HasTenant, resource_type: str) -> "TypeKey":
        """Return the key of a type in the tenant and FHIR version of a request or a caller."""
        return cls(owner.tenant, owner.fhir_version, resource_type)

    def resource(self, resource_id: str) -> "ResourceKey":
        """Return the key of one resource of this type."""
        return ResourceKey(self.tenant, self.fhir_version, self.resource_type, resource_id)


class ResourceKey(msgspec.Struct, frozen=True):
    """One resource of one tenant and FHIR version, whichever of its versions is meant."""

    tenant: str
    fhir_version: FHIRVersion
    resource_type: str
    id: str

    @property
    def type(self) -> TypeKey:
        """The key of its type."""
        return TypeKey(self.tenant, self.fhir_version, self.resource_type)
