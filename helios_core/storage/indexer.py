"""
Keep a search index up to date: build it, and follow the version log of the data provider.

Every step can be repeated, by any process and by several at once: entries are applied in any
order, and an instant is noted only once all changes up to it are in the index. A process that is
killed leaves at worst some entries that the next one applies again.
"""

import asyncio
import math
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace

from helios_core.errors import BackendError, BackendUnavailable
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.instants import from_stamp, to_stamp
from helios_core.storage.index_notes import (
    ENTRIES_VERSION,
    MAX_UNREADABLE,
    IndexNote,
    Unreadable,
    entries_version,
    new_epoch,
    read_note,
)
from helios_core.storage.index_work import VERSIONS_AT_ONCE, IndexWork, changes_between
from helios_core.storage.isolation import contained
from helios_core.storage.search_index import (
    Dataset,
    IndexState,
    SearchIndex,
)

log = structlog.stdlib.get_logger()

FIRST_WINDOW = timedelta(hours=1)
"""The period whose changes are indexed first; the next ones are longer while changes are few."""

BUILDER_SILENT = timedelta(seconds=60)
"""If a builder has noted nothing for so long, another process continues its build."""

QUIET = timedelta(seconds=60)
"""How far the noted instant may lag behind while nothing changes, to spare most notes."""

MIN_PAUSE_SECONDS = 0.1
"""The pause between two rounds, however much is written."""

MAX_PAUSE_FACTOR = 10
"""Maximum number of intervals until a tenant in which nothing changes is looked at again."""

MAX_FAILED_PAUSE_FACTOR = 600
"""Maximum number of intervals until a tenant that cannot be indexed is looked at again."""

MISSED = timedelta(seconds=60)
"""For how long a search that had to do without the index is reported as a problem."""

LAG = timedelta(seconds=60)
"""How far behind an index may be before it is reported to operators as a problem."""

MAX_COUNTED = 1000
"""Maximum number of waiting changes that are counted."""

_Provider = Any
"""A data provider with SupportsChangeFeed."""


class DatasetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far the index of one tenant and FHIR version has come."""

    tenant: str
    fhir_version: FHIRVersion
    state: str
    """`missing`, `building`, `outdated`, `ahead` or `following`."""
    reached: datetime | None
    lag_seconds: float | None
    """Maximum age of changes that are not indexed; 0 without any, None unless `following`."""
    changes: int | None
    """How many versions are not indexed, at most `MAX_COUNTED`; None unless `following`."""
    entries: int

    @property
    def dataset(self) -> Dataset:
        """The dataset that the status is about."""
        return Dataset(self.tenant, self.fhir_version)


class Indexer:
    """Follows one data provider with one index."""

    def __init__(
        self,
        provider: _Provider,
        index: SearchIndex,
        *,
        interval: timedelta = timedelta(seconds=1),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._provider = provider
        self._index = index
        self._interval = interval.total_seconds()
        self._clock = clock
        self._name = uuid.uuid4().hex
        self._due: dict[Dataset, _Due] = {}
        self._written = set[Dataset]()
        self._woken = asyncio.Event()
        self._failed = ""
        self._missed = "", -math.inf
        self._behind: dict[Dataset, timedelta] = {}

    def miss(self, reason: str) -> None:
        """Note why a search had to do without the index; `problems` reports it for a minute."""
        self._missed = reason, self._clock()

    def wake(self, tenant: str, fhir_version: FHIRVersion) -> None:
        """Make `run` index at once what was just written to a dataset."""
        self._written.add(Dataset(tenant, fhir_version))
        self._woken.set()

    def problems(self) -> list[str]:
        """Return one sentence for each thing that keeps the index behind, for the operator."""
        if self._failed:
            return [f"The search index does not follow the data: {self._failed}"]
        found = list[str]()
        reason, at = self._missed
        if self._clock() - at < MISSED.total_seconds():
            found.append(f"Searches do without the search index: {reason}")
        building = sum(behind == timedelta.max for behind in self._behind.values())
        if building:
            found.append(f"The search index is being built (tenants and versions: {building}).")
        late = [behind for behind in self._behind.values() if LAG < behind < timedelta.max]
        if late:
            seconds = max(late).total_seconds()
            found.append(f"The search index is up to {seconds:.0f} seconds behind the data.")
        return found

    async def run(self, stop: asyncio.Event) -> None:
        """Index changes until `stop` is set; a round that fails is repeated."""
        while not stop.is_set():
            started = time.monotonic()
            self._woken.clear()
            try:
                with contained():
                    await self.follow()
            except BackendError as error:
                self._fail(str(error))
            else:
                self._recover()
            pause = max(MIN_PAUSE_SECONDS, min(self._interval, 1.0))
            await _wait_for_any(pause if self._failed else MIN_PAUSE_SECONDS, stop)
            rest = self._interval - (time.monotonic() - started)
            await _wait_for_any(max(0.0, rest), stop, self._woken)

    async def follow(self, *, at_once: bool = False) -> None:
        """
        Index what has changed in the datasets that are due, or with `at_once` in all of them.

        Raises:
            BackendError: A dataset could not be indexed; the others were.
        """
        failure: BackendError | None = None
        written, self._written = self._written, set()
        # Types are listed after the instant, so none that was written up to it is left out.
        now: datetime = await self._provider.transaction_time()
        datasets = await datasets_of(self._provider)
        if not datasets:
            # An index that cannot be reached is reported before there is anything for it.
            await self._index.datasets()
        for dataset, types in datasets.items():
            due = self._due.pop(dataset, None)
            waits = due is not None and time.monotonic() < due.at
            if due is not None and waits and not at_once and dataset not in written:
                self._due[dataset] = due
                continue
            started, pause, most = time.monotonic(), self._interval, MAX_PAUSE_FACTOR
            try:
                with contained():
                    changed = await self._follow(dataset, types, now)
            except BackendUnavailable:
                raise
            except BackendError as error:
                failure, changed, most = error, False, MAX_FAILED_PAUSE_FACTOR
            if due is not None and not changed:
                pause = min(2 * due.pause, most * self._interval)
            self._due[dataset] = _Due(at=started + pause, pause=pause)
        if failure is not None:
            raise failure

    async def rebuild(
        self, *, tenant: str | None = None, fhir_version: str | None = None
    ) -> set[Dataset]:
        """
        Discard what is indexed, so that `follow` rebuilds it, and return the datasets to rebuild.

        These are all datasets, or those of one tenant or FHIR version if that is not None.
        """
        datasets = {
            dataset
            for dataset in {*await datasets_of(self._provider), *await self._index.datasets()}
            if tenant in {None, dataset.tenant}
            and fhir_version in {None, dataset.fhir_version.value}
        }
        for dataset in datasets:
            await self._reset(dataset, await self._index.state(dataset))
        return datasets

    async def status(self) -> list[DatasetStatus]:
        """Return the status of each dataset that has data or an index."""
        datasets = await datasets_of(self._provider)
        for dataset in await self._index.datasets():
            datasets.setdefault(dataset, ())
        ordered = sorted(
            datasets, key=lambda dataset: (dataset.tenant, dataset.fhir_version.value)
        )
        return [await self._status(dataset, datasets[dataset]) for dataset in ordered]

    async def _status(self, dataset: Dataset, types: tuple[str, ...]) -> DatasetStatus:
        state = await self._index.state(dataset)
        now: datetime = await self._provider.transaction_time()
        state_name, changes, lag = "following", None, None
        if state is None:
            state_name = "missing"
        elif entries_version(state) != ENTRIES_VERSION:
            state_name = "outdated"
        elif state.reached is None:
            state_name = "building"
        elif now < state.reached:
            state_name = "ahead"
        else:
            changes = await self._waiting(dataset, types, state.reached, now)
            lag = (now - state.reached).total_seconds() if changes else 0.0
        return DatasetStatus(
            tenant=dataset.tenant,
            fhir_version=dataset.fhir_version,
            state=state_name,
            reached=None if state is None else state.reached,
            lag_seconds=lag,
            changes=changes,
            entries=0 if state is None else await self._index.size(dataset, state.epoch),
        )

    async def _waiting(
        self, dataset: Dataset, types: tuple[str, ...], since: datetime, until: datetime
    ) -> int:
        query = changes_between(dataset, types, since, until)
        count, after = 0, None
        while count < MAX_COUNTED:
            page = await self._provider.versions(query, count=VERSIONS_AT_ONCE, after=after)
            count += len(page.versions)
            after = page.next
            if after is None:
                break
        return min(count, MAX_COUNTED)

    async def _follow(self, dataset: Dataset, types: tuple[str, ...], now: datetime) -> bool:
        """Index what has changed in a dataset up to an instant; return whether anything has."""
        state = await self._index.state(dataset)
        if state is None or entries_version(state) < ENTRIES_VERSION:
            state = await self._reset(dataset, state)
        if entries_version(state) != ENTRIES_VERSION:
            return False  # a newer release follows with entries of its own
        if state.reached is not None and await self._is_ahead(state.reached, now):
            log.error("index.ahead", tenant=dataset.tenant, fhir_version=dataset.fhir_version)
            state = await self._reset(dataset, state)
        note = read_note(state)
        report = _LateReport()
        work = IndexWork(self._provider, self._index, dataset, types, state, on_applied=report)
        if state.reached is None:
            self._behind[dataset] = timedelta.max
            await self._build(work, note, now)
            return True
        return await self._catch_up(work, state.reached, note, now)

    async def _is_ahead(self, reached: datetime, now: datetime) -> bool:
        """Return whether an index was built from another database or a later state of this one."""
        if reached <= now:
            return False
        # Another process may have indexed later changes since `now` was read.
        later: datetime = await self._provider.transaction_time()
        return reached > later

    async def _build(self, work: IndexWork, note: IndexNote, now: datetime) -> None:
        """Index everything as of one instant, except types that a build has already finished."""
        since_heard = self._clock() - note.seen / 1e6
        if note.builder not in {"", self._name} and since_heard < BUILDER_SILENT.total_seconds():
            return  # another process builds
        dataset = work.dataset
        at = to_stamp(now) if note.building_at is None else note.building_at
        note = replace(note, building_at=at, builder=self._name, complete_from=at)
        log.info("index.building", tenant=dataset.tenant, fhir_version=dataset.fhir_version)
        started = time.monotonic()
        instant = from_stamp(at)
        if not await self._advance(work, None, self._seen(note, work)):
            return
        for name in work.types:
            if name in note.built_types:
                continue
            async with aclosing(work.read(name, instant)) as shards:
                async for _ in shards:
                    if not await self._advance(work, None, self._seen(note, work)):
                        return
            note = replace(note, built_types=(*note.built_types, name))
            await self._advance(work, None, self._seen(note, work))
        done = IndexNote(complete_from=at, unreadable=self._unreadable(note, work))
        await self._advance(work, instant, done)
        self._behind.pop(dataset, None)
        log.info(
            "index.built",
            tenant=dataset.tenant,
            fhir_version=dataset.fhir_version,
            entries=work.applied,
            seconds=round(time.monotonic() - started, 1),
        )

    async def _catch_up(
        self, work: IndexWork, reached: datetime, note: IndexNote, now: datetime
    ) -> bool:
        """Index window after window of changes, up to now."""
        window = FIRST_WINDOW
        while reached < now:
            until = min(now, reached + window)
            self._behind[work.dataset] = now - reached
            left = await work.list_changes(reached, until)
            if left > reached:
                await work.read_changes(reached, left)
                note = replace(note, complete_from=to_stamp(left))
            if work.applied or work.damaged or now - reached > QUIET:
                note = replace(note, unreadable=self._unreadable(note, work))
                if not await self._advance(work, until, note):
                    break
            reached, window = until, window * 2 if left == reached else window
        self._behind.pop(work.dataset, None)
        return bool(work.applied)

    async def _advance(self, work: IndexWork, reached: datetime | None, note: IndexNote) -> bool:
        return await self._index.advance(
            work.dataset, work.epoch, reached=reached, note=note.encode()
        )

    async def _reset(self, dataset: Dataset, state: IndexState | None) -> IndexState:
        expected = None if state is None else state.epoch
        return await self._index.reset(dataset, new_epoch(uuid.uuid4().hex), expected=expected)

    def _seen(self, note: IndexNote, work: IndexWork) -> IndexNote:
        """Return the note of a build that goes on, with what it could not read so far."""
        unreadable = self._unreadable(note, work)
        return replace(note, unreadable=unreadable, seen=int(self._clock() * 1e6))

    def _unreadable(self, note: IndexNote, work: IndexWork) -> tuple[Unreadable, ...]:
        unreadable = work.unreadable
        if len(unreadable) > MAX_UNREADABLE:
            raise BackendError(
                f"more than {MAX_UNREADABLE} stored resources are damaged; store them again"
            )
        if unreadable - {*note.unreadable}:
            log.error("index.unreadable", tenant=work.dataset.tenant, resources=len(unreadable))
        return tuple(sorted(unreadable, key=attrgetter("resource_type", "id")))

    def _fail(self, reason: str) -> None:
        if reason != self._failed:
            log.warning("index.not_followed", reason=reason)
        self._failed = reason

    def _recover(self) -> None:
        if self._failed:
            log.info("index.followed")
            self._missed = "", -math.inf
        self._failed = ""


class _LateReport:
    """Logs every `LAG` that a pass is still at work."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._due = self._begun + LAG.total_seconds()

    def __call__(self, work: IndexWork) -> None:
        """Log that the work goes on, if that is due."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + LAG.total_seconds()
        log.warning(
            "index.behind",
            tenant=work.dataset.tenant,
            fhir_version=work.dataset.fhir_version,
            seconds=round(now - self._begun),
            entries=work.applied,
        )


class _Due(msgspec.Struct, frozen=True):
    """When a dataset is looked at again."""

    at: float
    """By the monotonic clock, in seconds."""
    pause: float


async def datasets_of(provider: _Provider) -> dict[Dataset, tuple[str, ...]]:
    """Return the datasets of a data provider, each with its types."""
    types = defaultdict[Dataset, set[str]](set)
    for key in await provider.collections():
        types[Dataset(key.tenant, key.fhir_version)].add(key.resource_type)
    return {dataset: tuple(sorted(names)) for dataset, names in types.items()}


async def _wait_for_any(seconds: float, *events: asyncio.Event) -> None:
    """Wait until one of several events is set, or some time has passed."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waiting:
            wait.cancel()
