"""
Transforms of outgoing resources: the contract of one, and the ones that a process applies.

The core applies them to every line of an export and, unless a transform says otherwise, to every
resource that is read over REST. A resource that cannot be transformed does not leave.
"""

import copy
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import msgspec
import structlog

from helios_core.errors import BackendError
from helios_core.storage.data_provider import Damaged
from helios_core.storage.integrity import DECODE_ERRORS, damaged_json
from helios_core.storage.isolation import Overdue, ThreadSlots, frames_of
from helios_core.storage.joined_lines import line_lengths
from helios_core.storage.keys import ResourceKey, TypeKey

MAX_CALL_LINES = 200
"""Maximum number of resources that are transformed between two looks at the time limit."""
MAX_CALL_BYTES = 1024 * 1024
"""Maximum bytes of them, unless a single resource is larger."""
MAX_THREADS = 8
"""
Maximum number of threads that transform for exports at once in a process, and as many for reads.

One that hangs counts on: when all of them do, every further call is late.
"""
DEFAULT_TIME_LIMIT = timedelta(seconds=60)

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")

log = structlog.stdlib.get_logger()


class Coding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A code of a code system (FHIR R4, Coding), for `meta.security` or `meta.tag`."""

    system: str
    code: str
    display: str | None = None


class RestReads(StrEnum):
    """What a server with a transform does about resources that are read over REST."""

    TRANSFORMED = "transformed"
    """They are transformed as well. Resources cannot be changed over REST."""
    WITHHELD = "withheld"
    """There are none: the server offers exports only."""
    UNTOUCHED = "untouched"
    """They are read, searched and changed as they are stored; only exports are transformed."""


class TransformEffect(msgspec.Struct, frozen=True, kw_only=True):
    """What a transform does to resources; the core holds it to that."""

    types: frozenset[str] | None = None
    """The types it is called for. All other types leave as they are; None is every type."""
    changes: bool = True
    """Whether what leaves may differ from what is stored; if not, the stored bytes leave."""
    drops: bool = True
    """Whether it keeps some resources back entirely, by returning None."""
    security: tuple[Coding, ...] = ()
    """Added by the core to `meta.security` of every resource of its types that leaves."""
    tags: tuple[Coding, ...] = ()
    """Added likewise to `meta.tag`. A transform that changes resources adds at least one code."""
    conceals: bool = True
    """
    Whether what it removes must not be found out by queries either.

    Filters look at resources as they are stored. With this, `_typeFilter` and searches over REST
    are refused.
    """
    rest: RestReads = RestReads.TRANSFORMED


class Transform(ABC):
    """
    Changes or drops resources on their way out.

    T1  The result depends on the resource and its key alone: every process and every attempt at a
        shard gets the same.
    T2  Any resource of its types is taken, with whatever FHIR allows in it: mandatory elements
        only, extensions of primitive values, contained resources, unknown elements.
    T3  The result is of the same type, and has the same id unless the transform can rename.
    T4  It drops and changes resources only if its effect says so.
    T5  It is called in several threads at once, and keeps nothing of one resource for the next.
    T6  Nothing of a resource gets into logs or onto standard output.
    T7  A new id is a valid one, tells nothing of the old one, and no two resources of a type get
        the same.
    T8  What it is there to remove is gone, wherever in the resource it stands.
    """

    @abstractmethod
    def apply(self, resource: dict[str, Any], key: TypeKey) -> dict[str, Any] | None:
        """
        Return what leaves of a resource, or None if nothing of it does.

        The resource is decoded JSON, numbers with a fraction as `Decimal`, and the transform's own
        to change. This is called in a thread. A resource at which it raises is reported as one
        that could not be exported; the message is not repeated anywhere.
        """


@runtime_checkable
class SupportsRenaming(Protocol):
    """
    The transform gives resources other ids.

    Then the ids of deletions and of the headers of organized output are renamed too, error files
    name none, the parameter `patient` is refused, and resources cannot be read over REST.
    """

    def rename(self, key: ResourceKey) -> str:
        """Return the id under which a resource leaves (T1, T5, T7)."""
        ...


class OpenedTransform(msgspec.Struct, frozen=True, kw_only=True):
    """A transform that a process has opened."""

    plugin: str
    transform: Transform
    effect: TransformEffect


class TransformedLines(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of some lines."""

    lines: Sequence[bytes | None]
    """One entry for each line, in order; None for one that does not leave."""
    damaged: Sequence[Damaged] = ()
    """A report for each that does not leave because a transform failed."""

    @property
    def kept(self) -> list[bytes]:
        """The lines that leave."""
        return [line for line in self.lines if line is not None]


