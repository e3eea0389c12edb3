"""A program for tests of the job store: it works on the jobs in a directory and prints each thing once it is durable.

``python job_store_process.py DIRECTORY add|work|claim|lead [ID…]``
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from sage.errors import Conflict
from sage.middleware.queue.database import open_jobs_database
from sage.middleware.queue.files import FileLimits, FileStore
from sage.middleware.queue.records import JobEnd, NewJob, ResultLine
from sage.middleware.queue.store import JobStore


def open_store(directory: Path) -> JobStore:
    database = open_jobs_database(directory)
    return JobStore(database, directory, FileStore(database, directory / "files", FileLimits(2**40, 2**40)))


def tell(*words: object) -> None:
    print(*words, flush=True)


async def add(store: JobStore) -> None:
    """Adds jobs, small and large, eight at a time."""

    async def add_some(start: int) -> None:
        for number in range(start, 10**6, 8):
            lines = b'{"n": 1}\n' * (10_000 if number % 5 == 0 else 3)
            key = {"idempotency_key": str(number), "request_hash": b"same"}
            job, _ = await store.add(NewJob(kind="generate", tenant="t", user="u", params={}, input=lines, **key))
            tell("added", job.id, number)

    await asyncio.gather(*(add_some(start) for start in range(8)))


async def work(store: JobStore, job_id: str) -> None:
    """Does the items of a job, each with the answer ``RUN INDEX``."""
    await store.release_worker("worker")
    claim = await store.claim(job_id, "worker")
    tell("claimed", claim.run)
    while True:
        lease = await store.lease_items(claim.run, 8)
        if not lease.more:
            break
        for item in lease.items:
            line = b'{"index": %d, "text": "%s"}' % (item.index, claim.run.encode())
            await store.record(claim.run, [ResultLine(item.index, True, line, {"n": 1})])
            tell("recorded", item.index, claim.run)
    await store.finish(claim.run, JobEnd("succeeded"))
    tell("finished")


async def claim_all(store: JobStore, ids: list[str]) -> None:
    for job_id in ids:
        try:
            tell((await store.claim(job_id, "w")).job.id)
        except Conflict:
            continue


async def lead(store: JobStore) -> None:
    tell(await store.lead())
    await asyncio.to_thread(sys.stdin.read)


async def run(directory: Path, what: str, ids: list[str]) -> None:
    store = open_store(directory)
    if what == "add":
        await add(store)
    elif what == "work":
        await work(store, ids[0])
    elif what == "claim":
        await claim_all(store, ids)
    else:
        await lead(store)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
