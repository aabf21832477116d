"""One search criterion: a parameter, a modifier, and values."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from helios_core.errors import InvalidParameter, UnsupportedParameter
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.search.parameters import CompiledParameter


class Criterion(msgspec.Struct, frozen=True, kw_only=True):
    """A resource meets the criterion if it matches any of the values."""

    version: FHIRVersion
    resource_type: str
    parameter: CompiledParameter
    modifier: str | None = None
    values: tuple[str, ...]
    """Still escaped; none is empty."""
    base_urls: Sequence[str] = ()
    now: datetime

    @property
    def name(self) -> str:
        """Return how error messages name the criterion."""
        modifier = f":{self.modifier}" if self.modifier else ""
        return f"search parameter {self.parameter.code}{modifier} of {self.resource_type}"

    def invalid(self, expected: str) -> InvalidParameter:
        """Return the error for an invalid value; the message does not contain the value."""
        return InvalidParameter(f"{self.name}: {expected}")

    def unsupported(self, reason: str) -> UnsupportedParameter:
        """Return the error for a criterion that this server does not support."""
        return UnsupportedParameter(f"{self.name}: {reason}")
