"""Connected streams that a stage tells apart, loops, and records that come back to the program."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from sage.api.function.base_function import BaseFunction
from sage.api.function.kinds import BaseCoMapFunction, BaseJoinFunction, FlatMapFunction, MapFunction
from sage.api.local_environment import LocalEnvironment
from sage.errors import Conflict, InvalidRequest
from sage.kernels.runtime.streams.error_policy import DeadLetter
from sage.kernels.runtime.streams.job import JobState


def environment(**config: Any) -> LocalEnvironment:
    return LocalEnvironment("test", {"discovery": None, **config})


class Labelling(BaseCoMapFunction):
    def __init__(self, suffix: str = "") -> None:
        super().__init__()
        self.suffix = suffix
        self.is_set_up = False

    def setup(self) -> None:
        self.is_set_up = True

    def map0(self, record: int) -> str | None:
        assert self.is_set_up
        return f"number {record}{self.suffix}" if record else None

    def map1(self, record: str) -> str:
        return f"text {record}{self.suffix}"


async def shout(record: str) -> str:
    return record.upper()


@pytest.mark.parametrize(
    ("function", "arguments", "options", "expected"),
    [
        (Labelling, (), {}, {"number 1", "text a"}),
        (Labelling, ("!",), {}, {"number 1!", "text a!"}),
        (Labelling, (), {"suffix": "?"}, {"number 1?", "text a?"}),
        (Labelling("."), (), {}, {"number 1.", "text a."}),
        ([lambda record: record or None, shout], (), {}, {1, "A"}),
        (lambda record: record or None, (shout,), {}, {1, "A"}),
    ],
)
def test_comap_has_a_function_for_each_stream(
    function: Any, arguments: tuple[Any, ...], options: dict[str, Any], expected: set[Any]
) -> None:
    env = environment()
    numbers, texts = env.from_batch([0, 1]), env.from_batch(["a"])
    assert set(numbers.connect(texts).comap(function, *arguments, **options).collect()) == expected


def test_streams_are_numbered_in_the_order_in_which_they_were_connected() -> None:
    env = environment()
    a, b, c, d = (env.from_batch([letter]) for letter in "abcd")
    tell = [lambda record, number=number: (number, record) for number in range(4)]
    assert sorted(a.connect(b).connect(c.connect(d)).comap(tell).collect()) == [
        (0, "a"), (1, "b"), (2, "c"), (3, "d"),
    ]  # fmt: skip
    assert sorted(a.connect(a).comap(*tell[:2]).collect()) == [(0, "a"), (1, "a")]


def test_a_stream_that_comap_reads_goes_to_other_stages_as_it_is() -> None:
    env = environment()
    numbers, got = env.from_batch(range(50)), []
    numbers.sink(got.append)
    both = numbers.connect(env.from_batch(["x"])).comap(lambda record: record, lambda record: record)
    assert sorted(both.collect(), key=str) == sorted([*range(50), "x"], key=str)
    assert got == list(range(50))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda one, two: one.comap(Labelling), "comap needs connected streams"),
        (lambda one, two: one.join(print), "join needs connected streams"),
        (lambda one, two: one.connect(two).connect(one).comap(Labelling), "Labelling has no map2"),
        (lambda one, two: one.connect(two).comap(Labelling, 1, 2), "cannot be made"),
        (lambda one, two: one.connect(two).comap(str.upper), "1 functions for 2 streams"),
        (lambda one, two: one.connect(two).comap(5), "int has no map0, map1"),
        (lambda one, two: one.keyby(str).connect(two).join(print), "'batch-2' has none: put keyby"),
        (lambda one, two: one.connect(two).keyby([str]), "1 functions for 2 streams"),
        (lambda one, two: one.keyby(str, strategy="round_robin"), "keyby has no strategy 'round_robin'"),
        (lambda one, two: one.fill_future(two), "fill_future takes a stream that from_future"),
    ],
)
def test_what_connected_streams_cannot_do_is_refused_at_once(build: Any, message: str) -> None:
    env = environment()
    with pytest.raises(InvalidRequest, match=message):
        build(env.from_batch([1]), env.from_batch([2]))


class Orders(BaseJoinFunction):
    """Users with each of their orders, whichever comes first."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.users: dict[int, str] = {}
        self.orders: dict[int, list[str]] = {}

    def execute(self, record: dict[str, Any], key: int, stream: int) -> list[tuple[str, str]]:
        if stream == 0:
            self.users[key] = record["name"]
            return [(record["name"], item) for item in self.orders.pop(key, [])]
        if key in self.users:
            return [(self.users[key], record["item"])]
        self.orders.setdefault(key, []).append(record["item"])
        return []


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize("way", ["each", "connected", "list"])
def test_a_join_meets_all_records_of_a_key(parallelism: int, way: str) -> None:
    env = environment()
    users = env.from_batch([{"id": n, "name": f"user {n}"} for n in range(20)])
    orders = env.from_batch([{"id": n % 20, "item": f"item {n}"} for n in range(100)])
    by_id = lambda record: record["id"]  # noqa: E731
    if way == "each":
        keyed = users.keyby(by_id).connect(orders.keyby(by_id, strategy="hash"))
    else:
        keyed = users.connect(orders).keyby(by_id if way == "connected" else [by_id, by_id])
    joined = keyed.join(Orders, parallelism=parallelism).collect()
    assert sorted(joined) == sorted((f"user {n % 20}", f"item {n}") for n in range(100))


