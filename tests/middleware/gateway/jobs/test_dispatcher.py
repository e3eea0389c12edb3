"""Messages that nobody seems to answer, while somebody does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from sage.middleware.gateway.jobs.dispatcher import Dispatcher
from sage.middleware.queue.database import open_jobs_database
from sage.middleware.queue.files import FileLimits, FileStore
from sage.middleware.queue.publisher import Publisher
from sage.middleware.queue.records import NewJob
from sage.middleware.queue.signing import Signer
from sage.middleware.queue.store import JobStore
from sage.middleware.settings.queue import QueueSettings


class BusyStore(JobStore):
    """A worker claims a job right after this store has said that it is queued."""

    async def still_queued(self, ids: Collection[str]) -> set[str]:
        queued = await super().still_queued(ids)
        for job_id in queued:
            await self.claim(job_id, "quick")
        return queued


@pytest.mark.slow
def test_a_message_that_is_answered_while_the_table_is_asked_is_not_sent_again(tmp_path: Path) -> None:
    now = [time.monotonic()]

    async def main() -> tuple[int, dict[str, object]]:
        directory = tmp_path / "queue"
        database = open_jobs_database(directory)
        store = BusyStore(database, directory, FileStore(database, directory / "files", FileLimits(2**20, 2**20)))
        publisher = Publisher(QueueSettings(), tmp_path, Signer(tmp_path))
        dispatcher = Dispatcher(store, publisher, None, lambda user, tenant: True, lambda: now[0])
        store.listen(dispatcher.changed)
        try:
            assert await store.lead()
            job, _ = await store.add(NewJob(kind="generate", tenant="t", user="u", params={}))
            await dispatcher.announce(job)
            now[0] += 3.5
            await dispatcher._resend_lost()
            return await publisher.depth(), dict(dispatcher._messages)
        finally:
            await publisher.close()
            await store.close()
            database.close()

    assert asyncio.run(main()) == (1, {})
