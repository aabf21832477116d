"""Apply the transforms of plugins to lines, and check that each does only what it declares."""

import copy
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any

import msgspec
import structlog

from helios_core.errors import BackendError
from helios_core.fhir.strict_json import exact_number
from helios_core.storage.data_provider import Damaged
from helios_core.storage.integrity import DECODE_ERRORS, damaged_json
from helios_core.storage.isolation import Overdue, ThreadSlots, frames_of
from helios_core.storage.joined_lines import line_lengths
from helios_core.storage.resource_keys import TypeKey
from helios_core.storage.transforms import (
    Coding,
    RestReads,
    SupportsRenaming,
    Transform,
    TransformEffect,
)

MAX_CALL_LINES = 200
"""Maximum number of resources in one call, which the time limit is for."""
MAX_CALL_BYTES = 1024 * 1024
"""Maximum bytes of resources in one call, unless a single resource is larger."""
MAX_THREADS = 8
"""
Maximum number of threads that transform for exports at once in a process, and as many for reads.

A thread that hangs still counts: when all of them hang, every further call is late.
"""
DEFAULT_TIME_LIMIT = timedelta(seconds=60)

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")

log = structlog.stdlib.get_logger()

# Fractions keep their text: 1.10 is another decimal than 1.1 (FHIR R4, datatypes.html#decimal).
decode_resource = msgspec.json.Decoder(dict[str, Any], float_hook=exact_number).decode
encode_resource = msgspec.json.Encoder(decimal_format="number").encode


class OpenedTransform(msgspec.Struct, frozen=True, kw_only=True):
    """A transform that a process has opened."""

    plugin: str
    transform: Transform
    effect: TransformEffect

    @property
    def renames(self) -> bool:
        """Whether the transform gives resources other ids."""
        return isinstance(self.transform, SupportsRenaming)


class TransformedLines(msgspec.Struct, frozen=True, kw_only=True):
    """The result of transforming lines."""

    lines: Sequence[bytes | None]
    """One entry for each line, in order; None for one that does not leave the server."""
    damaged: Sequence[Damaged] = ()
    """A report for each line that does not leave because a transform failed."""

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
        """Take opened transforms; `time_limit` is for `MAX_CALL_LINES` resources."""
        self._opened = tuple(opened)
        self._time_limit = time_limit
        self._threads = ThreadSlots(MAX_THREADS)

    @property
    def names(self) -> tuple[str, ...]:
        """The plugins whose transforms these are."""
        return tuple(each.plugin for each in self._opened)

    @property
    def conceals(self) -> bool:
        """Whether one of them removes data that queries must not reveal."""
        return any(each.effect.conceals for each in self._opened)

    @property
    def renames(self) -> bool:
        """Whether one of them gives resources other ids."""
        return any(each.renames for each in self._opened)

    @property
    def rest(self) -> RestReads:
        """What is done about resources read over REST: the strictest of their choices."""
        choices = {each.effect.rest for each in self._opened}
        strict = (RestReads.WITHHELD, RestReads.TRANSFORMED)
        return next((each for each in strict if each in choices), RestReads.UNTOUCHED)

    @cached_property
    def of_reads(self) -> "Transforms":
        """Those that apply to what is read over REST, with threads of their own."""
        applied = [each for each in self._opened if each.effect.rest is not RestReads.UNTOUCHED]
        return Transforms(applied, time_limit=self._time_limit)

    def touches(self, resource_type: str) -> bool:
        """Return whether one of them is called for resources of a type."""
        return bool(self._chain(resource_type))

    def drops(self, resource_type: str) -> bool:
        """Return whether one of them keeps resources of a type back."""
        return any(each.effect.drops for each in self._chain(resource_type))

    async def apply(self, key: TypeKey, lines: Sequence[bytes]) -> TransformedLines:
        """
        Return lines of one type as they leave the server.

        Raises:
            BackendError: A transform took longer than its time limit.
        """
        chain = self._chain(key.resource_type)
        if not chain:
            return TransformedLines(lines=lines)
        transformed = list[bytes | None]()
        damaged = list[Damaged]()
        for piece in _split(lines):
            call = _Call(chain, key)
            try:
                transformed += await self._threads.run(self._time_limit, call.apply, piece)
            except Overdue as error:
                raise self._overdue(call, key) from error
            damaged += call.damaged
            call.log_failures()
        return TransformedLines(lines=transformed, damaged=damaged)

    async def rename(self, key: TypeKey, ids: Sequence[str]) -> list[str]:
        """
        Return the ids under which resources of one type leave.

        Raises:
            BackendError: A transform failed to rename one, or took longer than its time limit.
        """
        chain = [each for each in self._chain(key.resource_type) if each.renames]
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