class Transforms:
    """The transforms of a process, applied one after the other in the order of `HFS_PLUGINS`."""

    def __init__(
        self,
        opened: Sequence[OpenedTransform] = (),
        *,
        time_limit: timedelta = DEFAULT_TIME_LIMIT,
    ) -> None:
        """Take what is opened; `time_limit` is for `MAX_CALL_LINES` resources."""
        self._opened = tuple(opened)
        self._time_limit = time_limit
        self._threads = ThreadSlots(MAX_THREADS)

    @property
    def names(self) -> tuple[str, ...]:
        """The plugins whose transforms these are."""
        return tuple(each.plugin for each in self._opened)

    @property
    def conceals(self) -> bool:
        """Whether one of them removes what queries must not find out."""
        return any(each.effect.conceals for each in self._opened)

    @property
    def renames(self) -> bool:
        """Whether one of them gives resources other ids."""
        return any(isinstance(each.transform, SupportsRenaming) for each in self._opened)

    @property
    def rest(self) -> RestReads:
        """What becomes of resources that are read over REST: the strictest of their choices."""
        choices = {each.effect.rest for each in self._opened}
        strict = (RestReads.WITHHELD, RestReads.TRANSFORMED)
        return next((each for each in strict if each in choices), RestReads.UNTOUCHED)

    def of_reads(self) -> "Transforms":
        """Return those that apply to what is read over REST."""
        applied = [each for each in self._opened if each.effect.rest is not RestReads.UNTOUCHED]
        return Transforms(applied, time_limit=self._time_limit)

    def touches(self, resource_type: str) -> bool:
        """Whether one of them is called for resources of a type."""
        return bool(self._chain(resource_type))

    def drops(self, resource_type: str) -> bool:
        """Whether one of them keeps resources of a type back."""
        return any(each.effect.drops for each in self._chain(resource_type))

    async def apply(self, key: TypeKey, lines: Sequence[bytes]) -> TransformedLines:
        """
        Return what leaves of lines of one type.

        Raises:
            BackendError: A transform took longer than its time limit.
        """
        chain = self._chain(key.resource_type)
        if not chain:
            return TransformedLines(lines=lines)
        transformed = list[bytes | None]()
        damaged = list[Damaged]()
        for some in _split(lines):
            call = _Call(chain, key)
            try:
                transformed += await self._threads.run(self._time_limit, call.apply, some)
            except Overdue as error:
                raise self._overdue(call, key) from error
            damaged += call.damaged
            call.log_failures()
        return TransformedLines(lines=transformed, damaged=damaged)

    async def rename(self, key: TypeKey, ids: Sequence[str]) -> list[str]:
        """
        Return the ids under which resources of one type leave.

        Raises:
            BackendError: A transform fails to rename one, or took longer than its time limit.
        """
        chain = [each for each in self._chain(key.resource_type) if _renames(each)]
        if not chain or not ids:
            return list(ids)
        call = _Call(chain, key)
        try:
            return await self._threads.run(self._time_limit, call.rename, ids)
        except Overdue as error:
            raise self._overdue(call, key) from error
        except Exception as error:  # noqa: BLE001  a foreign transform may raise anything
            log.warning(
                "transform.failed",
                plugin=call.plugin,
                type=key.resource_type,
                error=type(error).__name__,
                where=frames_of(error),
                count=1,
            )
            raise BackendError(
                f"Plugin {call.plugin} fails to rename a {key.resource_type}."
            ) from None

    def _chain(self, resource_type: str) -> list[OpenedTransform]:
        return [
            each
            for each in self._opened
            if each.effect.types is None or resource_type in each.effect.types
        ]

    def _overdue(self, call: "_Call", key: TypeKey) -> BackendError:
        seconds = self._time_limit.total_seconds()
        log.error(
            "transform.overdue",
            plugin=call.plugin,
            type=key.resource_type,
            timeout_seconds=seconds,
        )
        return BackendError(
            f"Plugin {call.plugin} took longer than {seconds:g} seconds to transform at most "
            f"{MAX_CALL_LINES} resources of type {key.resource_type}."
        )


NO_TRANSFORMS = Transforms()


class _BrokenEffect(Exception):
    """A transform did what its effect rules out; the message says what, and nothing else."""


