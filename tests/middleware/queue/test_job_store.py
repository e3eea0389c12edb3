"""Jobs in the store: adding once, claiming by one alone, leases, ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory

import sage.middleware.queue.database as room
from sage.errors import Conflict, NotFound
from sage.middleware.queue.database import REVISIONS
from sage.middleware.queue.records import JobEnd, NewJob
from sage.middleware.queue.store import JobStore

pytestmark = [pytest.mark.slow, pytest.mark.both_databases]

JOB = NewJob(kind="generate", tenant="acme", user="ann", params={"model": "m", "prompt": "hello"})
Run = Any


def test_the_revisions_in_the_code_are_those_of_the_migrations() -> None:
    script = ScriptDirectory(str(Path(room.__file__).parent / "migrations"))
    assert tuple(reversed([step.revision for step in script.walk_revisions()])) == REVISIONS


def test_a_job_is_claimed_by_one_worker_alone_and_ends_once(store: JobStore, run: Run) -> None:
    async def scenario() -> None:
        job, is_new = await store.add(JOB)
        assert is_new
        assert (job.state, job.deliveries, job.created_at) == ("queued", 0, store._clock())
        claims = await asyncio.gather(*(store.claim(job.id, f"w{n}") for n in range(8)), return_exceptions=True)
        (claim,) = [one for one in claims if not isinstance(one, Conflict)]
        assert {one.code for one in claims if isinstance(one, Conflict)} == {"not_claimable"}
        assert (claim.params, claim.job.state, claim.job.deliveries) == (JOB.params, "running", 1)
        ended = await store.finish(claim.run, JobEnd("succeeded", {"text": "hi"}))
        assert (ended.state, ended.result, ended.expires_at) == (
            "succeeded",
            {"text": "hi"},
            ended.finished_at + 604800,
        )
        for late in (store.finish(claim.run, JobEnd("failed")), store.renew(claim.run)):
            with pytest.raises(Conflict) as caught:
                await late
            assert caught.value.code == "run_ended"
        assert await store.get("acme", job.id) == ended

    run(scenario())


def test_a_key_makes_one_job_of_the_same_request(store: JobStore, run: Run) -> None:
    keyed = replace(JOB, idempotency_key="k", request_hash=b"one")

    async def scenario() -> None:
        added = await asyncio.gather(*(store.add(keyed) for _ in range(20)))
        assert len({job.id for job, _ in added}) == 1
        assert [is_new for _, is_new in added].count(True) == 1
        with pytest.raises(Conflict, match="the key 'k' was used for another request") as caught:
            await store.add(replace(keyed, request_hash=b"two"))
        assert caught.value.code == "idempotency_conflict"
        for other in (replace(keyed, user="bob"), replace(keyed, tenant="other"), replace(keyed, idempotency_key="k2")):
            assert (await store.add(other))[1]

    run(scenario())


def test_jobs_are_their_tenants_alone(store: JobStore, run: Run) -> None:
    async def scenario() -> None:
        mine, _ = await store.add(JOB)
        with pytest.raises(NotFound, match=f"there is no job '{mine.id}'"):
            await store.get("other", mine.id)
        with pytest.raises(NotFound):
            await store.list("other", after=mine.id)
        assert await store.list("other") == ([], None)
        assert await store.list("acme") == ([mine], None)

    run(scenario())


def test_a_listing_goes_from_the_newest_to_the_oldest_page_by_page(store: JobStore, run: Run) -> None:
    async def scenario() -> None:
        jobs = [
            (await store.add(replace(JOB, user=f"u{n % 2}", kind="embed" if n > 3 else "generate")))[0]
            for n in range(5)
        ]
        first, after = await store.list("acme", limit=3)
        rest, end = await store.list("acme", limit=3, after=after)
        assert (first + rest, end) == (jobs[::-1], None)
        assert await store.list("acme", user="u1") == ([jobs[3], jobs[1]], None)
        assert await store.list("acme", kind="embed") == ([jobs[4]], None)
        await store.claim(jobs[2].id, "w")
        assert [job.id for job in (await store.list("acme", state="running"))[0]] == [jobs[2].id]

    run(scenario())


def test_large_parameters_and_inputs_are_files(store: JobStore, run: Run, directory: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_bytes(b'{"n": 1}\n\n{"n": 2}')

    async def scenario() -> None:
        job, _ = await store.add(replace(JOB, params={"text": "x" * 70_000}, input=lines))
        lines.unlink()
        assert job.total == 2
        claim = await store.claim(job.id, "w")
        assert claim.params == {"text": "x" * 70_000}
        assert sorted(file.name for file in (directory / "jobs" / job.id).iterdir()) == ["input.jsonl", "params.json"]
        small, _ = await store.add(replace(JOB, input=b"{}\n{}\n"))
        assert small.total == 2
        assert [one.name for one in (directory / "jobs").iterdir()] == [job.id]

    run(scenario())


def test_progress_is_kept_and_gives_a_failing_job_three_deliveries_again(store: JobStore, run: Run) -> None:
    async def scenario() -> None:
        job, _ = await store.add(JOB)
        for turn in range(5):
            store._clock.pass_time(10)  # type: ignore[attr-defined]
            claim = await store.claim(job.id, "w")
            if turn == 1:
                told = await store.renew(claim.run, done=3, failed=1, total=9)
                assert (told.done, told.failed, told.total, told.strikes) == (3, 1, 9, 0)
            ended = await store.finish(claim.run, JobEnd("failed", error_message="broken", error_code="x", retry=True))
        assert (ended.state, ended.error_message, ended.error_code, ended.deliveries) == ("dead", "broken", "x", 5)

    run(scenario())
