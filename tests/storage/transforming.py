"""Transforms for tests: each does one thing to every resource."""

from collections.abc import Callable
from typing import Any

from helios_core.fhir.definitions import FHIRVersion
from helios_core.storage.resource_keys import ResourceKey, TypeKey
from helios_core.storage.transform_chain import OpenedTransform, Transforms
from helios_core.storage.transforms import Coding, Transform, TransformEffect

REDACTED = Coding(
    system="http://terminology.hl7.org/CodeSystem/v3-ObservationValue", code="REDACTED"
)
PATIENTS = TypeKey("default", FHIRVersion.R4, "Patient")
CANARY = "canary-7c1f"
"""A text that no transformed resource may hold."""


class Applying(Transform):
    """Applies a function."""

    def __init__(self, function: Callable[[dict[str, Any]], Any]) -> None:
        self._function = function

    def apply(self, resource: dict[str, Any], key: TypeKey) -> Any:
        return self._function(resource)


class Renaming(Applying):
    """Reverses ids, and applies a function to the rest."""

    def apply(self, resource: dict[str, Any], key: TypeKey) -> Any:
        resource["id"] = self.rename(key.resource(resource["id"]))
        return super().apply(resource, key)

    def rename(self, key: ResourceKey) -> str:
        return key.id[::-1]


def opened(transform, plugin="test", **effect) -> OpenedTransform:
    changes = effect.get("changes", True)
    defaults = {"security": (REDACTED,)} if changes and "tags" not in effect else {}
    return OpenedTransform(
        plugin=plugin, transform=transform, effect=TransformEffect(**defaults | effect)
    )


def applying(function, **effect) -> Transforms:
    return Transforms([opened(Applying(function), **effect)])


def without(*names: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda resource: {k: v for k, v in resource.items() if k not in names}


def keeping(condition) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    return lambda resource: resource if condition(resource) else None


def failing(resource):
    raise ValueError(f"cannot handle {resource}")
