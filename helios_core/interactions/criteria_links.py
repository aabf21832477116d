"""Links in search criteria: the temporary links of a Bundle, and their real references."""

from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.links import Links, rewrite_search_value
from helios_core.fhir.search.parameters import CompiledParameter, compiled_parameters
from helios_core.fhir.search.queries import reference_types
from helios_core.interactions.callers import Caller
from helios_core.interactions.parameters import Pairs


def rewrite_criteria(
    caller: Caller, resource_type: str, criteria: Pairs, links: Links
) -> tuple[list[tuple[str, str]], set[str]]:
    """
    Return criteria with real references, and the temporary links that `links` does not resolve.

    Only parameters of type reference and uri contain links: an identifier can have a `urn:oid:`
    as its system, or a `urn:uuid:` as its value.
    """
    rewritten: list[tuple[str, str]] = []
    unresolved = set[str]()
    for name, value in criteria:
        types = _link_types(caller.fhir_version, resource_type, name)
        if types:
            value, open_links = rewrite_search_value(value, links)  # noqa: PLW2901
            unresolved |= open_links if "reference" in types else set()
        rewritten.append((name, value))
    return rewritten, unresolved


def _link_types(version: FHIRVersion, resource_type: str, name: str) -> set[str]:
    """Return which of the types reference and uri the parameter at the end of a chain can have."""
    if name.startswith("_has:") and name.count(":") >= 3:  # noqa: PLR2004
        _, searched, _, rest = name.split(":", 3)
        return _link_types(version, searched, rest)
    head, _, rest = name.partition(".")
    code, _, modifier = head.partition(":")
    parameter = compiled_parameters(version, resource_type).get(code)
    if not isinstance(parameter, CompiledParameter):
        return set()
    if not rest:
        return {parameter.type} & ({"uri"} if modifier == "identifier" else {"reference", "uri"})
    targets = reference_types(version, parameter)
    targets = (modifier,) if modifier in targets else targets
    return set().union(*(_link_types(version, target, rest) for target in targets))
