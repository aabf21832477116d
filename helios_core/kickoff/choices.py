"""What of an export goes along with the resources asked for, and in what order they leave."""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from helios_core.errors import InvalidParameter
from helios_core.exports import Associated

ORGANIZERS = ("Group", "Organization", "Patient", "Practitioner")
"""The types whose instances can head blocks of output."""

NEVER_CONTEXT = frozenset({"Binary", "Patient"})
"""Types that are never added because something refers to them: they are somebody's data."""


class Decline(Protocol):
    """Refuses a request, or under handling=lenient notes what is ignored."""

    def __call__(self, reason: str, *, kind: Callable[[str], Exception]) -> None:
        """Refuse, or note the reason."""


def associated(values: Sequence[str], decline: Decline) -> Associated | None:
    """Give the widest of the choices of includeAssociatedData, None if there is none."""
    known = set[Associated]()
    for value in values:
        try:
            known.add(Associated(value))
        except ValueError:
            decline(
                f"includeAssociatedData: {value[:64]!r} is unknown; known are "
                f"{' and '.join(Associated)}.",
                kind=InvalidParameter,
            )
    return Associated.RELEVANT if Associated.RELEVANT in known else next(iter(known), None)


def organizer(value: str | None, decline: Decline) -> str | None:
    """Give the type that organizeOutputBy names, None if the output is not to be organized."""
    named = None if value is None else value.strip()
    if named is None or named in ORGANIZERS:
        return named
    decline(
        f"organizeOutputBy: output cannot be organized by {named[:64]!r}; it can be by "
        f"{', '.join(ORGANIZERS)}.",
        kind=InvalidParameter,
    )
    return None


def context_types(policy: Sequence[str], possible: Collection[str]) -> tuple[str, ...]:
    """Give those types of the operator's choice that are added when something refers to them."""
    wanted = (each for each in policy if each in possible and each not in NEVER_CONTEXT)
    return tuple(dict.fromkeys(wanted))
