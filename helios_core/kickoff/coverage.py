"""What a kick-off covers: the types it exports, and whose data."""

from collections.abc import Sequence

from helios_core.errors import InvalidParameter
from helios_core.exports import Level
from helios_core.fhir.references import bases, split_reference
from helios_core.fhir.versions import FHIRVersion, table
from helios_core.kickoff.calls import Call
from helios_core.kickoff.choices import Decline, context_types
from helios_core.kickoff.values import Values


class Coverage:
    """Reads `_type` and `patient`, and declines what the level cannot show."""

    def __init__(self, call: Call, values: Values, *, decline: Decline, omit: Decline) -> None:
        self._call = call
        self._values = values
        self._decline = decline
        self._omit = omit

    def types(self) -> tuple[str, ...]:
        """
        Give the types to export; all that the level can show where none is named.

        Raises:
            InvalidParameter: None of those named can be exported.
        """
        definitions = table(self._call.fhir_version)
        if self._call.level is Level.SYSTEM:
            possible = definitions.types
        else:
            possible = definitions.compartment_types("Patient") | {"Patient"}
        if not self._values.of("_type"):
            return tuple(sorted(possible))
        asked = self._values.listed("_type")
        if not asked:
            raise InvalidParameter("_type names no resource type; name some, or leave it out.")
        unknown = [name for name in asked if name not in definitions.types]
        for name in unknown:
            self._decline(self._unknown_type(name), kind=InvalidParameter)
        known = [name for name in asked if name not in unknown]
        return self._within(known, possible)

    def context_types(self) -> tuple[str, ...]:
        """Give types beside those of the compartments; a `_type` limits them too (B2-P-09)."""
        if self._call.level is Level.SYSTEM:
            return ()
        possible = self._values.listed("_type") or table(self._call.fhir_version).types
        return context_types(self._call.policy.referenced_types, possible)

    def patients(self) -> tuple[str, ...] | None:
        """
        Give the ids of the only patients to export, None where none is named.

        Raises:
            InvalidParameter: Nobody can be named here, or a value names no patient.
        """
        if not self._values.of("patient"):
            return None
        if self._call.body is None:
            raise InvalidParameter("patient cannot be sent by GET; send it in a POST.")
        if self._call.level is Level.SYSTEM:
            raise InvalidParameter("patient has no meaning at system level; leave it out.")
        asked = self._values.listed("patient")
        if not asked:
            raise InvalidParameter("patient names nobody; name some patients, or leave it out.")
        ids = (self._patient_id(number, value) for number, value in enumerate(asked, 1))
        return tuple(dict.fromkeys(ids))

    def _unknown_type(self, name: str) -> str:
        version = self._call.fhir_version
        elsewhere = [str(v) for v in FHIRVersion if v is not version and name in table(v).types]
        hint = f"; it is one of {', '.join(elsewhere)}" if elsewhere else ""
        return f"_type: {name[:64]!r} is not a resource type of FHIR {version}{hint}."

    def _within(self, known: Sequence[str], possible: frozenset[str]) -> tuple[str, ...]:
        """Leave out types that this level can never show, as long as something remains."""
        shown = possible.union(self.context_types())
        outside = [name for name in known if name not in shown]
        reason = (
            f"_type: {', '.join(outside or known)} belongs to no patient's compartment, so a "
            f"{self._call.level} export cannot show it; use the system level for it."
        )
        inside = tuple(name for name in known if name in possible)
        if not inside:
            raise InvalidParameter(reason if known else "_type names no type that can be shown.")
        if outside:
            self._omit(reason, kind=InvalidParameter)
        return inside

    def _patient_id(self, number: int, value: str) -> str:
        if "/" not in value:
            value = f"Patient/{value}"
        named = split_reference(value, bases(self._call.base_url))
        if named is None or named[0] != "Patient":
            raise InvalidParameter(
                f"patient value number {number} is not a reference to a Patient of this server; "
                "send Patient/[id]."
            )
        return named[1]
