"""Records that become durable jobs: how they are grouped, what flows on, what happens to those that fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from sage.api.local_environment import LocalEnvironment
from sage.errors import CallFailed, InvalidRequest
from sage.kernels.runtime.streams.error_policy import DeadLetter, Retry
from sage.kernels.runtime.streams.job_stage import EnqueuedRecord, RecordFailed


class TakenJob:
    def __init__(self, id: str, body: Mapping[str, Any]) -> None:
        self.id = id
        self.body = body

    def result(self) -> Any:
        return {"snapshot": self.body["collection"]}

    def results(self) -> Iterator[dict[str, Any]]:
        lines = list(enumerate(self.body["requests"]))
        for index, request in reversed(lines):  # by their index, wherever they stand
            if "bad" in request["prompt"]:
                yield {"index": index, "status": 502, "error": {"message": "no model answers", "code": "upstream"}}
            elif "lost" not in request["prompt"]:
                yield {"index": index, "status": 200, "response": {"text": request["prompt"].upper()}}


class Takes:
    """A queue of somebody else's: keeps jobs under their keys, and refuses what ``refuse`` says."""

    def __init__(self, *refusals: CallFailed) -> None:
        self.refusals = list(refusals)
        self.keys: list[str] = []
        self.jobs: dict[str, TakenJob] = {}

    def submit(self, kind: str, body: Mapping[str, Any], *, idempotency_key: str | None = None) -> TakenJob:
        assert idempotency_key is not None
        self.keys.append(idempotency_key)
        if self.refusals:
            raise self.refusals.pop(0)
        if any("refused" in request.get("prompt", "") for request in body.get("requests", ())):
            raise CallFailed("the second request is not valid", answer_status=400, code="invalid_lines")
        body = json.loads(json.dumps({"kind": kind, **body}))
        return self.jobs.setdefault(idempotency_key, TakenJob(f"job_{len(self.jobs)}", body))

    @property
    def bodies(self) -> list[Mapping[str, Any]]:
        return [job.body for job in self.jobs.values()]


def environment(queue: Takes, **config: Any) -> LocalEnvironment:
    return LocalEnvironment("test", {"discovery": None, "jobs": queue, **config})


def test_ten_thousand_records_are_a_few_jobs_and_flow_on_with_their_job() -> None:
    queue = Takes()
    records = environment(queue).from_batch([f"p{n}" for n in range(10_000)])
    enqueued = records.enqueue("generate", model="m", priority="low", group=4000, within=None).collect()
    assert [len(body["requests"]) for body in queue.bodies] == [4000, 4000, 2000]
    assert {(body["kind"], body["model"], body["priority"]) for body in queue.bodies} == {("generate", "m", "low")}
    assert queue.bodies[1]["requests"][0] == {"prompt": "p4000"}
    assert enqueued[4000] == EnqueuedRecord("p4000", "job_1", 0)
    assert [one.record for one in enqueued] == [f"p{n}" for n in range(10_000)]


def test_a_group_is_handed_over_when_its_time_has_come() -> None:
    queue, second = Takes(), threading.Event()

    def source() -> Iterator[str]:
        yield from ("a", "b")
        assert second.wait(10)
        yield "c"

    env = environment(queue)
    env.from_batch(source()).enqueue("generate", within=0.05).sink(lambda _: second.set())
    env.execute()
    assert [[one["prompt"] for one in body["requests"]] for body in queue.bodies] == [["a", "b"], ["c"]]


def test_results_come_in_order_and_failed_records_go_the_way_of_the_policy() -> None:
    queue, letters = Takes(), list[DeadLetter]()
    records = environment(queue).from_batch(["a", "bad", "b", "lost", 7])
    answers = records.enqueue(
        "generate", wait=True, on_error=letters.append, combine=lambda record, answer: (record, answer["text"])
    ).collect()
    assert answers == [("a", "A"), ("b", "B")]
    assert [letter.value for letter in letters] == ["bad", "lost", 7]
    first, second, third = (letter.error for letter in letters)
    assert isinstance(first, RecordFailed)
    assert (first.message, first.code) == ("no model answers", "upstream")
    assert isinstance(second, RecordFailed)
    assert "without a result" in second.message
    assert isinstance(third, InvalidRequest)
    assert "must be a mapping or a text, not int" in third.message
    assert len(queue.jobs) == 1


def test_a_failed_record_fails_the_job_unless_a_policy_says_otherwise() -> None:
    with pytest.raises(RecordFailed, match="no model answers"):
        environment(Takes()).from_batch(["a", "bad"]).enqueue("generate", wait=True).collect()


