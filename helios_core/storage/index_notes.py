"""What the core writes into the state of a search index, and whether it can use an index."""

import msgspec

from helios_core.fhir.search import TERMS_VERSION, VALUES_VERSION
from helios_core.storage.search_index import IndexState

ENTRIES_VERSION = TERMS_VERSION + VALUES_VERSION
"""
The version of the entries that this release makes; entries of another version are rebuilt.

Both numbers only grow, so no two releases with different entries have the same sum.
"""

MAX_UNREADABLE = 500
"""Maximum number of unreadable resources that the note of an index lists."""


class Unreadable(msgspec.Struct, frozen=True, array_like=True):
    """A resource that could not be read, and is therefore a candidate of every search."""

    resource_type: str
    id: str


class IndexNote(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the core notes about the entries of an epoch."""

    complete_from: int | None = None
    """
    The instant from which on every deletion has an entry, in microseconds since 1970.

    A resource that was live at an earlier instant and is deleted may have no entry.
    """
    unreadable: tuple[Unreadable, ...] = ()
    building_at: int | None = None
    """The settled instant that a build indexes, in microseconds since 1970; None if none runs."""
    built_types: tuple[str, ...] = ()
    """The types that the build has finished."""
    builder: str = ""
    """The name of the process that builds."""
    seen: int = 0
    """When the builder last wrote a note, by its own clock, in microseconds since 1970."""

    def encode(self) -> str:
        """Return the note as text."""
        return msgspec.json.encode(self).decode()


def read_note(state: IndexState) -> IndexNote:
    """Return the note of a state; if there is none, an empty one."""
    try:
        return msgspec.json.decode(state.note, type=IndexNote)
    except msgspec.DecodeError:
        return IndexNote()


def new_epoch(unique: str) -> str:
    """Return the name of an epoch with the entries of this release."""
    return f"{ENTRIES_VERSION}-{unique}"


def entries_version(state: IndexState) -> int:
    """Return the `ENTRIES_VERSION` of an epoch's entries, 0 if it is not known."""
    number = state.epoch.partition("-")[0]
    return int(number) if number.isdecimal() else 0
