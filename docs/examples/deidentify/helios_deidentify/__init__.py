"""
De-identify exports: pseudonyms for ids, years for dates, and nothing that is not on a list.

What a list does not name does not leave: types, elements of types, and elements inside of them. So
an extension, a contained resource or an element of a later FHIR version cannot slip through.
"""

import hashlib
import hmac
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import msgspec

from helios_core import (
    API_LEVEL,
    Coding,
    ConfigurationError,
    ResourceKey,
    RestReads,
    Secret,
    Transform,
    TransformEffect,
    TransformExtension,
    TypeKey,
    hookimpl,
)

PSEUDONYMISED = Coding(
    system="http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
    code="PSEUDED",
    display="pseudonymized",
)

MIN_SECRET_CHARACTERS = 32

ELEMENTS = {
    "Patient": {"gender", "birthDate", "deceasedBoolean"},
    "Encounter": {"status", "class", "type", "subject", "period"},
    "Condition": {
        *("clinicalStatus", "verificationStatus", "category", "code"),
        *("subject", "encounter", "onsetDateTime", "abatementDateTime"),
    },
    "Observation": {
        *("status", "category", "code", "subject", "encounter", "effectiveDateTime"),
        *("valueQuantity", "valueCodeableConcept", "valueInteger", "valueBoolean", "component"),
    },
    "Procedure": {"status", "code", "subject", "encounter", "performedDateTime"},
    "MedicationRequest": {
        *("status", "intent", "medicationCodeableConcept", "subject", "encounter", "authoredOn"),
    },
    "Immunization": {"status", "vaccineCode", "patient", "encounter", "occurrenceDateTime"},
}
"""The types that leave, and of each the elements that do."""

INNER = {
    *("coding", "system", "code", "value", "unit", "comparator", "start", "end", "reference"),
    *("valueQuantity", "valueCodeableConcept", "valueInteger", "valueBoolean"),
}
"""The elements inside of those that leave. Texts and displays do not: people type into them."""

NOTHING = (None, {}, [])
DATE = re.compile(r"\d{4}(-\d{2}.*)?")
REFERENCE = re.compile(r"([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})")
SYSTEM = re.compile(r"(https?://|urn:)[A-Za-z0-9.:/_-]+")
CODE = re.compile(r"[A-Za-z0-9%/{}\[\].*^_+:#-]{1,100}")
"""Codes and units. What somebody typed has a space in it, or stands in another element."""


class DeidentifySettings(msgspec.Struct, frozen=True, kw_only=True):
    """The secret that pseudonyms depend on."""

    secret: Annotated[
        Secret,
        msgspec.Meta(
            description="Text from which pseudonyms are derived, the same in every process; "
            "whoever knows it can find out which pseudonym an id has",
            extra={"allowed": f"{MIN_SECRET_CHARACTERS} characters or more"},
        ),
    ]

    def __post_init__(self) -> None:
        if len(self.secret.reveal()) < MIN_SECRET_CHARACTERS:
            raise ConfigurationError(
                f"HFS_DEIDENTIFY_SECRET is shorter than {MIN_SECRET_CHARACTERS} characters"
            )


class Deidentified(Transform):
    """Lets through what the lists name, under pseudonyms."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret.reveal().encode()

    def apply(self, resource: dict[str, Any], key: TypeKey) -> dict[str, Any] | None:
        """Return what the lists name of a resource, None of a type that they do not."""
        kept = ELEMENTS.get(key.resource_type)
        if kept is None:
            return None
        left: dict[str, Any] = {
            "resourceType": key.resource_type,
            "id": self.rename(key.resource(resource["id"])),
        }
        return left | self._cleaned(resource, kept, key)

    def rename(self, key: ResourceKey) -> str:
        """Return a pseudonym: the same for the same resource, and different in every tenant."""
        named = f"{key.tenant}/{key.resource_type}/{key.id}".encode()
        return hmac.digest(self._secret, named, hashlib.sha256).hex()

    def _cleaned(self, element: dict[str, Any], names: set[str], key: TypeKey) -> dict[str, Any]:
        values = {name: self._value(name, element[name], key) for name in names & element.keys()}
        return {name: value for name, value in values.items() if value not in NOTHING}

    def _value(self, name: str, value: object, key: TypeKey) -> object:
        match value:
            case dict():
                return self._cleaned(value, INNER, key)
            case list():
                values = (self._value(name, each, key) for each in value)
                return [each for each in values if each not in NOTHING]
            case str():
                return self._text(name, value, key)
            case _:
                return value  # a number or a truth value

    def _text(self, name: str, text: str, key: TypeKey) -> str | None:
        if name == "reference":
            return self._reference(text, key)
        if name == "system":
            return text if SYSTEM.fullmatch(text) else None
        if DATE.fullmatch(text):
            return text[:4]
        return text if CODE.fullmatch(text) else None

    def _reference(self, text: str, key: TypeKey) -> str | None:
        named = REFERENCE.fullmatch(text)
        if named is None:
            return None  # an address, or one version of a resource
        target = ResourceKey(key.tenant, key.fhir_version, named[1], named[2])
        return f"{named[1]}/{self.rename(target)}"


@asynccontextmanager
async def open_transform(settings: DeidentifySettings) -> AsyncIterator[Transform]:
    """Yield the transform; every worker process opens one."""
    yield Deidentified(settings.secret)


@hookimpl
def helios_transform() -> TransformExtension:
    """Offer de-identified exports; the server then shows no resources over REST."""
    return TransformExtension(
        api_level=API_LEVEL,
        implementation=Deidentified,
        settings=DeidentifySettings,
        open=open_transform,
        effect=TransformEffect(security=(PSEUDONYMISED,), rest=RestReads.WITHHELD),
    )