def test_the_attempts_for_one_group_have_one_key_and_wait_for_room() -> None:
    full = CallFailed("too many jobs", answer_status=429, code="too_many_jobs", retry_after=0.01)
    queue = Takes(full, full)
    assert len(environment(queue).from_batch(["a"]).enqueue("generate").collect()) == 1
    assert len(queue.keys) == 3
    assert len(set(queue.keys)) == 1


def test_what_the_queue_does_not_take_at_all_goes_the_way_of_the_policy() -> None:
    gone = CallFailed("no gateway answers at http://127.0.0.1:9")
    with pytest.raises(CallFailed, match="no gateway answers"):
        environment(Takes(gone)).from_batch(["a"]).enqueue("generate").collect()
    queue = Takes(gone)
    again = environment(queue).from_batch(["a"]).enqueue("generate", on_error=Retry(times=1, pause=0.0)).collect()
    assert [one.job for one in again] == ["job_0"]


def test_a_refused_group_is_handed_over_record_by_record_where_one_may_fail_alone() -> None:
    queue = Takes()
    enqueued = environment(queue, on_error="skip").from_batch(["a", "refused", "b"]).enqueue("generate").collect()
    assert [one.record for one in enqueued] == ["a", "b"]
    with pytest.raises(CallFailed, match="not valid"):
        environment(Takes()).from_batch(["a", "refused"]).enqueue("generate").collect()


def test_the_same_group_of_a_run_with_a_name_is_done_once() -> None:
    queue = Takes()

    def pipeline(records: list[str], run: str | None) -> list[str]:
        stream = environment(queue).from_batch(records)
        return [one.job for one in stream.enqueue("generate", group=1, run=run).collect()]

    assert pipeline(["a", "b", "a"], "nightly") == ["job_0", "job_1", "job_2"], "each record is a job, equal ones too"
    assert pipeline(["a", "b", "a"], "nightly") == ["job_0", "job_1", "job_2"]
    assert pipeline(["a"], "other") == ["job_3"]
    assert pipeline(["a"], None) + pipeline(["a"], None) == ["job_4", "job_5"]


def test_kinds_of_one_thing_are_a_job_for_each_record() -> None:
    queue = Takes()
    stream = environment(queue).from_batch(["x", "y"])
    snapshots = stream.enqueue("snapshot", lambda name: {"collection": name}, wait=True).collect()
    assert snapshots == [{"snapshot": "x"}, {"snapshot": "y"}]
    assert queue.bodies == [{"kind": "snapshot", "collection": "x"}, {"kind": "snapshot", "collection": "y"}]


def test_large_records_are_several_jobs() -> None:
    queue = Takes()
    texts = ["x" * 1_500_000] * 4
    assert len(environment(queue).from_batch(texts).enqueue("generate").collect()) == 4
    assert [len(body["requests"]) for body in queue.bodies] == [2, 2]


def test_several_workers_share_the_records() -> None:
    queue = Takes()
    stream = environment(queue).from_batch(range(100)).map(str)
    enqueued = stream.enqueue("generate", group=10, parallelism=3, within=0.01).collect()
    assert sorted(int(one.record) for one in enqueued) == list(range(100))
    assert sorted(int(one["prompt"]) for body in queue.bodies for one in body["requests"]) == list(range(100))


def test_a_pipeline_that_is_stopped_hands_over_what_it_has_read() -> None:
    queue, read = Takes(), threading.Event()

    def source() -> Iterator[str]:
        yield "a"
        read.set()
        while True:
            time.sleep(0.001)
            yield "b"

    env = environment(queue)
    env.from_batch(source()).enqueue("generate", group=100_000, within=None).sink(lambda _: None)
    job = env.submit()
    assert read.wait(10)
    job.stop()
    (body,) = queue.bodies
    assert body["requests"][0] == {"prompt": "a"}
    assert len(body["requests"]) == job.metrics["enqueue.generate"]["in"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": 0}, "group must be a whole number"),
        ({"within": -1}, "within must be seconds"),
        ({"within": float("nan")}, "within must be seconds"),
        ({"parallelism": True}, "parallelism must be"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        environment(Takes()).from_batch(["a"]).enqueue("generate", **options)


def test_a_configuration_that_takes_no_jobs() -> None:
    with pytest.raises(InvalidRequest, match="jobs must be a JobsClient"):
        LocalEnvironment("test", {"jobs": "http://127.0.0.1:8000"})
