"""Items of jobs: leased in order, each one's effect once, lines that kill their worker, outputs in order."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sage.errors import Conflict, InvalidRequest, NotFound
from sage.middleware.queue.files import FileStore
from sage.middleware.queue.records import JobEnd, NewJob, ResultLine
from sage.middleware.queue.store import JobStore

pytestmark = [pytest.mark.slow, pytest.mark.both_databases]

Run = Any


def lines(count: int) -> bytes:
    return b"".join(b'{"custom_id": "c%d"}\n' % n for n in range(count))


def job_of(count: int, **values: Any) -> NewJob:
    return NewJob(kind="generate", tenant="acme", user="ann", params={}, input=lines(count), **values)


def good(index: int, text: str = "") -> ResultLine:
    line = json.dumps({"index": index, "text": text or f"answer {index}"}).encode()
    return ResultLine(index, True, line, {"total_tokens": 2})


def bad(index: int) -> ResultLine:
    return ResultLine(index, False, json.dumps({"index": index, "error": "bad"}).encode())


async def collect(pieces: AsyncIterator[bytes]) -> list[Any]:
    return [json.loads(line) for line in b"".join([piece async for piece in pieces]).splitlines()]


def read(files: FileStore, file_id: str) -> list[Any]:
    _, file = files.open("acme", file_id)
    with file:
        return [json.loads(line) for line in file]


def test_items_are_leased_in_order_and_come_out_in_order(store: JobStore, files: FileStore, run: Run) -> None:
    async def scenario() -> None:
        job, _ = await store.add(job_of(70))
        claim = await store.claim(job.id, "w")
        taken = []
        while (lease := await store.lease_items(claim.run, 100)).items:
            assert lease.more
            taken += lease.items
        assert [item.index for item in taken] == list(range(70))
        assert [json.loads(item.body)["custom_id"] for item in taken] == [f"c{n}" for n in range(70)]
        assert not lease.items
        assert lease.more  # they have no results yet
        with pytest.raises(Conflict, match="has items without a result"):
            await store.finish(claim.run, JobEnd("succeeded"))
        for start in (35, 0):
            told = await store.record(claim.run, [good(n) for n in reversed(range(start, start + 35))])
        assert (told.done, told.failed, told.total, told.usage) == (70, 0, 70, {"total_tokens": 140})
        assert not (await store.lease_items(claim.run, 8)).more
        entries = await collect(await store.run_results(claim.run))
        assert [(entry["index"], entry["ok"], entry["usage"]) for entry in entries][:2] == [
            (0, True, {"total_tokens": 2}),
            (1, True, {"total_tokens": 2}),
        ]
        ended = await store.finish(claim.run, JobEnd("succeeded", {"tokens": 140}))
        expected = [{"index": n, "text": f"answer {n}"} for n in range(70)]
        assert read(files, ended.output_file_id) == await collect(await store.results(ended)) == expected
        assert ended.error_file_id is None

    run(scenario())


def test_the_first_result_of_an_item_counts(store: JobStore, run: Run, clock: Any) -> None:
    async def scenario() -> None:
        job, _ = await store.add(job_of(3))
        first = await store.claim(job.id, "w1")
        await store.lease_items(first.run, 3)
        await store.expire_leases()
        clock.pass_time(4)
        await store.expire_leases()
        clock.pass_time(4)
        assert [(one.id, one.state) for one in await store.expire_leases()] == [(job.id, "queued")]
        late = await store.record(first.run, [good(0, "late"), good(0, "again")])  # nobody has finished it
        assert (late.state, late.done) == ("queued", 1)
        second = await store.claim(job.id, "w2")
        assert [item.index for item in (await store.lease_items(second.run, 3)).items] == [1, 2]
        assert (await store.record(second.run, [good(1), good(2), good(0, "third")])).done == 3
        assert (await store.record(first.run, [bad(1)])).failed == 0
        for call in (
            store.lease_items(first.run, 1),
            store.renew(first.run),
            store.finish(first.run, JobEnd("failed")),
        ):
            with pytest.raises(Conflict):
                await call
        ended = await store.finish(second.run, JobEnd("succeeded"))
        assert [line["text"] for line in await collect(await store.results(ended))] == ["late", "answer 1", "answer 2"]
        with pytest.raises(Conflict) as caught:
            await store.record(first.run, [good(0)])
        assert caught.value.code == "run_ended"

    run(scenario())


def test_results_of_no_item_take_no_item_from_its_run(store: JobStore, run: Run) -> None:
    async def scenario() -> None:
        job, _ = await store.add(job_of(1))
        claim = await store.claim(job.id, "w")
        told = await store.record(claim.run, [good(3), bad(7)])
        assert (told.done, told.failed) == (0, 0)
        lease = await store.lease_items(claim.run, 8)
        assert [item.index for item in lease.items] == [0]

    run(scenario())


def test_a_line_that_kills_its_worker_fails_alone(store: JobStore, run: Run) -> None:
    async def scenario() -> list[int]:
        job, _ = await store.add(job_of(40))
        killed, deliveries = 0, dict.fromkeys(range(40), 0)
        while True:
            claim = await store.claim(job.id, f"w{killed}")
            while True:
                lease = await store.lease_items(claim.run, 16)
                for item in lease.items:
                    deliveries[item.index] += 1
                if any(item.index == 5 for item in lease.items):
                    killed += 1
                    await store.release_worker(claim.job.worker)
                    break
                if not lease.items:
                    assert not lease.more
                    ended = await store.finish(claim.run, JobEnd("succeeded"))
                    found = await collect(await store.results(ended))
                    assert (ended.done, ended.failed, ended.state, killed) == (39, 1, "succeeded", 3)
                    assert [line["index"] for line in found] == list(range(40))
                    assert found[5]["error"]["code"] == "worker_lost"
                    assert found[5]["custom_id"] == "c5"
                    return list(deliveries.values())
                await store.record(claim.run, [good(item.index) for item in lease.items])

    counts = run(scenario())
    assert counts[5] == max(counts) == 3


def test_a_job_that_never_makes_progress_is_dead_after_three_deliveries(store: JobStore, run: Run) -> None:
    async def scenario() -> None:
        for new in (job_of(3), replace(job_of(1), input=None)):
            job, _ = await store.add(new)
            for turn in range(3):
                await store.claim(job.id, f"w{turn}")
                (job,) = await store.release_worker(f"w{turn}")
            assert (job.state, job.error_code, job.deliveries) == ("dead", "worker_lost", 3)
            assert "lastly 'w2'" in job.error_message
            with pytest.raises(Conflict):
                await store.claim(job.id, "w")

    run(scenario())


def test_a_worker_that_leaves_costs_no_delivery(store: JobStore, run: Run) -> None:
    async def scenario() -> None:
        job, _ = await store.add(job_of(3))
        for _ in range(5):
            claim = await store.claim(job.id, "w")
            assert len((await store.lease_items(claim.run, 3)).items) == 3
            assert (await store.release(claim.run)).state == "queued"

    run(scenario())


def test_failed_lines_are_apart_on_request_and_unfinished_ones_expire(
    store: JobStore, files: FileStore, run: Run, clock: Any
) -> None:
    async def scenario() -> None:
        new = replace(job_of(40), kind="batch", errors_apart=True, window=100, webhook_url="https://x.example")
        job, _ = await store.add(new)
        claim = await store.claim(job.id, "w")
        await store.lease_items(claim.run, 4)
        await store.record(claim.run, [good(0), bad(1)])
        clock.pass_time(100)
        (ended,) = await store.expire_leases()
        assert (ended.state, ended.error_code, ended.done, ended.failed) == ("failed", "expired", 1, 1)
        assert [line["index"] for line in read(files, ended.output_file_id)] == [0]
        errors = read(files, ended.error_file_id)
        assert errors[0] == {"index": 1, "error": "bad"}
        assert [error["custom_id"] for error in errors[1:]] == [f"c{n}" for n in range(2, 40)]
        assert {error["error"]["code"] for error in errors[1:]} == {"batch_expired"}
        [due] = await store.due_webhooks(10)
        assert due.id == job.id
        await store.webhook_done(due, "delivered", 1, None)
        assert await store.due_webhooks(10) == []

    run(scenario())


def test_a_retry_does_the_failed_lines_again_only(store: JobStore, files: FileStore, run: Run) -> None:
    async def scenario() -> None:
        job, _ = await store.add(job_of(4))
        claim = await store.claim(job.id, "w")
        await store.lease_items(claim.run, 4)
        await store.record(claim.run, [good(0), bad(1), good(2), bad(3)])
        ended = await store.finish(claim.run, JobEnd("succeeded"))
        assert len(read(files, ended.output_file_id)) == 4
        again = await store.retry("acme", job.id)
        assert (again.state, again.done, again.failed, again.output_file_id, again.retries) == ("queued", 2, 0, None, 1)
        claim = await store.claim(job.id, "w")
        assert [item.index for item in (await store.lease_items(claim.run, 4)).items] == [1, 3]
        await store.record(claim.run, [good(1), good(3)])
        ended = await store.finish(claim.run, JobEnd("succeeded"))
        assert [line["text"] for line in read(files, ended.output_file_id)] == [f"answer {n}" for n in range(4)]
        with pytest.raises(Conflict, match="nothing to retry"):
            await store.retry("acme", job.id)

    run(scenario())


def test_cancelling_keeps_what_is_done_and_forgetting_nothing(
    store: JobStore, files: FileStore, run: Run, directory: Path
) -> None:
    async def scenario() -> None:
        waiting, _ = await store.add(job_of(2))
        assert (await store.cancel("acme", waiting.id)).state == "cancelled"
        job, _ = await store.add(job_of(4))
        claim = await store.claim(job.id, "w")
        await store.lease_items(claim.run, 4)
        await store.record(claim.run, [good(0)])
        assert (await store.cancel("acme", job.id)).state == "cancelling"
        assert (await store.cancel("acme", job.id)).state == "cancelling"
        with pytest.raises(Conflict, match="cancel it first"):
            await store.forget("acme", job.id)
        assert (await store.record(claim.run, [good(1)])).state == "cancelling"
        assert (await store.lease_items(claim.run, 4)).items == []
        ended = await store.finish(claim.run, JobEnd("failed", error_code="cancelled"))
        assert (ended.state, ended.error_code) == ("cancelled", None)
        assert [line["index"] for line in read(files, ended.output_file_id)] == [0, 1]
        for one in (waiting, job):
            await store.forget("acme", one.id)
        await store.purge()
        assert await store.list("acme") == ([], None)
        assert list((directory / "files").iterdir()) == list((directory / "jobs").iterdir()) == []

    run(scenario())


def test_results_go_when_their_time_is_over(store: JobStore, run: Run, clock: Any, directory: Path) -> None:
    async def scenario() -> None:
        job, _ = await store.add(job_of(2, result_ttl=50))
        claim = await store.claim(job.id, "w")
        await store.lease_items(claim.run, 4)
        await store.record(claim.run, [good(0), bad(1)])
        ended = await store.finish(claim.run, JobEnd("succeeded"))
        assert ended.expires_at == clock() + 50
        clock.pass_time(49)
        await store.purge()
        assert await store.find(job.id) == ended
        clock.pass_time(1)
        await store.purge()
        assert await store.find(job.id) is None
        assert list((directory / "files").iterdir()) == list((directory / "jobs").iterdir()) == []

    run(scenario())


def test_a_held_job_waits_for_its_input(store: JobStore, run: Run, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(lines(2))

    async def scenario() -> None:
        job, _ = await store.add(replace(job_of(1), kind="batch", input=None, held=True))
        assert await store.next_queued("default", 5) == []
        with pytest.raises(Conflict):
            await store.claim(job.id, "w")
        assert [one.id for one in await store.held("batch")] == [job.id]
        freed = await store.unhold(job.id, input=tmp_path / "input", total=2, details={"a": 1})
        assert (freed.held, freed.total, freed.details) == (False, 2, {"a": 1})
        assert await store.next_queued("default", 5) == [job.id]
        claim = await store.claim(job.id, "w")
        assert len((await store.lease_items(claim.run, 4)).items) == 2
        other, _ = await store.add(replace(job_of(1), kind="batch", input=None, held=True))
        failed = await store.fail(other.id, "line 3 is no JSON", "invalid_lines", details={"errors": [3]})
        assert (failed.state, failed.error_code, failed.details) == ("failed", "invalid_lines", {"errors": [3]})

    run(scenario())


def test_the_next_jobs_are_those_of_priority_then_of_the_tenants_in_turn(store: JobStore, run: Run) -> None:
    async def scenario() -> None:
        ids = {}
        for name, tenant, priority in (
            *(("a1", "a", 1), ("a2", "a", 1), ("a3", "a", 1), ("low", "a", 2), ("b1", "b", 1), ("high", "b", 0)),
            ("a4", "a", 1),
        ):
            ids[name] = (await store.add(replace(job_of(1), tenant=tenant, priority=priority)))[0].id
        names = {job_id: name for name, job_id in ids.items()}
        assert [names[one] for one in await store.next_queued("default", 3)] == ["high", "a1", "b1"]
        rest = await store.next_queued("default", 9, without=[ids["high"], ids["a1"]])
        assert [names[one] for one in rest] == ["a2", "b1", "a3", "a4", "low"]
        assert await store.queues_with_work() == ["default"]
        await store.claim(ids["a1"], "w")
        assert await store.still_queued([ids["a1"], ids["a2"], "job_none"]) == {ids["a2"]}
        depth = await store.depth()
        assert (depth.queued, depth.running, depth.cancelling, depth.oldest) == (6, 1, 0, store._clock())
        assert await store.count_unfinished("a") == 5

    run(scenario())


def test_one_process_leads(store: JobStore, run: Run, directory: Path) -> None:
    assert run(store.lead())
    assert run(store.lead())
    assert store.is_leader


def test_a_job_that_is_withdrawn_leaves_no_trace(store: JobStore, run: Run) -> None:
    async def scenario() -> None:
        keyed = replace(job_of(9000), idempotency_key="k", request_hash=b"1")
        job, _ = await store.add(keyed)
        await store.withdraw(job.id)
        assert await store.find(job.id) is None
        assert (await store.add(keyed))[1]
        claimed, _ = await store.add(job_of(1))
        await store.claim(claimed.id, "w")
        await store.withdraw(claimed.id)
        assert await store.find(claimed.id) is not None

    run(scenario())


def test_a_job_whose_files_somebody_removed_ends_all_the_same(store: JobStore, run: Run, directory: Path) -> None:
    async def scenario() -> None:
        job, _ = await store.add(job_of(9000))
        shutil.rmtree(directory / "jobs" / job.id)
        ended = await store.fail(job.id, "the user is gone", "rights_revoked")
        assert (ended.state, ended.error_code, ended.output_file_id) == ("failed", "rights_revoked", None)
        with pytest.raises(NotFound):
            await store.results(ended)
        await store.forget("acme", job.id)
        with pytest.raises(NotFound):
            await store.results(ended)

    run(scenario())


def test_a_caller_that_is_cancelled_leaves_a_job_with_its_output(store: JobStore, files: FileStore, run: Run) -> None:
    async def scenario() -> None:
        for turns in range(1, 12):
            job, _ = await store.add(job_of(2))
            claim = await store.claim(job.id, "w")
            await store.lease_items(claim.run, 2)
            await store.record(claim.run, [good(0), good(1)])
            ending = asyncio.ensure_future(store.finish(claim.run, JobEnd("succeeded")))
            for _ in range(turns):
                await asyncio.sleep(0)
            ending.cancel()
            await asyncio.wait([ending])
            while (ended := await store.get("acme", job.id)).state == "running":
                await asyncio.sleep(0)
            assert [line["index"] for line in read(files, ended.output_file_id)] == [0, 1]

    run(scenario())


def test_odd_lines_and_odd_results_do_no_harm(store: JobStore, run: Run) -> None:
    async def scenario() -> None:
        odd = b'\xef\xbb\xbf\n\r\n {"custom_id": "a"} \r\n\xff\xfe no JSON\n\n'
        job, _ = await store.add(replace(job_of(1), input=odd))
        assert job.total == 2
        claim = await store.claim(job.id, "w")
        bodies = [(await store.lease_items(claim.run, count)).items[0].body for count in (-5, 10**9)]
        assert bodies == [b'{"custom_id": "a"}', b"\xff\xfe no JSON"]
        for index in (-1, 2, 2**70):
            assert (await store.record(claim.run, [ResultLine(index, True, b"{}")])).done == 0
        with pytest.raises(InvalidRequest, match="more than one line"):
            await store.record(claim.run, [ResultLine(0, True, b"{\n}")])
        usage = {"a": 1e308, "b": True, "c": "x"}
        told = await store.record(claim.run, [ResultLine(n, True, b"{}", usage) for n in range(2)])
        assert (told.done, told.usage) == (2, {"a": 1e308})
        assert (await store.finish(claim.run, JobEnd("succeeded", [1, 2]))).result == [1, 2]
        for nobody in ("../../x", "run_../../etc_x", "job_\0", "j" * 100_000):
            for call in (
                store.claim(nobody, "w"),
                store.renew(nobody),
                store.record(nobody, []),
                store.release(nobody),
            ):
                with pytest.raises((Conflict, NotFound, InvalidRequest)):
                    await call

    run(scenario())
