"""Patches: what a PATCH does to a resource (FHIR R4, http.html#patch)."""

from typing import Protocol

from helios_core.fhir.definitions import FHIRVersion


class Patch(Protocol):
    """A parsed patch."""

    def apply(self, content: bytes, version: FHIRVersion) -> bytes:
        """
        Return a resource with the patch applied, both as JSON.

        Raises:
            PatchFailed: The patch does not fit the resource.
        """
        ...
