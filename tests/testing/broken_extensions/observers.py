"""Observers that are wrong on purpose."""

import threading
import time
from contextlib import asynccontextmanager

from tests.testing import extensions


class TestOnlyTheEnd(extensions.GoodObserver):
    caught_by = (
        "test_jobs_in_any_status_are_taken",
        "test_leaving_the_context_leaves_nothing_running",
    )

    async def observe(self, job):
        assert job.completed_at or job.status == "complete"


class TestOnce(extensions.GoodObserver):
    caught_by = ("test_the_same_job_may_come_twice",)

    async def observe(self, job):
        assert job.id not in vars(self).setdefault("seen", set())
        self.seen.add(job.id)


class TestUndisturbed(extensions.GoodObserver):
    caught_by = ("test_a_call_ends_when_it_is_cancelled",)

    async def observe(self, job):
        await extensions.ignore_cancellation()


class TestLeavesAThread(extensions.GoodObserver):
    caught_by = ("test_leaving_the_context_leaves_nothing_running",)

    def opener(self):
        @asynccontextmanager
        async def opener(*_):
            threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
            yield self.observe

        return opener