def test_a_plain_function_joins_and_its_keys_go_on() -> None:
    env = environment()
    one, two = env.from_batch([1, 2]).keyby(lambda n: n % 2), env.from_batch([3]).keyby(lambda n: n % 2)
    joined = one.connect(two).join(lambda record, key, stream: [(record, key, stream)] * 2)
    assert Counter(joined.collect()) == {(1, 1, 0): 2, (2, 0, 0): 2, (3, 1, 1): 2}


def test_a_record_of_a_join_that_raises_is_a_dead_letter_as_it_was() -> None:
    env = environment()
    letters: list[DeadLetter] = []
    one, two = env.from_batch([1]).keyby(str), env.from_batch([0]).keyby(str)
    one.connect(two).join(lambda record, key, stream: [1 / record], on_error=letters.append).sink(print)
    env.execute()
    assert [letter.value for letter in letters] == [0]


class CountingDown(BaseFunction):
    """As upstream SAGE writes the end of a loop: ``None`` is no record."""

    def execute(self, record: int) -> int | None:
        return record - 1 if record > 1 else None


@pytest.mark.parametrize("queue_size", [1, 1000])
def test_a_loop_ends_when_its_records_have_left_it(queue_size: int) -> None:
    env = environment(queue_size=queue_size)
    back = env.from_future("back")
    seen: list[int] = []
    entered = env.from_batch([3, 5] * 10).connect(back).comap(lambda record: record, lambda record: record)
    entered.sink(seen.append)
    entered.map(CountingDown).fill_future(back)
    for runs in (1, 2):
        job = env.execute()
        assert job.state is JobState.FINISHED
        assert Counter(seen) == {1: 20 * runs, 2: 20 * runs, 3: 20 * runs, 4: 10 * runs, 5: 10 * runs}


def test_a_loop_that_spreads_records_and_loops_in_loops_end() -> None:
    env = environment()
    inner, outer = env.from_future("inner"), env.from_future("outer")
    leaves: list[str] = []
    nodes = env.from_batch([""]).connect(inner, outer)
    children = nodes.flatmap(lambda path: [path + "0", path + "1"] if len(path) < 4 else [], parallelism=2)
    children.filter(lambda path: path.endswith("0")).fill_future(inner)
    children.filter(lambda path: path.endswith("1")).fill_future(outer)
    children.filter(lambda path: len(path) == 4).sink(leaves.append)
    env.execute()
    assert sorted(leaves) == [f"{number:04b}" for number in range(16)]


def test_a_record_that_never_leaves_a_loop_does_not_keep_the_environment() -> None:
    env = environment(grace=0.1)
    back = env.from_future("back")
    turned = threading.Event()
    circle = env.from_batch([1]).connect(back).map(lambda record: turned.set() or record)
    circle.fill_future(back)
    job = env.submit()
    assert turned.wait(10)
    env.close()
    assert job.ended


def test_a_future_is_filled_once_and_before_the_job() -> None:
    env = environment()
    future = env.from_future("later")
    records = env.from_batch([1]).connect(future).map(str)
    with pytest.raises(InvalidRequest, match="'later' of the environment 'test' gets no records yet"):
        env.submit()
    assert not env.services()
    records.filter(lambda _: False).fill_future(future)
    with pytest.raises(Conflict, match="filled already"):
        records.fill_future(future)
    assert records.collect() == ["1"]


def test_an_error_in_a_loop_fails_the_job() -> None:
    env = environment()
    back = env.from_future("back")
    env.from_batch([3]).connect(back).map(lambda n: 1 / n and n - 1).fill_future(back)
    with pytest.raises(ZeroDivisionError):
        env.execute()


class Words(FlatMapFunction):
    def process(self, record: str) -> list[str] | None:
        if record == "bad":
            self.collect("lost")
            raise ValueError(record)
        for word in record.split():
            self.collect(word)
        return ["."] if record.endswith("!") else None


@pytest.mark.parametrize("function", [Words, Words()])
def test_a_flatmap_collects_records(function: Any) -> None:
    env = environment()
    words = env.from_batch(["a b", "bad", "", "c !"]).flatmap(function, on_error="skip")
    assert words.collect() == ["a", "b", ".", "c", "!"]


def test_workers_that_share_a_function_collect_apart() -> None:
    env = environment()
    texts = [f"{n} {n}" for n in range(300)]
    assert Counter(env.from_batch(texts).flatmap(Words(), parallelism=4).collect()) == {str(n): 2 for n in range(300)}


def test_collecting_works_only_in_a_flatmap() -> None:
    with pytest.raises(InvalidRequest, match="only while the function runs in a flatmap"):
        environment().from_batch(["a"]).map(Words).collect()


def test_collect_runs_the_environment_and_leaves_no_stage_behind() -> None:
    env = environment()
    got: list[int] = []
    numbers = env.from_batch(range(5)).sink(got.append)
    assert numbers.collect() == numbers.collect() == list(range(5))
    assert got == [*range(5), *range(5)]
    assert "collect" not in env.execute().metrics
    with pytest.raises(ZeroDivisionError):
        numbers.map(lambda n: 1 / n).collect()


class Halving(MapFunction):
    def execute(self, record: int) -> int | None:
        return None if record % 2 else record // 2


class Processing(BaseFunction):
    def process(self, record: int) -> None:
        return None


def test_none_from_execute_is_no_record_and_from_all_other_functions_it_is_one() -> None:
    env = environment()
    numbers = env.from_batch([1, 2, 3, 4])
    assert numbers.map(Halving).collect() == [1, 2]
    assert numbers.map(Processing).collect() == [None] * 4
    assert numbers.map(lambda _: None).collect() == [None] * 4
