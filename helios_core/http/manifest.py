"""The manifest of a finished export, rendered anew from its published parts at every poll."""

from collections.abc import Sequence

from helios_core.fhir.instants import format_instant
from helios_core.jobs import Job
from helios_core.manifests import Manifest, ManifestFile, Part, PartKind


def manifest_of(job: Job, parts: Sequence[Part], *, base: str) -> Manifest:
    """Give the manifest as seen through a base URL (Bulk Data 2.0.0, Output Manifest)."""

    def files(kind: PartKind) -> list[ManifestFile]:
        return [
            ManifestFile(type=part.manifest_type, url=part_url(part, base), count=part.count)
            for part in parts
            if part.key.kind is kind
        ]

    return Manifest(
        transaction_time=format_instant(job.transaction_time),
        request=job.request.url,
        requires_access_token=False,
        output=files(PartKind.OUTPUT),
        deleted=files(PartKind.DELETED),
        error=files(PartKind.ERROR),
    )


def part_url(part: Part, base: str) -> str:
    """Give the address a part is downloaded from."""
    return f"{base}/export-file/{part.key.job_id}/{part.key.name}"
