"""Random histories of writes, exported at any of their instants and compared with a model."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, initialize, multiple, rule

from helios_core import (
    AppliedChange,
    ChangeResult,
    DataProvider,
    ExportView,
    Level,
    SupportsPrefilter,
)
from helios_core.fhir import Resource
from helios_core.testing import corpus
from helios_core.testing.data_provider.contract import DataProviderContract, delete, write
from helios_core.testing.data_provider.prefilters import compile_searches, sift_all
from helios_core.testing.machines import BackendMachine
from helios_core.testing.snapshots import Snapshot, take_snapshot

TENANTS = (corpus.TENANT, corpus.OTHER_TENANT)
PATIENTS = ("p1", "p2", "p3")


class Step(msgspec.Struct, frozen=True):
    """One change of a resource."""

    resource: Resource
    keep: bool
    """Whether to put the resource, or to delete it."""


class _Version(msgspec.Struct, frozen=True, kw_only=True):
    stamp: datetime
    number: int
    resource: Resource
    live: bool


_NOTES = st.sampled_from(["a", "b"])
_RESOURCES = st.one_of(
    st.builds(lambda i, note: corpus.patient(i, note=note), st.sampled_from(PATIENTS), _NOTES),
    st.builds(
        lambda i, subjects, note: corpus.observation(i, *sorted(subjects), note=note),
        st.sampled_from(["o1", "o2"]),
        st.sets(st.sampled_from(PATIENTS), max_size=2),
        _NOTES,
    ),
    st.builds(lambda note: corpus.organization("x", note=note), _NOTES),
)
STEPS = st.lists(st.builds(Step, _RESOURCES, st.sampled_from([True, True, False])), max_size=4)
CONDITIONS = (
    compile_searches([[("subject", "p1")], [("_id", "o2")]]),
    compile_searches([[("_id", "p1,p2"), ("_lastUpdated", "gt2020")]], "Patient"),
)
"""Filters of these resources for which an index can be used."""
_COHORTS = st.none() | st.sets(st.sampled_from(PATIENTS))


class DataProviderMachine(BackendMachine[DataProvider]):
    """Writes, and exports the state of any earlier instant."""

    runs = 20
    """Few, because one step is a whole export, read three times."""
    suite: DataProviderContract
    instants = Bundle("instants")
    """Transaction times that an export may have."""
    stamps = Bundle("stamps")
    """Instants of writes, at which inclusive and exclusive bounds differ."""

    def __init__(self) -> None:
        super().__init__()
        self.model = defaultdict[tuple[str, str], list[_Version]](list)
        """The versions of each resource by tenant and `Type/id`, oldest first."""
        self.last = datetime.min.replace(tzinfo=UTC)

    def opened(self, folder: Path) -> AbstractAsyncContextManager[DataProvider]:
        """Open a new provider."""
        return self.suite.opened(folder)

    @initialize(target=instants)
    def begin(self) -> datetime:
        """P1: there is an instant before all writes."""
        return self._now()

    @rule(target=instants)
    def mark(self) -> datetime:
        """P1: the transaction time is not before any stamp so far."""
        return self._now()

    def _now(self) -> datetime:
        now = self.run(self.backend.transaction_time())
        assert now >= self.last
        self.last = now
        return now

    @rule(target=stamps, tenant=st.sampled_from(TENANTS), steps=STEPS)
    def write(self, tenant: str, steps: Sequence[Step]) -> object:
        """SupportsWrites: each change has the effect that the model expects."""
        before = self.last
        self._follow(tenant, steps, self.run(self._write(tenant, steps)))
        return multiple() if self.last == before else self.last

    @rule(
        at=st.none() | instants,
        since=st.none() | instants | stamps,
        until=st.none() | instants | stamps,
        level=st.sampled_from([Level.SYSTEM, Level.PATIENT]),
        cohort=_COHORTS,
        sizes=st.tuples(st.sampled_from([1, 500, 10_000]), st.sampled_from([1, 700, 10_000])),
        meanwhile=STEPS,
    )
    def export(  # noqa: PLR0913 - what an export depends on
        self,
        *,
        at: datetime | None,
        since: datetime | None,
        until: datetime | None,
        level: Level,
        cohort: set[str] | None,
        sizes: tuple[int, int],
        meanwhile: Sequence[Step],
    ) -> None:
        """P1, P2, P3, P5, P7: an export shows the model's state, whoever writes meanwhile."""
        at = at or self._now()
        request = corpus.request(
            level=level if cohort is None else Level.GROUP, since=since, until=until
        )
        view = corpus.view(at, request, patients=cohort)

        snapshot = self.run(self._export(view, sizes, meanwhile))

        changes = [
            current
            for (tenant, _), versions in self.model.items()
            if tenant == corpus.TENANT
            and (current := _current(versions, at)) is not None
            and _shows(view, current)
        ]
        assert sorted(snapshot.lines) == sorted(_line(each) for each in changes if each.live)
        if isinstance(self.backend, SupportsPrefilter):
            for found in self.run(sift_all(self.backend, view, CONDITIONS)):
                assert found.matches == found.expected
        gone = [corpus.name(each.resource) for each in changes if not each.live]
        assert list(snapshot.deleted) == (sorted(gone) if since is not None else [])

    async def _export(
        self, view: ExportView, sizes: tuple[int, int], meanwhile: Sequence[Step]
    ) -> Snapshot:
        shard_bytes, batch_bytes = sizes
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(self._write(corpus.TENANT, meanwhile))
            snapshot = await take_snapshot(
                self.backend, view, shard_bytes=shard_bytes, batch_bytes=batch_bytes
            )
        self._follow(corpus.TENANT, meanwhile, writing.result())
        return snapshot

    async def _write(self, tenant: str, steps: Sequence[Step]) -> list[AppliedChange]:
        changes = [step.resource if step.keep else delete(step.resource) for step in steps]
        return await write(self.backend, *changes, tenant=tenant)

    def _follow(
        self, tenant: str, steps: Sequence[Step], applied: Sequence[AppliedChange]
    ) -> None:
        """Apply the same changes to the model, and compare the results."""
        stamps = set[datetime]()
        for step, result in zip(steps, applied, strict=True):
            versions = self.model[tenant, corpus.name(step.resource)]
            expected = _outcome(versions, step)
            assert result.outcome is expected
            if expected not in (ChangeResult.UNCHANGED, ChangeResult.ABSENT):
                assert result.last_updated is not None
                stamps.add(result.last_updated)
                versions.append(_next(versions, step, result.last_updated))
                assert result.version_id == versions[-1].number
        assert len(stamps) <= 1
        for stamp in stamps:
            assert stamp > self.last
            self.last = stamp


