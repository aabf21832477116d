"""
The versions of the Bulk Data Access guide, as one table.

What differs between them is looked up here; no other module asks which version it is. Versions 2
and 3 agree where a server of the one meets a client of the other, so that they are one row.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from helios_core.fhir.media_types import NDJSON

CANONICAL: Final = "http://hl7.org/fhir/uv/bulkdata"


class GuideVersion(StrEnum):
    """Which version of the guide the server speaks."""

    CURRENT = "3"
    """Version 3, and version 2 with it."""
    DRAFT_4 = "4-draft"
    """The ballot of version 4."""


class Guide(msgspec.Struct, frozen=True, kw_only=True):
    """What one version of the guide says of a kick-off and a manifest."""

    kick_off_methods: tuple[Literal["GET", "POST"], ...]
    comma_lists: bool
    """Whether the values of a list may be joined by commas."""
    parameters: frozenset[str] = frozenset()
    """Parameters that only this version has."""
    problems: Literal["error", "outcome"]
    """The member of the manifest that lists the files of OperationOutcomes."""
    typed_problems: bool
    """Whether files of deletions and of OperationOutcomes say what they hold."""
    shows_request: bool
    """Whether the manifest repeats the kick-off URL."""
    shows_sizes: bool
    """Whether every file of the manifest has its size."""
    lists_extensions: bool
    """Whether extensions are a list of FHIR Extensions, or an object of members."""
    manifest_type: str | None = None
    """The canonical URL of the manifest's own definition, where it names one."""
    output_format: str | None = None
    """The format of the files, where the manifest names it."""
    version: str | None = None
    """What canonical URLs are pinned to; None leaves them open."""

    def canonical(self, kind: str, name: str) -> str:
        """Give the canonical URL of something the guide defines."""
        pin = f"|{self.version}" if self.version else ""
        return f"{CANONICAL}/{kind}/{name}{pin}"


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
"""Bulk Data 2.0.0 and 3.0.0; Bulk Data 4.0.0-ballot."""

CURRENT: Final = GUIDES[GuideVersion.CURRENT]
"""What is spoken unless the operator chooses."""
