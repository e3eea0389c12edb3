"""Kafka as a source, against a server that speaks its protocol: no record is lost, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka_server import QUICK, Kafka, kafka_server
from ports import free_port
from project import ROOT

from sage.api.function.base_function import BaseFunction
from sage.api.kafka_offsets import PartitionProgress
from sage.api.kafka_records import KafkaRecord
from sage.api.local_environment import LocalEnvironment
from sage.errors import InvalidRequest, Unavailable
from sage.kernels.runtime.streams.job import Job, JobState


def environment(**config: Any) -> LocalEnvironment:
    return LocalEnvironment("test", {"discovery": None, **config})


# Without a server


def test_a_record_gives_the_fields_of_its_value_too() -> None:
    record = KafkaRecord(
        value={"content": "text", "offset": 99}, key="k", topic="t", partition=0, offset=3, timestamp=1
    )
    assert record["content"] == record.get("content") == "text"
    assert record["offset"] == 3
    assert "content" in record
    assert "other" not in record
    assert record.get("other", 5) == 5
    assert dict(record)["value"] == {"content": "text", "offset": 99}
    with pytest.raises(KeyError, match="other"):
        record["other"]
    with pytest.raises(KeyError, match="content"):
        KafkaRecord(value="text")["content"]


@given(st.lists(st.integers(0, 3), max_size=60))
def test_an_offset_is_committed_when_all_records_below_it_are_done(gaps: list[int]) -> None:
    offsets = [sum(gap + 1 for gap in gaps[: number + 1]) for number in range(len(gaps))]
    progress = PartitionProgress()
    for offset in offsets:
        progress.add(offset)
    done: set[int] = set()
    for offset in sorted(offsets, key=lambda offset: (offset * 7919) % 31):
        progress.done(offset)
        done.add(offset)
        first_open = next((number for number, one in enumerate(offsets) if one not in done), len(offsets))
        assert progress.to_commit() == (offsets[first_open - 1] + 1 if first_open else None)
        assert progress.pending == len(offsets) - first_open


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_id": ""}, "needs a group_id"),
        ({"topic": []}, "topic must be"),
        ({"enable_auto_commit": True}, "would lose records"),
        ({"auto_offset_rest": "latest"}, "did you mean 'auto_offset_reset'"),
        ({"buffer_size": 5}, "has no option 'buffer_size'"),
    ],
)
def test_wrong_options_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    arguments = {"bootstrap_servers": "127.0.0.1:1", "topic": "t", "group_id": "g", **options}
    with pytest.raises(InvalidRequest, match=message):
        environment().from_kafka_source(**arguments)


def test_a_missing_broker_fails_the_job_after_the_start_timeout() -> None:
    env = environment()
    env.from_kafka_source(f"127.0.0.1:{free_port()}", "t", "g", start_timeout=0.3).sink(print)
    with pytest.raises(Unavailable, match="no Kafka broker answers"):
        env.execute()


# With a server


@pytest.fixture(scope="module")
def kafka() -> Iterator[Kafka]:
    with kafka_server() as server:
        yield server


class Collector:
    """A sink that can be waited for."""

    def __init__(self, gate: Callable[[Any], None] = lambda _: None) -> None:
        self.got: list[Any] = []
        self._gate = gate
        self._changed = threading.Condition()

    def __call__(self, record: Any) -> None:
        self._gate(record)
        with self._changed:
            self.got.append(record)
            self._changed.notify_all()

    def wait_for(self, count: int) -> list[Any]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.got) >= count, 30), f"{len(self.got)} of {count}"
        return self.got


def stopped(job: Job) -> dict[str, Any]:
    job.stop(timeout=30)
    assert job.state is JobState.STOPPED
    return job.metrics["kafka"]


@pytest.mark.slow
def test_records_arrive_decoded_and_are_committed_when_done(kafka: Kafka) -> None:
    kafka.create("plain", 3)
    values: list[Any] = [{"content": "你好"}, [1, 2], 7, "text", None, b"plain text", b"\xff\x00"]
    kafka.produce("plain", values * 20)
    env, sink = environment(), Collector()
    env.from_kafka_source(kafka.servers, "plain", "g", **QUICK).sink(sink)
    job = env.submit()
    got = sink.wait_for(140)
    assert set(got[0]) == {"value", "key", "topic", "partition", "offset", "timestamp"}
    wanted = [{"content": "你好"}, [1, 2], 7, "text", None, "plain text", b"\xff\x00"] * 20
    assert Counter(repr(record["value"]) for record in got) == Counter(map(repr, wanted))
    assert {record["content"] for record in got if "content" in record} == {"你好"}  # as the first documents write it
    assert json.loads(json.dumps(got[0])) == dict(got[0])
    assert {record["key"]: record["value"] for record in got} == {f"k{n}": value for n, value in enumerate(wanted)}
    for partition in range(3):
        offsets = [record["offset"] for record in got if record["partition"] == partition]
        assert offsets == list(range(len(offsets)))
    metrics = stopped(job)
    assert sum(metrics["committed"].values()) == 140
    assert sum(kafka.committed("plain", "g", 3)) == 140  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_record_is_committed_when_it_has_left_its_loop_and_the_job_stops_then(kafka: Kafka) -> None:
    kafka.create("loop", 1)
    kafka.produce("loop", [3, 0, 5] * 5)
    env, sink = environment(), Collector()
    back, read = env.from_future("back"), env.from_kafka_source(kafka.servers, "loop", "g", **QUICK)
    numbers = read.map(lambda record: record["value"]).connect(back)
    numbers.filter(lambda number: number == 0).sink(sink)
    numbers.filter(bool).map(lambda number: number - 1).fill_future(back)
    job = env.submit()
    assert sink.wait_for(15) == [0] * 15
    metrics = stopped(job)
    assert sum(metrics["committed"].values()) == 15
    assert kafka.committed("loop", "g", 1) == [15]


@pytest.mark.slow
def test_a_record_that_cannot_be_processed_is_a_dead_letter_and_nothing_else_is_lost(kafka: Kafka) -> None:
    kafka.create("poison")
    kafka.produce("poison", [{"n": 1}, b"{broken", {"n": 3}, {"other": 4}, {"n": 5}])
    env, sink, dead_letters = environment(), Collector(), Collector()
    stream = env.from_kafka_source(
        kafka.servers, "poison", "g", value_deserializer="json", on_error=dead_letters, **QUICK
    )  # fmt: skip
    stream.map(lambda record: record["n"], on_error=dead_letters).sink(sink)
    job = env.submit()
    assert sink.wait_for(3) == [1, 3, 5]
    stopped(job)
    assert sorted((letter.value["offset"], type(letter.error).__name__) for letter in dead_letters.got) == [
        (1, "JSONDecodeError"),
        (3, "KeyError"),
    ]
    assert kafka.committed("poison", "g") == [5]


@pytest.mark.slow
def test_a_record_that_fails_the_job_is_given_again(kafka: Kafka) -> None:
    kafka.create("repeated")
    kafka.produce("repeated", range(10))
    first, sink, repeated = environment(), Collector(), Collector()

    def fragile(record: Any) -> int:
        if record["value"] == 6:
            raise RuntimeError("not today")
        return int(record["value"])

    first.from_kafka_source(kafka.servers, "repeated", "g", **QUICK).map(fragile).sink(sink)
    with pytest.raises(RuntimeError, match="not today"):
        first.execute()
    second = environment()
    second.from_kafka_source(kafka.servers, "repeated", "g", **QUICK).map(lambda record: record["value"]).sink(repeated)
    job = second.submit()
    assert repeated.wait_for(4)[-4:] == [6, 7, 8, 9]
    stopped(job)
    assert set(sink.got) | set(repeated.got) == set(range(10))


@pytest.mark.slow
def test_a_full_pipeline_pauses_the_partitions_and_drops_nothing(kafka: Kafka) -> None:
    kafka.create("slow", 2)
    kafka.produce("slow", range(300))
    opened = threading.Event()
    env, sink = environment(queue_size=10), Collector(lambda _: opened.wait() and None)
    env.from_kafka_source(kafka.servers, "slow", "g", **QUICK).map(lambda record: record["value"]).sink(sink)
    job = env.submit()
    while job.metrics["kafka"]["pauses"] == 0:
        assert job.state in (JobState.STARTING, JobState.RUNNING)
    assert job.metrics["kafka"]["out"] <= 60  # two queues of ten, and the records between them
    opened.set()
    assert sorted(sink.wait_for(300)) == list(range(300))
    stopped(job)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("SAGE_TEST_FULL"), reason="five seconds of rebalancing; the next is like it")
def test_a_second_reader_takes_its_share_and_gives_it_back(kafka: Kafka) -> None:
    kafka.create("shared", 4)
    sinks = Collector(), Collector()
    jobs = []
    for sink in sinks:
        env = environment()
        env.from_kafka_source(kafka.servers, "shared", "g", **QUICK).map(lambda record: record["value"]).sink(sink)
        jobs.append(env.submit())
        kafka.produce("shared", range(len(jobs) * 1000, len(jobs) * 1000 + 200))
        sinks[0].wait_for(1)
    first = jobs[0]
    while first.metrics["kafka"]["rebalances"] == 0 and first.state is JobState.RUNNING:
        first._ended.wait(0.01)
    for number in range(4):
        kafka.produce("shared", range(3000 + 50 * number, 3050 + 50 * number), partition=number)
    sinks[1].wait_for(1)
    stopped(jobs[1])
    kafka.produce("shared", range(4000, 4200))
    wanted = {*range(1000, 1200), *range(2000, 2200), *range(3000, 3200), *range(4000, 4200)}
    while {*sinks[0].got, *sinks[1].got} != wanted:
        assert first.state is JobState.RUNNING
        first._ended.wait(0.01)
    stopped(first)


@pytest.mark.slow
def test_the_first_documents_example_runs(kafka: Kafka) -> None:
    from sage.service import (
        KVService,
        MemoryOrchestratorService,
        VDBService,
        create_kv_service_factory,
        create_memory_service_factory,
        create_vdb_service_factory,
    )

    kafka.create("documents")
    kafka.produce("documents", [{"content": "Hello, world", "vector": [0.1] * 384}])
    env = environment()
    env.register_service("kv_service", KVService, create_kv_service_factory())
    env.register_service("vdb_service", VDBService, create_vdb_service_factory())
    env.register_service("memory_service", MemoryOrchestratorService, create_memory_service_factory())

    class MyProcessor(BaseFunction):
        def process(self, data: Any) -> Any:
            self.call_service["kv_service"].put("key1", data)
            return self.call_service["memory_service"].store_memory(
                session_id="session_1", content=data["content"], vector=data["vector"]
            )

    stream = env.from_kafka_source(kafka.servers, "documents", "g", **QUICK)
    sink = Collector()
    stream.map(MyProcessor()).sink(sink)
    with env:
        job = env.submit()
        (memory,) = sink.wait_for(1)
        stopped(job)
        assert env.call_service["kv_service"].get("key1")["value"]["content"] == "Hello, world"
        assert env.call_service["memory_service"].get_memory(memory)["session_id"] == "session_1"
    assert kafka.committed("documents", "g") == [1]


# Processes that die

CONSUMER = """
import sys
from sage.api.local_environment import LocalEnvironment

