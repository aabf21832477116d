"""What works, for the CapabilityStatement."""

import msgspec

from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.search.parameters import CompiledParameter, compiled_parameters
from helios_core.fhir.search.queries import modifiers, reference_types


class SupportedParameter(msgspec.Struct, frozen=True, kw_only=True):
    """A search parameter that works for a type."""

    code: str
    type: str
    modifiers: tuple[str, ...]
    """As in SearchParameter.modifier: `type` stands for the names of the reference's types."""
    chains_to: tuple[str, ...] = ()
    """Of a reference: the types that it can be chained through."""


def supported_parameters(version: FHIRVersion, resource_type: str) -> list[SupportedParameter]:
    """
    Give precisely the parameters that `compile_query` accepts, by code; `_has` is not among them.

    Raises:
        InvalidParameter: There is no such type.
    """
    parameters = compiled_parameters(version, resource_type).values()
    return [
        _supported(version, each) for each in parameters if isinstance(each, CompiledParameter)
    ]


def _supported(version: FHIRVersion, parameter: CompiledParameter) -> SupportedParameter:
    types = reference_types(version, parameter)
    plain = [each for each in modifiers(version, parameter) if each not in types]
    return SupportedParameter(
        code=parameter.code,
        type=parameter.type,
        modifiers=tuple(sorted([*plain, "type"] if types else plain)),
        chains_to=types,
    )