class _Call:
    """One call in a thread: some lines of one type through all transforms of the type."""

    def __init__(self, chain: Sequence[OpenedTransform], key: TypeKey) -> None:
        self.damaged = list[Damaged]()
        self.plugin = chain[0].plugin
        """The plugin that is at work."""
        self._chain = chain
        self._key = key
        self._changes = any(each.effect.changes for each in chain)
        self._failures = Counter[tuple[str, str, tuple[str, ...]]]()

    def apply(self, lines: Sequence[bytes]) -> list[bytes | None]:
        return [self._apply(line) for line in lines]

    def rename(self, ids: Sequence[str]) -> list[str]:
        return [self._renamed_by_all(each) for each in ids]

    def log_failures(self) -> None:
        for (plugin, error, where), count in self._failures.items():
            log.warning(
                "transform.failed",
                plugin=plugin,
                type=self._key.resource_type,
                error=error,
                where=list(where),
                count=count,
            )

    def _apply(self, line: bytes) -> bytes | None:
        try:
            stored = resource = decode_resource(line)
        except DECODE_ERRORS:
            self.damaged.append(damaged_json(self._key.resource_type, line))
            return None
        resource_id = stored.get("id")
        try:
            for step in self._chain:
                self.plugin = step.plugin
                result = self._apply_one(step, resource)
                if result is None:
                    return None
                resource = result
            return self._encode(resource) if self._changes else line
        except BaseException as error:  # noqa: BLE001  a thread, in which only the plugin raises
            self._fail(resource_id, error)
            return None

    def _apply_one(self, step: OpenedTransform, resource: dict[str, Any]) -> Any:  # noqa: ANN401
        effect = step.effect
        keeps_original = not effect.changes and self._changes
        resource_id = resource.get("id")
        result: Any = step.transform.apply(
            copy.deepcopy(resource) if keeps_original else resource, self._key
        )
        if result is None:
            if effect.drops:
                return None
            raise _BrokenEffect("drops a resource")
        if not effect.changes:
            return resource
        if not isinstance(result, dict) or result.get("resourceType") != self._key.resource_type:
            raise _BrokenEffect("changes the type of a resource")
        if result.get("id") != self._renamed(step, resource_id):
            raise _BrokenEffect("changes the id of a resource")
        _add_codings(result, effect)
        return result

    def _renamed_by_all(self, resource_id: str) -> str:
        for step in self._chain:
            self.plugin = step.plugin
            resource_id = self._renamed(step, resource_id)
        return resource_id

    def _renamed(self, step: OpenedTransform, resource_id: Any) -> Any:  # noqa: ANN401  from JSON
        transform = step.transform
        if not isinstance(transform, SupportsRenaming):
            return resource_id
        renamed: Any = transform.rename(self._key.resource(resource_id))
        if not isinstance(renamed, str) or not _ID.fullmatch(renamed):
            raise _BrokenEffect("gives a resource an id that is none")
        return renamed

    def _encode(self, resource: dict[str, Any]) -> bytes:
        line = encode_resource(resource)
        if b"\n" in line:
            raise _BrokenEffect("breaks the line")
        return line

    def _fail(self, resource_id: object, error: BaseException) -> None:
        cause = str(error) if isinstance(error, _BrokenEffect) else type(error).__name__
        self._failures[self.plugin, cause, tuple(frames_of(error))] += 1
        self.damaged.append(
            Damaged(
                resource_type=self._key.resource_type,
                id=str(resource_id),
                reason=f"plugin {self.plugin} failed to transform it",
            )
        )


# Fractions keep their text: 1.10 is another decimal than 1.1 (FHIR R4, datatypes.html#decimal).
decode_resource = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode
encode_resource = msgspec.json.Encoder(decimal_format="number").encode


def _renames(opened: OpenedTransform) -> bool:
    return isinstance(opened.transform, SupportsRenaming)


def _add_codings(resource: dict[str, Any], effect: TransformEffect) -> None:
    for name, codings in (("security", effect.security), ("tag", effect.tags)):
        if not codings:
            continue
        present = resource.setdefault("meta", {}).setdefault(name, [])
        known = {(each.get("system"), each.get("code")) for each in present}
        present += [
            msgspec.to_builtins(each) for each in codings if (each.system, each.code) not in known
        ]


def _split(lines: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Split lines into pieces that one call transforms."""
    start = size = 0
    for index, length in enumerate(line_lengths(lines)):
        size += length
        if index > start and (index - start == MAX_CALL_LINES or size > MAX_CALL_BYTES):
            yield lines[start:index]
            start, size = index, length
    if start < len(lines):
        yield lines[start:]