servers, path, options = sys.argv[1], sys.argv[2], eval(sys.argv[3])
file = open(path, "a", buffering=1)

def write(record):
    file.write(f"{record['value']}\\n")

env = LocalEnvironment("test", {"discovery": None})
env.from_kafka_source(servers, "killed", "g", **options).map(lambda record: record, parallelism=3).sink(write)
env.execute()
"""


@pytest.mark.slow
def test_a_consumer_that_is_killed_at_work_loses_no_record(kafka: Kafka, tmp_path: Path) -> None:
    """A second consumer of its group, which joins meanwhile, takes over the records that it had not done."""
    kafka.create("killed", 2)
    path = tmp_path / "done"
    path.touch()
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CONSUMER, kafka.servers, str(path), repr(QUICK)]

    def done() -> list[int]:
        return [int(line) for line in path.read_text().split("\n")[:-1]]

    env, sink = environment(), Collector()
    env.from_kafka_source(kafka.servers, "killed", "g", **QUICK).map(lambda record: record["value"]).sink(sink)
    with subprocess.Popen(command, env=environ) as process:
        try:
            kafka.produce("killed", range(20_000))
            while len(done()) < 2000:
                assert process.poll() is None
            process.send_signal(signal.SIGSTOP)
            job = env.submit()
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
    first = set(done())
    assert len(first) < 20_000
    while first | set(sink.got) != set(range(20_000)):
        assert job.state in (JobState.STARTING, JobState.RUNNING)
        job._ended.wait(0.01)
    stopped(job)


class Proxy:
    """A connection to the server that can be cut."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._cut:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._to))
                self._ends += [client, server]
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(one, other), daemon=True).start()

    def _forward(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self._cut = True
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def restore(self) -> None:
        self._cut = False

    def close(self) -> None:
        self._listener.close()
        for end in self._ends:
            end.close()


@pytest.mark.slow
def test_a_broker_that_goes_away_and_comes_back_is_used_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    port = free_port()
    proxy = Proxy(port)
    try:
        with kafka_server(port, advertised=proxy.port) as server:
            server.create("away")
            server.produce("away", range(10))
            env, sink = environment(), Collector()
            env.from_kafka_source(
                f"127.0.0.1:{proxy.port}", "away", "g", request_timeout_ms=1500, **QUICK
            ).map(lambda record: record["value"]).sink(sink)  # fmt: skip
            job = env.submit()
            sink.wait_for(10)
            proxy.cut()
            while job.metrics["kafka"]["state"] == "connected":
                assert job.state is JobState.RUNNING
                job._ended.wait(0.05)
            proxy.restore()
            server.produce("away", range(10, 20))
            sink.wait_for(20)
            assert set(sink.got) == set(range(20))
            while job.metrics["kafka"]["state"] != "connected":
                assert job.state is JobState.RUNNING
                job._ended.wait(0.05)
            stopped(job)
    finally:
        proxy.close()


@pytest.mark.slow
def test_a_broker_that_dies_for_good_keeps_no_job_from_stopping(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    with kafka_server() as server:
        server.create("dead")
        server.produce("dead", range(5))
        env, sink = environment(), Collector()
        env.from_kafka_source(server.servers, "dead", "g", **QUICK).sink(sink)
        job = env.submit()
        sink.wait_for(5)
        server.process.kill()
        server.process.wait()
        stopped(job)
