"""The contract suite of transforms: clauses T1 to T8 of `Transform`."""

from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from helios_core import ResourceKey, SupportsRenaming, Transform, TransformExtension, TypeKey
from helios_core.config.extensions import SelectedExtension, open_transforms
from helios_core.fhir import FHIRVersion, load_definitions
from helios_core.storage.transform_chain import Transforms, decode_resource, encode_resource
from helios_core.testing.extensions.contract import ExtensionSuite

TIME_LIMIT = timedelta(seconds=60)
THREADS = 8

Resource = dict[str, Any]

ODD: Sequence[Resource] = (
    {},
    {"meta": {"versionId": "1", "lastUpdated": "2026-01-02T03:04:05Z"}},
    {"meta": {"security": [{"code": "R"}], "tag": [{"system": "urn:x", "code": "y"}]}},
    {"language": "en", "_language": {"extension": [{"url": "urn:x", "valueString": "y"}]}},
    {"implicitRules": "urn:x", "text": {"status": "empty", "div": "<div/>"}},
    {"contained": [{"resourceType": "Basic", "id": "c", "subject": {"reference": "#"}}]},
    {"extension": [{"url": "urn:x", "extension": [{"url": "y", "valueDecimal": 1.10}]}]},
    {"modifierExtension": [{"url": "urn:x", "valueReference": {"identifier": {"value": "1"}}}]},
    {"identifier": [{"system": "urn:x"}], "name": [None], "_name": [{"id": "1"}]},
    {"subject": {"reference": "Patient/a/_history/2"}, "target": [{"reference": "urn:uuid:1"}]},
    {"birthDate": "1970", "_birthDate": {"id": "b"}, "deceasedBoolean": False},
    {"entry": [{"fullUrl": "urn:uuid:1", "resource": {"resourceType": "Patient"}}]},
    {"unknownElement": {"of": ["a", 7, True, None, {"later": "version"}]}},
)
"""Contents that FHIR, or a lenient store, allows in a resource; type and id are added."""


