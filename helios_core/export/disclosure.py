"""
Decide which of the resources that several patients share an export of some patients contains.

Such a resource is in the compartments of all of them. With `patient` the server "SHALL NOT return
resources in the patient compartments belonging to patients outside of this list" (Bulk Data 2.0.0,
Query Parameters), and a group export is about the members of one Group. So the export contains:

- Group: at group level only the exported Group and those nested in it, because another Group shows
  who else is in it. At patient level with `patient`, none.
- Patient: with `patient` only the named ones, not Patients that link to them.
- Types whose resources have several subjects of equal rank, such as Appointment: with `patient`
  only resources of which every subject is named.
- Other types: all resources in the compartment of a named patient. They are about one patient,
  while others only take part (the performer of an Observation, the author of a document).
"""

from collections.abc import Iterable, Sequence

import msgspec

from helios_core.fhir.compartments import KeyPath, patients_at, subject_paths
from helios_core.fhir.references import base_urls, decode_links
from helios_core.model.exports import ExportView, Level
from helios_core.storage.data_provider import Damaged
from helios_core.storage.integrity import UNKNOWN_ID

GROUP = "Group"
PATIENT = "Patient"

ID_WITHHELD = "(id withheld)"
"""Stands for an id that must not be disclosed."""


class _Identified(msgspec.Struct):
    id: str


class Disclosure:
    """A limit on the resources of one type that an export contains, within its view."""

    def __init__(
        self,
        *,
        ids: frozenset[str] | None = None,
        deleted_ids: frozenset[str] = frozenset(),
        paths: Sequence[KeyPath] = (),
        patients: frozenset[str] = frozenset(),
        bases: Sequence[str] = (),
    ) -> None:
        self.ids = ids
        """The only ids to export; None if that depends on the content."""
        self.deleted_ids = deleted_ids
        """The only ids whose deletion is exported, if `ids` is not None."""
        self._paths = paths
        self._patients = patients
        self._bases = bases

    def allows(self, line: bytes) -> bool:
        """
        Return whether a resource may be exported.

        Raises:
            msgspec.DecodeError: The line cannot be read.
        """
        if self.ids is not None:
            return msgspec.json.decode(line, type=_Identified).id in self.ids
        subjects = patients_at(decode_links(line), self._paths, self._bases)
        return self._patients.issuperset(subjects)

    def report(self, damaged: Damaged) -> Damaged | None:
        """Return a report, with its id withheld if need be; None if it must not be disclosed."""
        if damaged.id == UNKNOWN_ID:
            return damaged
        if self.ids is None:
            return msgspec.structs.replace(damaged, id=ID_WITHHELD)
        return damaged if damaged.id in self.ids else None


def disclosure(view: ExportView, resource_type: str) -> Disclosure | None:
    """Return the limit on the resources of a type, or None if all in the view may be exported."""
    request = view.request
    if resource_type == GROUP and view.groups is not None:
        return Disclosure(ids=view.groups, deleted_ids=view.groups | view.former_groups)
    if request.patients is None or request.level is Level.SYSTEM:
        return None
    patients = frozenset(request.patients)
    if resource_type == PATIENT:
        return Disclosure(ids=patients, deleted_ids=patients)
    if paths := subject_paths(request.fhir_version, resource_type):
        return Disclosure(paths=paths, patients=patients, bases=base_urls(request.base_url))
    return None


def reportable(view: ExportView, damaged: Iterable[Damaged]) -> list[Damaged]:
    """Return the reports of damaged resources, without hints at resources that are left out."""
    reports = list[Damaged]()
    for report in damaged:
        limit = disclosure(view, report.resource_type)
        allowed = report if limit is None else limit.report(report)
        if allowed is not None:
            reports.append(allowed)
    return reports
