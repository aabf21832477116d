"""What the core writes into the state of a search index, and whether it can use an index."""

import msgspec

from helios_core.fhir.search import TERMS_VERSION, VALUES_VERSION
from helios_core.storage.search_index import IndexState

ENTRIES_VERSION = TERMS_VERSION + VALUES_VERSION
"""
Which entries this release makes; those of another one are not used, and built again.

Either number only grows, so that no two releases with different entries have the same sum.
"""

MAX_UNREADABLE = 500
"""How many unreadable resources are known to an index at most."""


class Unreadable(msgspec.Struct, frozen=True, array_like=True):
    """A resource that could not be read, and is a candidate of every search therefore."""

    resource_type: str
    id: str


class IndexNote(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the core knows of the entries of an epoch."""

    complete_from: int | None = None
    """
    From which instant on it is known what was deleted, in microseconds since 1970.

    A resource that was live at an earlier instant and is deleted may have no entry.
    """
    unreadable: tuple[Unreadable, ...] = ()
    building_at: int | None = None
    """The settled instant as of which the index is first built, while it is."""
    built_types: tuple[str, ...] = ()
    """The types that are built already."""
    builder: str = ""
    """The process that builds."""
    seen: int = 0
    """When the builder was last heard of, by its own clock."""

    def encode(self) -> str:
        """Return the note as text."""
        return msgspec.json.encode(self).decode()


def read_note(state: IndexState) -> IndexNote:
    """Return the note of a state; without one nothing is known."""
    try:
        return msgspec.json.decode(state.note, type=IndexNote)
    except msgspec.DecodeError:
        return IndexNote()


def new_epoch(unique: str) -> str:
    """Return the name of an epoch with the entries of this release."""
    return f"{ENTRIES_VERSION}-{unique}"


def entries_version(state: IndexState) -> int:
    """Return which release's entries an epoch has, 0 if that is not known."""
    number = state.epoch.partition("-")[0]
    return int(number) if number.isdecimal() else 0