class TransformSuite(ExtensionSuite):
    """
    Tests that every transform passes.

    A subclass implements the fixture `extension`, its `settings`, and `confidential`, resources
    with `SECRET` wherever the transform must remove something. It may add `resources`. It claims
    `SupportsRenaming` in `powers` if the transform has it.
    """

    SECRET: ClassVar[str] = "suite-secret-8d1e"  # noqa: S105  not a real secret
    """The text that stands for whatever a transform must remove."""
    hook = "helios_transform"
    known_powers = frozenset({SupportsRenaming})
    version: ClassVar[FHIRVersion] = FHIRVersion.R4
    """The FHIR version of the resources."""

    def resources(self) -> Sequence[Resource]:
        """Return resources of the plugin itself, on which the clauses are tested as well."""
        return ()

    def confidential(self) -> Sequence[Resource]:
        """Return resources with `SECRET` in every element that the transform must remove."""
        return ()

    @pytest.fixture
    async def subject(self, selected: SelectedExtension) -> AsyncIterator[Transform]:
        """Open the transform."""
        async with AsyncExitStack() as stack:
            yield await self._opened(stack, selected)

    async def _opened(self, stack: AsyncExitStack, selected: SelectedExtension) -> Transform:
        transforms = await self._transforms(stack, selected)
        return transforms._opened[0].transform  # noqa: SLF001  the suite tests it without the core

    async def _transforms(self, stack: AsyncExitStack, selected: SelectedExtension) -> Transforms:
        return await open_transforms(stack, [selected], time_limit=TIME_LIMIT)

    async def test_the_same_resource_gives_the_same_result(
        self, selected: SelectedExtension, stack: AsyncExitStack
    ) -> None:
        """T1: every process and every attempt at a shard gets the same."""
        one, two = (
            await self._opened(stack, selected),
            await self._opened(stack, selected),
        )

        for resource in self._samples(selected):
            first = self._apply(one, resource)
            assert self._apply(one, resource) == first, resource["resourceType"]
            assert self._apply(two, resource) == first, resource["resourceType"]

    async def test_any_resource_is_taken(
        self, subject: Transform, selected: SelectedExtension
    ) -> None:
        """T2: a resource that cannot be transformed would be missing from every export."""
        for resource in self._samples(selected):
            try:
                self._apply(subject, resource)
            except Exception as error:  # noqa: BLE001  that is what is tested
                pytest.fail(f"{type(error).__name__} at {resource}")

    async def test_what_comes_back_can_leave(
        self, selected: SelectedExtension, stack: AsyncExitStack
    ) -> None:
        """T3, T4: the core accepts the result: its type, its id and the declared effect."""
        transforms = await self._transforms(stack, selected)

        for resource in self._samples(selected):
            line = encode_resource(resource)
            result = await transforms.apply(self._key(resource), [line])
            assert not result.damaged, f"the core refuses the result of {resource}"

    async def test_nothing_is_changed_that_only_may_be_dropped(
        self, subject: Transform, extension: TransformExtension, selected: SelectedExtension
    ) -> None:
        """T4: the core would discard a changed resource."""
        if extension.effect.changes:
            pytest.skip("the transform declares that it changes resources")
        for resource in self._samples(selected):
            stored = decode_resource(encode_resource(resource))
            assert self._apply(subject, resource) in (None, stored)

    async def test_threads_do_not_disturb_each_other(
        self, subject: Transform, selected: SelectedExtension
    ) -> None:
        """T5: several shards and requests are transformed at once."""
        samples = list(self._samples(selected)) * THREADS
        expected = [self._apply(subject, each) for each in samples]

        with ThreadPoolExecutor(THREADS) as pool:
            results = list(pool.map(lambda each: self._apply(subject, each), samples))

        assert results == expected

    async def test_nothing_of_a_resource_is_logged(
        self,
        subject: Transform,
        selected: SelectedExtension,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """T6: logs are read by people who may not read resources."""
        caplog.set_level(0)
        for resource in (*self.confidential(), *self._samples(selected)):
            named = resource | {"id": self.SECRET, "language": self.SECRET}
            self._apply(subject, named)

        written = capfd.readouterr()
        assert self.SECRET not in written.out + written.err + caplog.text

    async def test_new_ids_are_valid_distinct_and_silent(self, subject: Transform) -> None:
        """T7: an id identifies one resource, and does not lead back to a person."""
        self.needs(SupportsRenaming)
        assert isinstance(subject, SupportsRenaming)
        ids = [self.SECRET, *(f"{number}" for number in range(1000)), "a", "A", "-", ".", "x" * 64]

        renamed = [subject.rename(self._named(each)) for each in ids]

        assert len(set(renamed)) == len(ids)
        assert all(0 < len(each) <= 64 and each.isascii() for each in renamed)
        assert all(each.replace("-", "").replace(".", "").isalnum() for each in renamed)
        assert not any(old in new for old, new in zip(ids, renamed, strict=True) if len(old) > 3)

    async def test_what_is_to_be_removed_is_gone(
        self, extension: TransformExtension, selected: SelectedExtension, stack: AsyncExitStack
    ) -> None:
        """T8: from the bytes that leave, wherever in the resource it was."""
        transforms = await self._transforms(stack, selected)
        confidential = self.confidential()
        assert confidential or not extension.effect.conceals, (
            "`confidential` must return resources with SECRET in them, or the effect must be"
            " declared with conceals=False"
        )

        for resource in confidential:
            assert self.SECRET in str(resource)
            line = encode_resource(resource)
            result = await transforms.apply(self._key(resource), [line])
            assert not result.damaged
            assert self.SECRET.encode() not in b"".join(result.kept), resource["resourceType"]

    def _samples(self, selected: SelectedExtension) -> Iterator[Resource]:
        """Yield resources of the transform's types, including those of the subclass."""
        extension = selected.extension
        assert isinstance(extension, TransformExtension)
        known = load_definitions(self.version).types
        types = extension.effect.types or known
        yield from self.resources()
        for resource_type in sorted(types & known):
            for odd in ODD if len(types) < len(known) else (ODD[0],):
                yield {"resourceType": resource_type, "id": "a"} | odd
        if extension.effect.types is None:
            for resource_type in ("Patient", "Observation", "Bundle", "Binary", "Basic"):
                yield from ({"resourceType": resource_type, "id": "a"} | odd for odd in ODD)

    def _apply(self, transform: Transform, resource: Resource) -> Resource | None:
        # Decoded like the core does, fractions as Decimal.
        return transform.apply(decode_resource(encode_resource(resource)), self._key(resource))

    def _key(self, resource: Resource) -> TypeKey:
        return TypeKey("tenant", self.version, resource["resourceType"])

    def _named(self, resource_id: str) -> ResourceKey:
        return TypeKey("tenant", self.version, "Patient").resource(resource_id)
