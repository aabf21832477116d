"""The values of parameters: how often each is given, and what its text means."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime

from helios_core.errors import InvalidParameter
from helios_core.fhir.bulk_data import Guide
from helios_core.fhir.instants import parse_instant
from helios_core.fhir.search import split_type_filter
from helios_core.kickoff.parameters import Given

SIZE = re.compile(r"0*[1-9]\d{0,17}", re.ASCII)


class Values:
    """The values that were given, by the name of their parameter."""

    def __init__(self, given: Sequence[Given], *, guide: Guide) -> None:
        self._given = given
        self._guide = guide

    def __iter__(self) -> Iterator[str]:
        """Give every name that was given, once."""
        return iter(dict.fromkeys(given.name for given in self._given))

    def of(self, name: str) -> list[str]:
        """Give all values of a parameter, in order."""
        return [given.value for given in self._given if given.name == name]

    def single(self, name: str) -> str | None:
        """
        Give the value of a parameter, None where it is not given.

        Raises:
            InvalidParameter: It is given twice.
        """
        values = self.of(name)
        if len(values) > 1:
            raise InvalidParameter(f"{name} is given {len(values)} times; give it once.")
        return values[0] if values else None

    def flag(self, name: str) -> bool:
        """
        Give the value of a boolean parameter, false where it is not given.

        Raises:
            InvalidParameter: It is given twice, or is neither true nor false.
        """
        value = self.single(name)
        if value not in (None, "true", "false"):
            raise InvalidParameter(f"{name} is neither true nor false; send one of them.")
        return value == "true"

    def listed(self, name: str) -> list[str]:
        """
        Give the values of a list, repeats joined, blanks and doubles dropped.

        Raises:
            InvalidParameter: It is joined by commas, and the guide allows none.
        """
        if not self._guide.comma_lists and any("," in value for value in self.of(name)):
            raise InvalidParameter(f"{name} has a comma in it; repeat it for each value.")
        values = [v.strip() for value in self.of(name) for v in value.split(",")]
        return list(dict.fromkeys(v for v in values if v))

    def type_filters(self) -> list[str]:
        """
        Give the values of `_typeFilter`.

        Raises:
            InvalidParameter: Queries are joined by a comma, and the guide allows none.
        """
        values = self.of("_typeFilter")
        joined = any(len(list(split_type_filter(value))) > 1 for value in values)
        if joined and not self._guide.comma_lists:
            raise InvalidParameter("_typeFilter joins queries by a comma; repeat it for each.")
        return values

    def instant(self, name: str, *, round_up: bool) -> datetime | None:
        """
        Give the instant a parameter names, None where it is not given.

        Raises:
            InvalidParameter: It is given twice, or is no instant.
        """
        value = self.single(name)
        if value is None:
            return None
        try:
            return parse_instant(value.strip(), round_up=round_up)
        except InvalidParameter as error:
            raise InvalidParameter(f"{name}: {error}") from error

    def size(self, name: str) -> int | None:
        """
        Give a number of bytes, None where it is not given or the guide does not know it.

        Raises:
            InvalidParameter: It is given twice, or is no whole number from 1.
        """
        value = self.single(name) if name in self._guide.parameters else None
        if value is None:
            return None
        if not SIZE.fullmatch(value):
            raise InvalidParameter(f"{name} is not a whole number of bytes from 1; send one.")
        return int(value)