def _outcome(versions: Sequence[_Version], step: Step) -> ChangeResult:
    live = bool(versions) and versions[-1].live
    if not step.keep:
        return ChangeResult.DELETED if live else ChangeResult.ABSENT
    if not live:
        return ChangeResult.CREATED
    same = versions[-1].resource.content_hash == step.resource.content_hash
    return ChangeResult.UNCHANGED if same else ChangeResult.UPDATED


def _next(versions: Sequence[_Version], step: Step, stamp: datetime) -> _Version:
    resource = step.resource if step.keep else versions[-1].resource
    return _Version(stamp=stamp, number=len(versions) + 1, resource=resource, live=step.keep)


def _current(versions: Sequence[_Version], at: datetime) -> _Version | None:
    past = [version for version in versions if version.stamp <= at]
    return past[-1] if past else None


def _shows(view: ExportView, version: _Version) -> bool:
    since, until = view.request.since, view.request.until
    late_enough = since is None or version.stamp > since
    early_enough = until is None or version.stamp < until
    patients = set(version.resource.patients)
    if view.cohort is not None:
        return late_enough and early_enough and bool(patients & view.cohort.patients)
    in_level = view.request.level is Level.SYSTEM or bool(patients)
    return late_enough and early_enough and in_level


def _line(version: _Version) -> bytes:
    return version.resource.stamped(version.number, version.stamp)
