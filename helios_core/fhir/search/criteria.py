"""What a search asks of one parameter."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from helios_core.errors import InvalidParameter, UnsupportedParameter
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.search.parameters import CompiledParameter


class Criterion(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter, how it is modified, and the values of which any will do."""

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
        """Give the parameter as errors name it."""
        modifier = f":{self.modifier}" if self.modifier else ""
        return f"search parameter {self.parameter.code}{modifier} of {self.resource_type}"

    def invalid(self, expected: str) -> InvalidParameter:
        """Give the error that a value is not what is expected; the value is not repeated."""
        return InvalidParameter(f"{self.name}: {expected}")

    def unsupported(self, reason: str) -> UnsupportedParameter:
        """Give the error that this cannot be asked here."""
        return UnsupportedParameter(f"{self.name}: {reason}")
