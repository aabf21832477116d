"""What a subclass of the data provider suite implements, and helpers of its tests."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pytest

from helios_core import (
    AppliedChange,
    DataProvider,
    Delete,
    ExportRequest,
    ExportView,
    Level,
    Put,
    StoredVersion,
    SupportsChangeFeed,
    SupportsHistory,
    SupportsPrefilter,
    SupportsSearch,
    SupportsTombstones,
    SupportsTypeHistory,
    SupportsWrites,
    TypeKey,
)
from helios_core.fhir import FHIRVersion, Resource
from helios_core.testing import corpus
from helios_core.testing.data_provider.holdings import Holdings, Sample
from helios_core.testing.suites import ContractSuite

POWERS_OVER_ANYTHING = frozenset({SupportsWrites, SupportsSearch, SupportsPrefilter})
"""Powers whose tests store resources that only a provider without limits can hold."""

# Both are primes, so that ids are distinct and not in the order in which they are stored.
_ID_STEP = 7919
_MAX_ID = 1_000_003


class DataProviderContract(ContractSuite):
    """
    What a subclass implements so that the suite can test its data provider.

    Every subclass implements `opened` and `damage`. The rest depends on how resources are stored:

    - For a provider with SupportsWrites, the suite writes them. The subclass also implements
      `raw_current`, `lose` and `set_clock_back`.
    - For a provider that others fill with any resource, the subclass implements `seed`.
    - For a provider over tables of its own, it declares `holdings` and implements `inserting`.

    All of these but `opened` bypass the provider with a driver of their own, so that a provider
    that is wrong in both directions cannot agree with itself.
    """

    known_powers = frozenset(
        {
            SupportsWrites,
            SupportsHistory,
            SupportsTypeHistory,
            SupportsChangeFeed,
            SupportsSearch,
            SupportsTombstones,
            SupportsPrefilter,
        },
    )
    holdings: ClassVar[Holdings] = Holdings()
    """What the provider can hold, if that is limited; set by the subclass."""
    persistent: ClassVar[bool] = True
    """Whether providers opened on one folder, at once or one after another, share their data."""

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401 - passed on untouched
        """Raise TypeError for holdings that cannot be tested."""
        super().__init_subclass__(**kwargs)
        if problem := cls.holdings.problem():
            raise TypeError(f"{cls.__name__}: {problem}")
        claimed = sorted(power.__name__ for power in cls.powers & POWERS_OVER_ANYTHING)
        if cls.holdings != Holdings() and claimed:
            raise TypeError(
                f"{cls.__name__} claims {', '.join(claimed)}, whose tests store resources of every"
                " kind, but its holdings are limited"
            )

    def opened(self, folder: Path) -> AbstractAsyncContextManager[DataProvider]:
        """Open the provider whose data is in, or named after, the folder; new if that is empty."""
        raise NotImplementedError

    async def damage(self, provider: DataProvider, resource_type: str, resource_id: str) -> None:
        """Damage the stored current version of a resource of the first tenant."""
        raise NotImplementedError

    async def lose(
        self, provider: DataProvider, resource_type: str, resource_ids: Sequence[str]
    ) -> None:
        """Remove all stored data of resources of the first tenant; only with SupportsWrites."""
        raise NotImplementedError

    async def raw_current(
        self, provider: DataProvider, tenant: str, fhir_version: FHIRVersion
    ) -> Mapping[str, int]:
        """Return the current version of every live resource, by `Type/id`."""
        raise NotImplementedError

    async def set_clock_back(self, provider: DataProvider, by: timedelta) -> None:
        """Set the data's clock back; only with SupportsWrites."""
        raise NotImplementedError

    async def seed(
        self,
        provider: DataProvider,
        *resources: Resource,
        tenant: str = corpus.TENANT,
        fhir_version: FHIRVersion = corpus.VERSION,
    ) -> None:
        """Store resources as version 1, at a later instant than all that was stored before."""
        await write(provider, *resources, tenant=tenant, fhir_version=fhir_version)

    @asynccontextmanager
    async def inserting(
        self,
        provider: DataProvider,
        samples: Sequence[Sample],
        *,
        tenant: str,
        fhir_version: FHIRVersion,
    ) -> AsyncIterator[None]:
        """
        Store samples in a transaction that is committed when the block ends.

        When the block begins, they have been written, with an instant that is later than that of
        all that was stored before. A patient comes before the samples that are about it. This
        default stores resources of the corpus by `seed` when the block ends.
        """
        yield
        resources = [sample.resource(fhir_version) for sample in samples]
        await self.seed(provider, *resources, tenant=tenant, fhir_version=fhir_version)

    @pytest.fixture
    async def provider(self, tmp_path: Path) -> AsyncIterator[DataProvider]:
        """Open a provider without data."""
        async with self.opened(tmp_path) as provider:
            yield provider

    @pytest.fixture
    def subject(self, provider: DataProvider) -> DataProvider:
        """Return the implementation that the tests shared by all suites test."""
        return provider

    def needs_persistence(self) -> None:
        """Skip a test about data that outlives an opened provider."""
        if not self.persistent:
            pytest.skip(f"{type(self).__name__} does not claim to be persistent")

    def needs_type(self, resource_type: str) -> None:
        """Skip a test about a type that the provider does not hold."""
        if resource_type not in self.holdings.types:
            pytest.skip(f"{type(self).__name__} declares no {resource_type} in its holdings")

    def needs_note(self, length: int) -> None:
        """Skip a test about texts that are longer than the provider can hold."""
        if self.holdings.note_length < length:
            pytest.skip(
                f"{type(self).__name__} declares texts of {self.holdings.note_length} characters"
                f" in its holdings, and {length} are needed"
            )

    @property
    def holds_anything(self) -> bool:
        """Whether the provider shows resources exactly as they were stored."""
        return self.holdings == Holdings()

    @cached_property
    def _id_by_label(self) -> dict[str, str]:
        return {}

    def id(self, label: str) -> str:
        """Return the id that stands for a label in this test: by default the label itself."""
        if self.holdings.to_id is None:
            return label
        if label not in self._id_by_label:
            number = (len(self._id_by_label) + 1) * _ID_STEP % _MAX_ID
            self._id_by_label[label] = self.holdings.to_id(number)
        return self._id_by_label[label]

    def ids(self, *labels: str) -> list[str]:
        """Return the ids that stand for labels."""
        return [self.id(label) for label in labels]

    def sample(self, resource_type: str, label: str, *about: str, note: str = "") -> Sample:
        """Return a sample about the patients with these labels; a Patient is about itself."""
        about = (label,) if resource_type == "Patient" else about
        return Sample(
            resource_type=resource_type,
            id=self.id(label),
            patients=tuple(self.ids(*about)),
            note=note[: self.holdings.note_length],
        )

    def anything(self, label: str, *, note: str = "") -> Sample:
        """Return a sample that depends on no other one: a Patient, if the provider holds any."""
        [first, *_] = self._types
        return self.sample(first, label, note=note)

    def one_of_each(self, label: str, *, note: str = "") -> list[Sample]:
        """Return a sample of each type under one label, all about the patient with that label."""
        return [self._owned(name, label, label, note=note) for name in self._types]

    def mixture(self, count: int) -> list[Sample]:
        """Return samples of all types, with notes of up to 900 characters."""
        samples, patient = list[Sample](), "nobody"
        for number in range(count):
            resource_type = self._types[number % len(self._types)]
            label, note = f"{number * 7919 % 1009}", "x" * (number * 37 % 900)
            patient = label if resource_type == "Patient" else patient
            samples.append(self._owned(resource_type, label, patient, note=note))
        return samples

    def levels(self) -> list[Sample]:
        """Return two patients, and samples of each type about both, one and none of them."""
        holdings, samples = self.holdings, [self.sample("Patient", each) for each in ("p1", "p2")]
        for name in holdings.patient_types:
            samples += [self.sample(name, "o1", "p1"), self.sample(name, "o2", "p2")]
            samples += [self.sample(name, "o-both", "p1", "p2")] if holdings.shared else []
            samples += [self.sample(name, "o-none")] if holdings.unowned else []
        return [*samples, *(self.sample(name, "x") for name in holdings.other_types)]

    async def insert(
        self,
        provider: DataProvider,
        *samples: Sample,
        tenant: str | None = None,
        fhir_version: FHIRVersion | None = None,
    ) -> None:
        """Store samples, at a later instant than all that was stored before."""
        async with self.inserting(
            provider,
            samples,
            tenant=tenant or self.holdings.tenant,
            fhir_version=fhir_version or self.holdings.fhir_version,
        ):
            pass

    def request(  # noqa: PLR0913 - the fields of the request, all by keyword
        self,
        *,
        tenant: str | None = None,
        fhir_version: FHIRVersion | None = None,
        level: Level = Level.SYSTEM,
        types: Sequence[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> ExportRequest:
        """Return a request for everything, narrowed by the arguments."""
        return corpus.request(
            tenant=tenant or self.holdings.tenant,
            fhir_version=fhir_version or self.holdings.fhir_version,
            level=level,
            types=self.holdings.types if types is None else types,
            since=since,
            until=until,
        )

    async def view(
        self,
        provider: DataProvider,
        request: ExportRequest | None = None,
        *,
        patients: Iterable[str] | None = None,
    ) -> ExportView:
        """Return the current view of a request, with a cohort if `patients` has labels."""
        return corpus.view(
            await provider.transaction_time(),
            request or self.request(),
            patients=None if patients is None else self.ids(*patients),
        )

    def key(self, resource_type: str) -> TypeKey:
        """Return the key of a type in the first tenant and FHIR version."""
        return TypeKey(self.holdings.tenant, self.holdings.fhir_version, resource_type)

    async def current(self, provider: DataProvider, sample: Sample) -> StoredVersion:
        """Return the stored version of a sample, which must exist."""
        stored = await provider.get(self.key(sample.resource_type).resource(sample.id))
        assert stored is not None
        return stored

    async def changed(self, provider: DataProvider, samples: Iterable[Sample]) -> list[datetime]:
        """Return the instants of the last changes of samples, each once, the earliest first."""
        return sorted({(await self.current(provider, each)).last_updated for each in samples})

    def _owned(self, resource_type: str, label: str, patient: str, *, note: str) -> Sample:
        about = (patient,) if "Patient" in self.holdings.types else ()
        of_patient = resource_type in self.holdings.patient_types
        return self.sample(resource_type, label, *(about if of_patient else ()), note=note)

    @property
    def _types(self) -> list[str]:
        """The types, Patient first, so that a patient is stored before samples about it."""
        return sorted(self.holdings.types, key=lambda name: name != "Patient")


class Named(Protocol):
    """A resource, or something that stands for one."""

    @property
    def resource_type(self) -> str:
        """The resource type."""

    @property
    def id(self) -> str:
        """The id."""


def names(*resources: Named) -> list[str]:
    """Return the `Type/id` of resources, sorted."""
    return sorted(f"{resource.resource_type}/{resource.id}" for resource in resources)


Change = Resource | Put | Delete
"""A resource stands for its Put."""


async def write(
    provider: DataProvider,
    *changes: Change,
    tenant: str = corpus.TENANT,
    fhir_version: FHIRVersion = corpus.VERSION,
) -> list[AppliedChange]:
    """Apply changes in one call; a resource stands for its Put."""
    assert isinstance(provider, SupportsWrites)
    puts = [Put(resource=each) if isinstance(each, Resource) else each for each in changes]
    return await provider.write(tenant, fhir_version, puts)


async def stamp_of(provider: DataProvider, *changes: Change) -> datetime:
    """Apply changes in one call, and return their instant."""
    applied = await write(provider, *changes)
    stamp = applied[-1].last_updated
    assert stamp is not None
    return stamp


async def get(
    provider: DataProvider, resource: Resource, **options: datetime
) -> StoredVersion | None:
    """Return the stored version of `corpus.TENANT` with the type and id of a resource."""
    return await provider.get(
        corpus.type_key(resource.resource_type).resource(resource.id), **options
    )


def put(resource: Resource, *, if_match: int) -> Put:
    """Return the Put of a resource on condition of its current version."""
    return Put(resource=resource, if_match=if_match)


def delete(resource: Resource, *, if_match: int | None = None) -> Delete:
    """Return the Delete of the stored resource with the type and id of a resource."""
    return Delete(resource_type=resource.resource_type, id=resource.id, if_match=if_match)


async def view_everything(provider: DataProvider) -> ExportView:
    """Return the current view of everything in `corpus.TENANT`."""
    return corpus.view(await provider.transaction_time())