class _Step:
    """One transform, applied to many resources of one type."""

    def __init__(self, opened: OpenedTransform, key: TypeKey, *, discarded: bool) -> None:
        self.plugin = opened.plugin
        self._transform = opened.transform
        self._rename = getattr(opened.transform, "rename", None) if opened.renames else None
        self._key = key
        self._effect = opened.effect
        # A transform that only drops must not alter a resource that others change. Without others
        # the result is discarded, and no copy is needed.
        self._copies = not opened.effect.changes and not discarded
        self._codings = [
            (name, [(each.system, each.code) for each in codings], msgspec.to_builtins(codings))
            for name, codings in _declared(opened.effect)
        ]

    def apply(self, resource: dict[str, Any]) -> dict[str, Any] | None:
        resource_id = resource.get("id")
        stored = copy.deepcopy(resource) if self._copies else resource
        result: Any = self._transform.apply(resource, self._key)
        if result is None:
            if self._effect.drops:
                return None
            raise _BrokenEffect("drops a resource")
        if not self._effect.changes:
            return stored
        if not isinstance(result, dict) or result.get("resourceType") != self._key.resource_type:
            raise _BrokenEffect("changes the type of a resource")
        if result.get("id") != self.rename(resource_id):
            raise _BrokenEffect("changes the id of a resource")
        self._add_codings(result)
        return result

    def rename(self, resource_id: Any) -> Any:  # noqa: ANN401  from JSON
        if self._rename is None:
            return resource_id
        renamed: Any = self._rename(self._key.resource(resource_id))
        if not isinstance(renamed, str) or not _ID.fullmatch(renamed):
            raise _BrokenEffect("gives a resource an invalid id")
        return renamed

    def _add_codings(self, resource: dict[str, Any]) -> None:
        for name, pairs, codings in self._codings:
            present = resource.setdefault("meta", {}).setdefault(name, [])
            known = {(each.get("system"), each.get("code")) for each in present}
            present += [
                dict(coding)
                for pair, coding in zip(pairs, codings, strict=True)
                if pair not in known
            ]


class _Call:
    """One call in a thread: some lines of one type through all transforms of the type."""

    def __init__(self, chain: Sequence[OpenedTransform], key: TypeKey) -> None:
        self.damaged = list[Damaged]()
        self.plugin = chain[0].plugin
        """The plugin whose transform runs."""
        self._key = key
        self._changes = any(each.effect.changes for each in chain)
        self._steps = [_Step(each, key, discarded=not self._changes) for each in chain]
        self._failures = Counter[tuple[str, str, tuple[str, ...]]]()

    def apply(self, lines: Sequence[bytes]) -> list[bytes | None]:
        return [self._apply(line) for line in lines]

    def rename(self, ids: Sequence[str]) -> list[str]:
        renamed = list(ids)
        for step in self._steps:
            self.plugin = step.plugin
            renamed = [step.rename(each) for each in renamed]
        return renamed

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
            stored = decode_resource(line)
        except DECODE_ERRORS:
            self.damaged.append(damaged_json(self._key.resource_type, line))
            return None
        resource_id = stored.get("id")
        try:
            result = self._through_all(stored)
            if result is None:
                return None
            return _one_line(result) if self._changes else line
        except BaseException as error:  # noqa: BLE001  a thread, in which only the plugin raises
            self._fail(resource_id, error)
            return None

    def _through_all(self, resource: dict[str, Any] | None) -> dict[str, Any] | None:
        for step in self._steps:
            if resource is not None:
                self.plugin = step.plugin
                resource = step.apply(resource)
        return resource

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


def _declared(effect: TransformEffect) -> list[tuple[str, tuple[Coding, ...]]]:
    named = (("security", effect.security), ("tag", effect.tags))
    return [(name, codings) for name, codings in named if codings]


def _one_line(resource: dict[str, Any]) -> bytes:
    line = encode_resource(resource)
    if b"\n" in line:
        raise _BrokenEffect("breaks the line")
    return line


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
