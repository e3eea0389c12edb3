"""The store among processes: killed in the middle of writes, two at once, and on a disk that is full."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import job_store_process
import pytest
from job_store_process import open_store

from sage.errors import Unavailable
from sage.middleware.queue.records import JobEnd, NewJob, ResultLine
from sage.middleware.queue.store import JobStore

FULL = bool(os.environ.get("SAGE_TEST_FULL"))
Run = Any
PROGRAM = [sys.executable, job_store_process.__file__]


@contextmanager
def process(directory: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        [*PROGRAM, str(directory), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with started:
        try:
            yield started
        finally:
            started.kill()


def told(started: subprocess.Popen[str], count: int) -> list[list[str]]:
    """What it has told by the time it is killed, which is after ``count`` lines."""
    assert started.stdout is not None
    lines = [line for _, line in zip(range(count), started.stdout, strict=False)]
    started.kill()
    return [line.split() for line in [*lines, *started.stdout] if line.endswith("\n")]


async def results_of(store: JobStore, job_id: str) -> list[Any]:
    pieces = await store.results(await store.get("t", job_id))
    return [json.loads(line) for line in b"".join([piece async for piece in pieces]).splitlines()]


@pytest.mark.slow
def test_what_was_added_survives_a_kill_and_is_there_once(directory: Path, run: Run) -> None:
    added: dict[str, str] = {}
    for turn in range(20 if FULL else 2):
        with process(directory, "add") as adding:
            for _, job_id, number in told(adding, 10 + 7 * turn):
                assert added.setdefault(number, job_id) == job_id  # by its idempotency key the job of then

    async def check() -> None:
        store = open_store(directory)
        jobs, _ = await store.list("t", limit=100_000)
        assert set(added.values()) <= {job.id for job in jobs}
        for job in jobs:
            claim = await store.claim(job.id, "w")
            assert job.total in (3, 10_000)
            assert len((await store.lease_items(claim.run, 8)).items) == min(job.total, 8)
        await store.close()

    run(check())


@pytest.mark.slow
def test_a_worker_that_is_killed_again_and_again_loses_and_doubles_nothing(directory: Path, run: Run) -> None:
    total = 400 if FULL else 60
    store = open_store(directory)
    job, _ = run(store.add(NewJob(kind="generate", tenant="t", user="u", params={}, input=b"{}\n" * total)))
    run(store.close())
    recorded: dict[int, str] = {}
    finished = False
    while not finished:
        with process(directory, "work", job.id) as working:
            for what, *words in told(working, 20):
                finished |= what == "finished"
                if what == "recorded":
                    assert int(words[0]) not in recorded
                    recorded[int(words[0])] = words[1]

    async def check() -> None:
        store = open_store(directory)
        ended = await store.get("t", job.id)
        lines = await results_of(store, job.id)
        assert (ended.state, ended.done, ended.failed) == ("succeeded", total, 0)
        assert [line["index"] for line in lines] == list(range(total))
        for index, text in recorded.items():
            assert lines[index]["text"] == text
        assert ended.usage == {"n": total}
        await store.close()

    run(check())


@pytest.mark.slow
def test_two_processes_claim_each_job_once_and_one_of_them_leads(directory: Path, run: Run) -> None:
    store = open_store(directory)
    new = [NewJob(kind="generate", tenant="t", user="u", params={"n": n}) for n in range(60)]

    async def add() -> list[str]:
        return [job.id for job, _ in await asyncio.gather(*(store.add(one) for one in new))]

    ids = run(add())
    with process(directory, "claim", *ids) as one, process(directory, "claim", *ids[::-1]) as other:
        claimed = [line for started in (one, other) for line in started.communicate()[0].split()]
    assert sorted(claimed) == sorted(ids)
    with process(directory, "lead") as leading:
        assert leading.stdout is not None
        assert leading.stdout.readline() == "True\n"
        assert not run(store.lead())
        assert not store.is_leader
        leading.kill()
        leading.wait()
        assert run(store.lead())
    run(store.close())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> None:
    with open(disk / "ballast", "wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4096))


@pytest.mark.slow
def test_a_full_disk_refuses_writes_whole_and_costs_no_delivery(small_disk: Path, run: Run) -> None:
    async def scenario() -> None:
        store = open_store(small_disk / "queue")
        job, _ = await store.add(NewJob(kind="generate", tenant="t", user="u", params={}, input=b"{}\n" * 8))
        claim = await store.claim(job.id, "w")
        items = (await store.lease_items(claim.run, 8)).items
        await store.expire_leases()
        await store.record(claim.run, [ResultLine(0, True, b'{"index": 0}')])
        fill(small_disk)
        for new in (
            NewJob(kind="generate", tenant="t", user="u", params={"text": "x" * 60_000}),
            NewJob(kind="generate", tenant="t", user="u", params={}, input=b"{}\n" * 200_000),
        ):
            with pytest.raises(Unavailable, match="the disk is full; free some space on it, then try again") as caught:
                await store.add(new)
            assert caught.value.code == "disk_full"
        long = b'{"index": 1, "text": "%s"}' % (b"y" * 100_000)
        with pytest.raises(Unavailable, match="the disk is full"):
            await store.record(claim.run, [ResultLine(1, True, long)])
        assert (await store.list("t"))[0] == [await store.get("t", job.id)]
        assert (await store.get("t", job.id)).done == 1
        assert [one.name for one in (small_disk / "queue" / "jobs").iterdir()] == [job.id]

        (small_disk / "ballast").unlink()
        assert await store.expire_leases() == []
        kept = await store.get("t", job.id)
        assert (kept.state, kept.run) == ("running", claim.run)
        results = [ResultLine(item.index, True, b'{"index": %d}' % item.index) for item in items]
        assert (await store.record(claim.run, results)).done == 8
        ended = await store.finish(claim.run, JobEnd("succeeded"))
        assert (ended.state, ended.deliveries) == ("succeeded", 1)
        assert [line["index"] for line in await results_of(store, job.id)] == list(range(8))
        await store.close()

    run(scenario())
