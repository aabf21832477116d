"""
The versions of the Bulk Data Access guide, as one table.

Everything that differs between versions is a field of `Guide`; no other module compares versions.
Versions 2 and 3 share a row: clients of either version work with servers of the other.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from helios_core.fhir.media_types import NDJSON

CANONICAL: Final = "http://hl7.org/fhir/uv/bulkdata"


class GuideVersion(StrEnum):
    """The version of the guide that the server implements."""

    CURRENT = "3"
    """Version 3, which includes version 2."""
    DRAFT_4 = "4-draft"
    """The ballot of version 4."""


class Guide(msgspec.Struct, frozen=True, kw_only=True):
    """What one version of the guide specifies about the kick-off and the manifest."""

    kick_off_methods: tuple[Literal["GET", "POST"], ...]
    comma_lists: bool
    """Whether one value may be a comma-separated list."""
    parameters: frozenset[str] = frozenset()
    """Parameters that only this version has."""
    problems: Literal["error", "outcome"]
    """The member of the manifest that lists files of OperationOutcomes."""
    typed_problems: bool
    """Whether the manifest states a type for files of deletions and of OperationOutcomes."""
    shows_request: bool
    """Whether the manifest repeats the kick-off URL."""
    shows_sizes: bool
    """Whether the manifest states the size of every file."""
    lists_extensions: bool
    """Whether the manifest's `extension` is a list of FHIR Extensions, not an object."""
    manifest_type: str | None = None
    """The canonical URL of the manifest's definition; None if the manifest does not state it."""
    output_format: str | None = None
    """The media type of the files; None if the manifest does not state it."""
    version: str | None = None
    """The version in canonical URLs; None if they have none."""

    def canonical(self, kind: str, name: str) -> str:
        """Return the canonical URL of a definition of the guide."""
        version = f"|{self.version}" if self.version else ""
        return f"{CANONICAL}/{kind}/{name}{version}"


GUIDES: Final[Mapping[GuideVersion, Guide]] = MappingProxyType(
    {
        GuideVersion.CURRENT: Guide(
            kick_off_methods=("GET", "POST"),
            comma_lists=True,
            problems="error",
            typed_problems=True,
            shows_request=True,
            shows_sizes=False,
            lists_extensions=False,
        ),
        GuideVersion.DRAFT_4: Guide(
            kick_off_methods=("POST",),
            comma_lists=False,
            parameters=frozenset({"_minimumFileSize", "_maximumFileSize"}),
            problems="outcome",
            typed_problems=False,
            shows_request=False,
            shows_sizes=True,
            lists_extensions=True,
            manifest_type=f"{CANONICAL}/StructureDefinition/BulkDataManifest",
            output_format=NDJSON,
            version="4.0.0",
        ),
    }
)
"""Sources: Bulk Data 2.0.0 and 3.0.0, and Bulk Data 4.0.0-ballot."""

CURRENT: Final = GUIDES[GuideVersion.CURRENT]
"""The default version."""
