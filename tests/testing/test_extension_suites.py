"""Good extensions of every kind pass their suites."""

import click
import pytest

from helios_core import RestReads, Transform, TransformEffect
from tests.testing import extensions
from tests.testing.extensions import LABEL


class TestTransform(extensions.GoodTransform):
    pass


class TestTransformOfOneType(extensions.GoodTransform):
    effect = TransformEffect(types=frozenset({"Patient"}), tags=(LABEL,), rest=RestReads.UNTOUCHED)

    def confidential(self):
        return super().confidential()[:1]

    def resources(self):
        return [{"resourceType": "Patient", "id": "own", "multipleBirthInteger": 2}]


class OnlyActive(Transform):
    """Lets active resources pass as they are."""

    def __init__(self, *_):
        pass

    def apply(self, resource, key):
        return resource if resource.get("active", True) else None


class TestTransformThatOnlyDrops(extensions.GoodTransform):
    implementation = OnlyActive
    effect = TransformEffect(changes=False, conceals=False)
    powers = frozenset()

    def confidential(self):
        return []


class TestHealthChecks(extensions.GoodHealthChecks):
    pass


class TestTokenVerifier(extensions.GoodTokenVerifier):
    pass


class TestFileAuthorizer(extensions.GoodFileAuthorizer):
    pass


class TestObserver(extensions.GoodObserver):
    pass


class TestBlockingObserver(extensions.GoodObserver):
    def observe(self, job):
        str(job)


class TestRoutes(extensions.GoodRoutes):
    async def test_own_tests_reach_the_routes(self, client):
        assert (await client.get(f"{self.prefix}/things/x")).text == "x"


class TestCommand(extensions.GoodCommand):
    pass


def make_single(host):
    @click.command()
    def single():
        """Open what is configured."""
        host.run(opened())

    async def opened():
        async with host.open_backends():
            raise AssertionError

    return single


class TestSingleCommand(extensions.GoodCommand):
    arguments = ()
    make = staticmethod(make_single)


@pytest.mark.parametrize(
    "suite",
    [extensions.GoodTransform, extensions.GoodHealthChecks, extensions.GoodObserver],
)
def test_a_suite_says_what_it_needs(suite):
    parent = suite.__mro__[1]

    with pytest.raises(NotImplementedError, match="needs the fixture `extension`"):
        parent.extension.__wrapped__(parent())
