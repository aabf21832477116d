"""Transforms that are wrong on purpose."""

import itertools
import time

from helios_core import (
    RestReads,
    Transform,
    TransformEffect,
)
from tests.testing import extensions
from tests.testing.extensions import LABEL, WithoutNames


class TestUndescribed(extensions.GoodTransform):
    effect = TransformEffect(rest=RestReads.WITHHELD)
    caught_by = ("test_the_server_takes_the_descriptor",)


class Counting(WithoutNames):
    """Adds a number to every resource."""

    numbers = itertools.count()

    def apply(self, resource, key):
        return super().apply(resource | {"number": next(self.numbers)}, key)


class TestCounting(extensions.GoodTransform):
    implementation = Counting
    caught_by = (
        "test_the_same_resource_gives_the_same_result",
        "test_threads_do_not_disturb_each_other",
    )


class Salted(WithoutNames):
    """Renames with a salt that another process does not have."""

    def __init__(self, *_):
        self._salt = str(next(Counting.numbers))

    def rename(self, key):
        return super().rename(key.type.resource(key.id + self._salt))


class TestSalted(extensions.GoodTransform):
    implementation = Salted
    caught_by = ("test_the_same_resource_gives_the_same_result",)


class Picky(WithoutNames):
    """Expects every resource to have what most have."""

    def apply(self, resource, key):
        return super().apply(resource | {"meta": resource["meta"]}, key)


class TestPicky(extensions.GoodTransform):
    implementation = Picky
    caught_by = ("test_any_resource_is_taken", "test_what_comes_back_can_leave")


class Forgetful(WithoutNames):
    """Forgets to rename."""

    def apply(self, resource, key):
        return resource if super().apply(dict(resource), key) else None


class TestForgetful(extensions.GoodTransform):
    implementation = Forgetful
    caught_by = ("test_what_comes_back_can_leave",)


class TestDropsUndeclared(extensions.GoodTransform):
    effect = TransformEffect(tags=(LABEL,), rest=RestReads.WITHHELD, drops=False)
    caught_by = ("test_what_comes_back_can_leave",)


class Adding(Transform):
    """Claims that it only drops, and adds something."""

    def __init__(self, *_):
        pass

    def apply(self, resource, key):
        return resource | {"seen": True}


class TestAdding(extensions.GoodTransform):
    implementation = Adding
    effect = TransformEffect(changes=False, conceals=False)
    powers = frozenset()
    caught_by = ("test_nothing_is_changed_that_only_may_be_dropped",)


class Shared(WithoutNames):
    """Keeps the resource it works on where the next call finds it."""

    def apply(self, resource, key):
        self._resource = resource
        time.sleep(0.0001)
        return super().apply(self._resource, key)


class TestShared(extensions.GoodTransform):
    implementation = Shared
    caught_by = ("test_threads_do_not_disturb_each_other",)


class Chatty(WithoutNames):
    """Prints what it does."""

    def apply(self, resource, key):
        print(resource)  # noqa: T201
        return super().apply(resource, key)


class TestChatty(extensions.GoodTransform):
    implementation = Chatty
    caught_by = ("test_nothing_of_a_resource_is_logged",)


class Prefixing(WithoutNames):
    """Puts something before the id, which anybody can take away."""

    def rename(self, key):
        return f"x-{key.id}"[:64]


class TestPrefixing(extensions.GoodTransform):
    implementation = Prefixing
    caught_by = ("test_new_ids_are_valid_distinct_and_silent",)


class Colliding(WithoutNames):
    """Has a thousand ids for all the world."""

    def rename(self, key):
        return str(int(super().rename(key), 16) % 1000)


class TestColliding(extensions.GoodTransform):
    implementation = Colliding
    caught_by = ("test_new_ids_are_valid_distinct_and_silent",)


class TestUndeclared(extensions.GoodTransform):
    powers = frozenset()
    caught_by = ("test_exactly_the_claimed_powers_are_present",)


class LeavingNames(WithoutNames):
    """Leaves the names it is there to drop."""

    def apply(self, resource, key):
        return super().apply(resource, key) and super().apply(resource, key) | {
            "name": [{"family": extensions.SECRET}]
        }


class TestLeavingNames(extensions.GoodTransform):
    implementation = LeavingNames
    caught_by = ("test_what_is_to_be_removed_is_gone",)


class TestWithoutExamples(extensions.GoodTransform):
    caught_by = ("test_what_is_to_be_removed_is_gone",)

    def confidential(self):
        return []
