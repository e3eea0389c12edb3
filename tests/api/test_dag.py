"""Pipelines: what their functions may be, which order they keep, how they branch and join."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.api.function.base_function import BaseFunction
from sage.api.function.kinds import MapFunction, SourceFunction
from sage.api.local_environment import LocalEnvironment
from sage.errors import InvalidRequest
from sage.kernels.runtime.streams.job import JobState
from sage.kernels.runtime.streams.key_hash import key_hash


def environment(**config: Any) -> LocalEnvironment:
    return LocalEnvironment("test", {"discovery": None, **config})


class Adding(BaseFunction):
    def __init__(self, amount: int = 1) -> None:
        self.amount = amount

    def process(self, record: int) -> int:
        return record + self.amount


class Executing(MapFunction):
    """As upstream SAGE writes functions."""

    def execute(self, record: int) -> int:
        return record * 10


class Duck:
    def process(self, record: int) -> int:
        return record - 1


class Callable:
    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, record: int) -> int:
        return record * self.by


def plus(record: int, amount: int, *, times: int = 1) -> int:
    return record + amount * times


async def slowly(record: int) -> int:
    await asyncio.sleep(0)
    return record + 7


@pytest.mark.parametrize(
    ("function", "arguments", "options", "result"),
    [
        (Adding, (), {}, 6),
        (Adding, (5,), {}, 10),
        (Adding, (), {"amount": 2}, 7),
        (Adding(3), (), {}, 8),
        (Executing, (), {}, 50),
        (Duck, (), {}, 4),
        (Duck(), (), {}, 4),
        (Callable, (4,), {}, 20),
        (Callable(3), (), {}, 15),
        (lambda record: record + 100, (), {}, 105),
        (plus, (2,), {"times": 3}, 11),
        (str, (), {}, "5"),
        (slowly, (), {}, 12),
    ],
)
def test_a_function_is_an_instance_a_class_or_any_callable(
    function: Any, arguments: tuple[Any, ...], options: dict[str, Any], result: Any
) -> None:
    got: list[Any] = []
    env = environment()
    env.from_batch([5]).map(function, *arguments, **options).sink(got.append)
    env.execute()
    assert got == [result]


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (42, (), "needs a function"),
        (BaseFunction, (), "needs a function"),
        (Adding, (1, 2), "cannot be made"),
        (Adding(), (1,), "takes no further arguments"),
    ],
)
def test_an_object_that_is_not_a_function_is_refused_at_once(
    function: Any, arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        environment().from_batch([1]).map(function, *arguments)


class Counting(BaseFunction):
    def setup(self) -> None:
        self.calls: list[str] = [*getattr(self, "calls", []), "setup"]

    def process(self, record: Any) -> Any:
        return record

    def cleanup(self) -> None:
        self.calls.append("cleanup")


def test_an_instance_is_set_up_once_however_many_workers_share_it() -> None:
    shared = Counting()
    env = environment()
    env.from_batch(range(100)).map(shared, parallelism=4).map(shared)
    env.execute()
    assert shared.calls == ["setup", "cleanup"]
    env.execute()
    assert shared.calls == ["setup", "cleanup"] * 2


def test_a_stream_branches_joins_and_keeps_its_order_with_one_worker() -> None:
    env = environment()
    got: list[Any] = []
    odd_ones: list[int] = []
    numbers = env.from_batch(range(10), name="numbers")
    odd = numbers.filter(lambda number: number % 2).sink(odd_ones.append)
    texts = numbers.flatmap(lambda number: ["even"] * (number // 4) if number % 2 == 0 else None)
    odd.connect(texts).sink(got.append)
    env.execute()
    assert odd_ones == [1, 3, 5, 7, 9]
    assert [text for text in got if text != "even"] == odd_ones
    assert got.count("even") == 1 + 1 + 2


def test_a_stage_without_readers_runs_and_is_in_the_progress_of_the_job() -> None:
    env = environment()
    got: list[int] = []
    env.from_batch([1, 2, 3]).map(got.append, name="last")
    job = env.submit()
    assert job.wait(30) is JobState.FINISHED
    assert got == [1, 2, 3]
    assert job.progress == {"read": 3, "done": 3, "waiting": 0, "skipped": 0, "dead_letters": 0}
    assert job.metrics["last"]["in"] == 3
    assert job.metrics["batch"]["out"] == 3


def test_print_writes_a_line_for_each_record(capsys: pytest.CaptureFixture[str]) -> None:
    env = environment()
    env.from_batch([1, "two"]).print(prefix="> ")
    env.execute()
    assert capsys.readouterr().out == "> 1\n> two\n"


# Sources


class Running:
    def __init__(self, count: int) -> None:
        self.count = count

    def run(self) -> Iterator[int]:
        yield from range(self.count)


class CalledForEach(SourceFunction):
    """As upstream SAGE writes sources: each call gives one record."""

    def setup(self) -> None:
        self.remaining = [3, 2, 1]

    def execute(self) -> int | None:
        return self.remaining.pop() if self.remaining else None


class Iterated:
    def __iter__(self) -> Iterator[int]:
        return iter((1, 2, 3))


async def count_to_three() -> AsyncIterator[int]:
    for number in (1, 2, 3):
        await asyncio.sleep(0)
        yield number


@pytest.mark.parametrize(
    ("source", "arguments", "records"),
    [
        (Running, (3,), [0, 1, 2]),
        (Running(2), (), [0, 1]),
        (CalledForEach, (), [1, 2, 3]),
        (Iterated, (), [1, 2, 3]),
        (Iterated(), (), [1, 2, 3]),
        (lambda: (number for number in (4, 5)), (), [4, 5]),
        (range, (2, 4), [2, 3]),
        (count_to_three, (), [1, 2, 3]),
        ([1, 2], (), [1, 2]),
    ],
)
def test_a_source_is_anything_that_gives_records_and_is_read_again_by_each_job(
    source: Any, arguments: tuple[Any, ...], records: list[int]
) -> None:
    env = environment()
    got: list[int] = []
    env.from_source(source, *arguments).sink(got.append)
    env.execute()
    assert got == records
    env.execute()
    assert got == records * 2


@pytest.mark.parametrize("source", [5, "text", {"a": 1}, None])
def test_a_source_that_gives_no_records_is_refused(source: Any) -> None:
    with pytest.raises(InvalidRequest, match="source"):
        environment().from_source(source)
    with pytest.raises(InvalidRequest, match="from_batch takes"):
        environment().from_batch(source)


@pytest.mark.parametrize(
    "make",
    [
        lambda: (number for number in range(3)),
        lambda: iter([0, 1, 2]),
        lambda: map(int, "012"),
        lambda: itertools.chain([0, 1], [2]),
    ],
)
@pytest.mark.parametrize("add", ["from_batch", "from_source"])
def test_an_iterator_gives_its_records_to_one_job(add: str, make: Any) -> None:
    env = environment()
    got: list[int] = []
    getattr(env, add)(make()).sink(got.append)
    env.execute()
    assert got == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="was read to its end before"):
            env.execute()
    assert got == [0, 1, 2]


def test_an_asynchronous_generator_gives_its_records_to_one_job() -> None:
    env = environment()
    got: list[int] = []
    env.from_source(count_to_three()).sink(got.append)
    env.execute()
    with pytest.raises(InvalidRequest, match="was read to its end before"):
        env.execute()
    assert got == [1, 2, 3]


def test_a_generator_that_a_job_left_half_read_is_spent() -> None:
    def endless() -> Iterator[int]:
        yield from itertools.count()

    env = environment()
    reached = threading.Event()
    env.from_batch(endless()).sink(lambda record: reached.set() if record > 10 else None)
    job = env.submit()
    assert reached.wait(10)
    job.stop()
    job.wait()
    with pytest.raises(InvalidRequest, match="read to its end before"):
        env.execute()


def test_an_empty_iterator_is_no_error() -> None:
    env = environment()
    env.from_batch(iter(())).sink(print)
    assert env.execute().state is JobState.FINISHED


# Order


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers()), max_size=300),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 40),
)
def test_keys_keep_their_order_whatever_the_parallelism(
    records: list[tuple[int, int]], first: int, second: int, size: int
) -> None:
    env = environment(queue_size=size)
    got: list[tuple[int, int]] = []
    keyed = env.from_batch(records).map(lambda record: record, parallelism=1).keyby(lambda record: record[0])
    keyed.map(lambda record: record, parallelism=first).flatmap(lambda record: [record], parallelism=second).sink(
        got.append
    )
    env.execute()
    assert sorted(got) == sorted(records)
    for key in {key for key, _ in records}:
        assert [record for record in got if record[0] == key] == [record for record in records if record[0] == key]


class CountingKeys(BaseFunction):
    """Has a state of its own: how often each worker got each key."""

    def setup(self) -> None:
        self.counts: dict[Any, int] = defaultdict(int)

    def process(self, key: Any) -> tuple[Any, int, int]:
        self.counts[key] += 1
        return key, self.counts[key], id(self)


def test_all_records_of_a_key_go_to_one_worker() -> None:
    keys = ["a", "b", 1, 2.5, ("x", 1), b"raw", None, True]
    env = environment()
    got: list[tuple[Any, int, int]] = []
    env.from_batch(keys * 20).keyby(lambda key: key).map(CountingKeys, parallelism=3).sink(got.append)
    env.execute()
    assert len(got) == 160
    counts = {key: [count for other, count, _ in got if other == key] for key in ("a", 2.5, ("x", 1), b"raw", None)}
    assert all(count == list(range(1, 21)) for count in counts.values())
    assert [count for key, count, _ in got if key == 1] == list(range(1, 41))  # True is 1
    assert all(len({worker for other, _, worker in got if other == key}) == 1 for key in keys)


@pytest.mark.parametrize(("one", "same"), [(1, 1.0), (1, True), (("a", 1), ("a", 1.0)), ("é", "\u00e9")])
def test_equal_keys_have_one_hash(one: Any, same: Any) -> None:
    assert key_hash(one) == key_hash(same)


def test_the_hash_of_a_key_is_the_same_in_every_process() -> None:
    assert key_hash("key") % 1000 == 987
    assert key_hash(b"key") % 1000 == 987
    assert key_hash(("a", 7)) % 1000 == 333


def test_workers_of_one_stage_run_at_once() -> None:
    env = environment()
    together = threading.Barrier(4, timeout=30)
    env.from_batch(range(4)).map(lambda _: together.wait(), parallelism=4)
    env.execute()
    assert not together.broken


def test_a_key_that_cannot_be_hashed_fails_the_job() -> None:
    env = environment()
    env.from_batch([1]).keyby(lambda record: [record]).sink(print)
    with pytest.raises(InvalidRequest, match="must be hashable"):
        env.execute()


# Services in functions, and as stages


class Table:
    """A service that keeps its values in the order in which they came."""

    def __init__(self) -> None:
        self.values: dict[Any, list[Any]] = defaultdict(list)
        self.batches = 0

    def add(self, key: Any, value: Any) -> int:
        if value == "poison":
            raise ValueError("a bad value")
        self.values[key].append(value)
        return len(self.values[key])

    def get(self, key: Any) -> list[Any]:
        return self.values[key]

    def double(self, value: int) -> int:
        return value * 2


class Storing(BaseFunction):
    def process(self, record: tuple[str, int]) -> int:
        return self.call_service["table"].add(*record)  # type: ignore[no-any-return]


def test_functions_call_the_services_of_their_environment() -> None:
    env = environment()
    env.register_service("table", Table)
    got: list[int] = []
    env.from_batch([("a", 1), ("b", 2), ("a", 3)]).map(Storing()).sink(got.append)
    with env:
        env.execute()
        assert got == [1, 1, 2]
        assert env.call_service["table"].get("a") == [1, 3]


@pytest.mark.parametrize("batch", [None, 8])
@pytest.mark.parametrize("parallelism", [1, 3])
def test_a_service_as_a_stage_keeps_the_order_of_keys(batch: int | None, parallelism: int) -> None:
    env = environment()
    env.register_service("table", Table, max_workers=4)
    records = [(f"key{number % 7}", number) for number in range(400)]
    stored = env.from_batch(records).through(
        "table", method="add", arguments=lambda record: record, key=lambda record: record[0],
        combine=lambda record, count: (*record, count), batch=batch, parallelism=parallelism,
    )  # fmt: skip
    got: list[tuple[str, int, int]] = []
    stored.sink(got.append)
    with env:
        env.execute()
        for key in {key for key, _ in records}:
            assert env.call_service["table"].get(key) == [number for other, number in records if other == key]
    assert sorted(got) == sorted((key, number, number // 7 + 1) for key, number in records)


def test_a_service_as_a_stage_takes_the_record_alone_and_waits_for_a_full_queue() -> None:
    env = environment()
    env.register_service("table", Table, queue_size=1)
    got: list[int] = []
    env.from_batch(range(300)).keyby(lambda number: number).through("table", method="double").sink(got.append)
    env.execute()
    assert sorted(got) == [2 * number for number in range(300)]


@pytest.mark.parametrize("batch", [None, 4])
def test_a_record_that_a_service_refuses_is_found_and_skipped(batch: int | None) -> None:
    env = environment()
    env.register_service("table", Table)
    values = [1, "poison", 3, 4, "poison", 6]
    env.from_batch([("k", value) for value in values]).through(
        "table", method="add", arguments=lambda record: record, batch=batch, on_error="skip", name="store"
    )
    job = env.submit()
    job.wait(30)
    assert job.metrics["store"]["skipped"] == 2
    assert job.metrics["store"]["in"] == 6


def test_a_stage_of_a_missing_service_fails_the_job_before_a_record_is_read() -> None:
    env = environment()
    read: list[int] = []

    def numbers() -> Iterator[int]:
        read.append(1)
        yield 1

    env.from_source(numbers).through("nowhere", method="get")
    with pytest.raises(Exception, match="runs no service 'nowhere'"):
        env.execute()
    assert read == []
