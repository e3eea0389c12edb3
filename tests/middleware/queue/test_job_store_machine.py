"""Whatever workers, users and time do to jobs: each item's effect is once, none is lost, counts are right."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sage.errors import Conflict, NotFound
from sage.middleware.queue.database import open_jobs_database
from sage.middleware.queue.files import FileLimits, FileStore
from sage.middleware.queue.records import JobEnd, NewJob, ResultLine, StoredJob
from sage.middleware.queue.states import ENDED, TRANSITIONS
from sage.middleware.queue.store import JobStore

MOST_STRIKES = 3


@dataclass
class Item:
    """What a test knows of an item."""

    strikes: int = 0
    leased: bool = False
    text: str | None = None
    ok: bool = False

    @property
    def is_open(self) -> bool:
        return self.text is None


@dataclass
class Known:
    """What a test knows of a job."""

    id: str
    items: dict[int, Item]
    has_items: bool
    run: str | None = None
    worker: str = ""
    state: str = "queued"
    strikes: int = 0
    runs: list[str] = field(default_factory=list)

    def give_back(self, *, lost: bool) -> None:
        for item in self.items.values():
            if item.leased:
                item.leased = False
                item.strikes += lost
                if item.strikes >= MOST_STRIKES:
                    item.text, item.ok, self.strikes = "worker_lost", False, 0
        self.run = None

    def count(self, *, ok: bool) -> int:
        return sum(item.ok == ok for item in self.items.values() if not item.is_open)


MOST_JOBS = 2


class Jobs(RuleBasedStateMachine):
    """Two workers on some jobs, and a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        shutil.copy(_empty_database(), self.directory / "jobs.db")
        self.now = 1_800_000_000.0
        self.states: dict[str, str] = {}
        self.known: list[Known] = []
        self.texts = Counter[str]()
        self.open_store()

    def open_store(self) -> None:
        self.database = open_jobs_database(self.directory)
        self.files = FileStore(self.database, self.directory / "files", FileLimits(2**30, 2**30))
        self.store = JobStore(self.database, self.directory, self.files, clock=lambda: self.now)
        self.store.listen(self.changed)
        self.do(self.store.expire_leases())

    def close_store(self) -> None:
        self.do(self.store.close())
        self.database.close()

    def teardown(self) -> None:
        try:
            for known in self.known:
                self.finish_all(known)
        finally:
            self.close_store()
            self.runner.close()
            shutil.rmtree(self.directory)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def run() -> Any:
            return await work

        return self.runner.run(run())

    def changed(self, job: StoredJob) -> None:
        before = self.states.get(job.id, job.state)
        assert job.state == before or job.state in TRANSITIONS[before]
        self.states[job.id] = job.state

    @initialize(count=st.sampled_from([1, 3, 12, 40]))
    def add_first(self, count: int) -> None:
        self.add(count)

    @precondition(lambda self: len(self.known) < MOST_JOBS)
    @rule(count=st.sampled_from([0, 1, 3, 40]))
    def add(self, count: int) -> None:
        lines = b"".join(b'{"custom_id": "%d"}\n' % n for n in range(count)) or None
        job, _ = self.do(self.store.add(NewJob(kind="generate", tenant="t", user="u", params={}, input=lines)))
        self.known.append(Known(job.id, {n: Item() for n in range(count)}, lines is not None))

    @precondition(lambda self: self.known)
    @rule(
        pick=st.integers(0, 1),
        worker=st.sampled_from("ab"),
        leases=st.lists(st.sampled_from([1, 8, 40]), max_size=3),
        records=st.lists(st.tuples(st.integers(0, 10), st.sampled_from([1, 4, 40]), st.booleans()), max_size=3),
        late=st.booleans(),
    )
    def work(self, pick: int, worker: str, leases: list[int], records: list[tuple[int, int, bool]], late: bool) -> None:
        known = self.known[pick % len(self.known)]
        if known.run is None:
            self.claim(known, worker)
        if known.run is not None and known.has_items:
            for count in leases:
                self.lease(known, count)
        for first, count, ok in records:
            self.record(known, late, [(index, ok) for index in range(first, first + count)])

    @precondition(lambda self: any(known.run is not None for known in self.known))
    @rule(pick=st.integers(0, 1), how=st.sampled_from(["succeeded", "failed", "retry", "release", "line"]))
    def end_run(self, pick: int, how: str) -> None:
        running = [known for known in self.known if known.run is not None]
        known = running[pick % len(running)]
        if how == "release":
            self.release(known)
        elif how == "line":
            self.finish_line(known)
        else:
            self.finish(known, "failed" if how == "retry" else how, how == "retry")

    @precondition(lambda self: any(known.run is not None for known in self.known))
    @rule(worker=st.sampled_from("ab"), how=st.sampled_from(["kill", "fall_silent", "restart"]))
    def lose(self, worker: str, how: str) -> None:
        if how == "restart":
            self.restart()
        else:
            getattr(self, how)(worker)

    @precondition(lambda self: self.known)
    @rule(pick=st.integers(0, 1), what=st.sampled_from(["cancel", "retry", "forget"]))
    def use(self, pick: int, what: str) -> None:
        getattr(self, what)(self.known[pick % len(self.known)])

    # What users do

    def cancel(self, known: Known) -> None:
        if known.state in ENDED:
            with pytest.raises(Conflict):
                self.do(self.store.cancel("t", known.id))
            return
        job = self.do(self.store.cancel("t", known.id))
        known.state = "cancelled" if known.state == "queued" else "cancelling"
        assert job.state == known.state

    def retry(self, known: Known) -> None:
        if known.state not in ENDED or (known.state == "succeeded" and not known.count(ok=False)):
            with pytest.raises(Conflict):
                self.do(self.store.retry("t", known.id))
            return
        self.do(self.store.retry("t", known.id))
        known.state, known.strikes = "queued", 0
        for item in known.items.values():
            if not item.ok:
                item.text, item.strikes, item.leased = None, 0, False

    def forget(self, known: Known) -> None:
        if known.state not in ENDED:
            with pytest.raises(Conflict):
                self.do(self.store.forget("t", known.id))
            return
        self.do(self.store.forget("t", known.id))
        self.known.remove(known)
        with pytest.raises(NotFound):
            self.do(self.store.get("t", known.id))

    # What workers do

    def claim(self, known: Known, worker: str) -> None:
        if known.state != "queued":
            with pytest.raises(Conflict):
                self.do(self.store.claim(known.id, worker))
            return
        claim = self.do(self.store.claim(known.id, worker))
        known.state, known.run, known.worker = "running", claim.run, worker
        known.runs.append(claim.run)
        known.strikes += 1

    def lease(self, known: Known, count: int) -> None:
        lease = self.do(self.store.lease_items(known.run, count))
        assert lease.more == any(item.is_open for item in known.items.values())
        for given in lease.items:
            item = known.items[given.index]
            assert item.is_open
            assert not item.leased
            assert json.loads(given.body) == {"custom_id": str(given.index)}
            if item.strikes == MOST_STRIKES - 1:
                assert len(lease.items) == 1
                assert not any(other.leased for other in known.items.values())
            item.leased = True
        if not lease.items and known.state == "running":
            waiting = [item for item in known.items.values() if item.is_open and not item.leased]
            assert not waiting or any(item.leased for item in known.items.values())

    def record(self, known: Known, late: bool, chosen: list[tuple[int, bool]]) -> None:
        run = known.runs[0] if late and known.runs else known.run
        if run is None:
            return
        results = []
        for index, ok in chosen:
            self.texts["results"] += 1
            line = json.dumps({"index": index, "text": f"r{self.texts['results']}"}).encode()
            results.append(ResultLine(index, ok, line, {"n": 1}))
        if known.state in ENDED:
            with pytest.raises(Conflict):
                self.do(self.store.record(run, results))
            return
        self.do(self.store.record(run, results))
        for result in results:
            item = known.items.get(result.index)
            if item is not None and item.is_open and self.was_leased(known, result.index):
                item.text, item.ok, item.leased = json.loads(result.line)["text"], result.ok, False
                known.strikes = 0

    def was_leased(self, known: Known, index: int) -> bool:
        query = "SELECT count(*) FROM job_items JOIN jobs ON sequence = job WHERE id = ? AND number = ?"
        with self.database.reading() as connection:
            return bool(connection.exec_driver_sql(query, (known.id, index)).scalar())

    def finish(self, known: Known, state: str, again: bool) -> None:
        assert known.run is not None
        ending = JobEnd(state, retry=again)
        if state == "succeeded" and any(item.is_open for item in known.items.values()):
            with pytest.raises(Conflict, match="without a result"):
                self.do(self.store.finish(known.run, ending))
            return
        job = self.do(self.store.finish(known.run, ending))
        known.give_back(lost=False)
        if state == "succeeded":
            known.state = "succeeded"
        elif known.state == "cancelling":
            known.state = "cancelled"
        elif again:
            known.state = "dead" if known.strikes >= MOST_STRIKES else "queued"
            self.now += 5  # until it may be claimed again
            self.do(self.store.expire_leases())
            self.do(self.store.expire_leases())
            for other in self.known:
                if other.run is not None:
                    self.do(self.store.renew(other.run))
        else:
            known.state = "failed"
        assert job.state == known.state

    def finish_line(self, known: Known) -> None:
        """A job of one item is claimed with it, and ends with its result."""
        if len(known.items) == 1 and known.items[0].is_open and not known.items[0].leased:
            self.texts["results"] += 1
            text = f"r{self.texts['results']}"
            line = ResultLine(0, True, json.dumps({"index": 0, "text": text}).encode(), {"n": 1})
            job = self.do(self.store.finish(known.run or "", JobEnd("succeeded"), [line]))
            known.items[0].text, known.items[0].ok = text, True
            known.run, known.state = None, "succeeded"
            assert job.state == "succeeded"

    def release(self, known: Known) -> None:
        self.do(self.store.release(known.run or ""))
        known.give_back(lost=False)
        known.state = "cancelled" if known.state == "cancelling" else "queued"
        known.strikes = max(known.strikes - 1, 0)

    # What happens to them

    def lost(self, known: Known) -> None:
        known.give_back(lost=True)
        if known.state == "cancelling":
            known.state = "cancelled"
        else:
            known.state = "dead" if known.strikes >= MOST_STRIKES else "queued"

    def kill(self, worker: str) -> None:
        self.do(self.store.release_worker(worker))
        for known in self.known:
            if known.run is not None and known.worker == worker:
                self.lost(known)

    def fall_silent(self, silent: str) -> None:
        for _ in range(4):
            self.now += 2
            for known in self.known:
                if known.run is not None and known.worker != silent:
                    self.do(self.store.renew(known.run))
            self.do(self.store.expire_leases())
        for known in self.known:
            if known.run is not None and known.worker == silent:
                self.lost(known)

    def restart(self) -> None:
        self.close_store()
        self.now += 100
        self.open_store()

    @precondition(lambda self: self.known)
    @invariant()
    def counts_are_right(self) -> None:
        for known in self.known:
            job = self.do(self.store.get("t", known.id))
            assert (job.state, job.run) == (known.state, known.run)
            if known.has_items:
                assert (job.done, job.failed) == (known.count(ok=True), known.count(ok=False))
                assert job.total == len(known.items)
                sums = sum(item.text != "worker_lost" for item in known.items.values() if not item.is_open)
                assert job.usage.get("n", 0) >= sums
            if known.state not in ENDED:
                assert job.strikes == known.strikes

    def finish_all(self, known: Known) -> None:
        """Drives the job to its end, and compares what came out with the first result of each item."""
        if known.run is not None:
            self.release(known)
        if known.state in ENDED and not (known.state == "succeeded" and not known.count(ok=False)):
            self.retry(known)
        if known.state == "queued":
            self.claim(known, "z")
            while any(item.is_open for item in known.items.values()):
                self.lease(known, 32)
                self.record(known, False, [(index, True) for index, item in known.items.items() if item.leased])
            self.finish(known, "succeeded", False)
        self.counts_are_right()

        async def results() -> bytes:
            job = await self.store.get("t", known.id)
            return b"".join([piece async for piece in await self.store.results(job)])

        if known.has_items:
            lines = [json.loads(line) for line in self.do(results()).splitlines()]
            assert [line["index"] for line in lines] == list(known.items)
            texts = [line["text"] if "text" in line else line["error"]["code"] for line in lines]
            assert texts == [item.text for item in known.items.values()]


_EMPTY: list[Path] = []


def _empty_database() -> Path:
    if not _EMPTY:
        directory = Path(tempfile.mkdtemp())
        open_jobs_database(directory).close()
        _EMPTY.append(directory / "jobs.db")
    return _EMPTY[0]


TestJobs = pytest.mark.slow(Jobs.TestCase)
# Without shrinking, which takes minutes: the printed steps are few enough to read.
TestJobs.settings = settings(
    stateful_step_count=30,
    max_examples=settings.default.max_examples // 2,
    phases=[phase for phase in Phase if phase not in (Phase.shrink, Phase.explain)],
)
