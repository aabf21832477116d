"""The supported search parameters, as a CapabilityStatement lists them."""

import msgspec

from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.search.parameters import CompiledParameter, compiled_parameters
from helios_core.fhir.search.queries import modifiers, reference_types


class SupportedParameter(msgspec.Struct, frozen=True, kw_only=True):
    """A search parameter that is supported for a resource type."""

    code: str
    type: str
    modifiers: tuple[str, ...]
    """As in SearchParameter.modifier: `type` stands for the resource types of a reference."""
    chains_to: tuple[str, ...] = ()
    """The resource types to which a reference can be chained."""


def supported_parameters(version: FHIRVersion, resource_type: str) -> list[SupportedParameter]:
    """
    Return all parameters that `compile_query` accepts except `_has`, sorted by code.

    Raises:
        InvalidParameter: There is no such resource type.
    """
    parameters = compiled_parameters(version, resource_type).values()
    return [
        _to_supported(version, parameter)
        for parameter in parameters
        if isinstance(parameter, CompiledParameter)
    ]


def _to_supported(version: FHIRVersion, parameter: CompiledParameter) -> SupportedParameter:
    types = reference_types(version, parameter)
    others = [name for name in modifiers(version, parameter) if name not in types]
    return SupportedParameter(
        code=parameter.code,
        type=parameter.type,
        modifiers=tuple(sorted([*others, "type"] if types else others)),
        chains_to=types,
    )
