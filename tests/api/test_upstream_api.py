"""The names of upstream SAGE: they work, they warn, and say what to write."""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from sage.api.function import kinds
from sage.api.function.base_function import BaseFunction
from sage.api.function.kinds import BatchFunction, MapFunction, SinkFunction, SourceFunction, StopSignal
from sage.api.local_environment import LocalEnvironment
from sage.api.ray_environment import RayEnvironment
from sage.api.stream import Stream
from sage.errors import InvalidRequest
from sage.kernels.runtime.streams.job import JobState


def environment() -> LocalEnvironment:
    return LocalEnvironment("test", {"discovery": None})


@pytest.mark.parametrize(
    ("module", "name", "now"),
    [
        ("sage.api.function.map_function", "MapFunction", kinds.MapFunction),
        ("sage.api.function.filter_function", "FilterFunction", kinds.FilterFunction),
        ("sage.api.function.flatmap_function", "FlatMapFunction", kinds.FlatMapFunction),
        ("sage.api.function.sink_function", "SinkFunction", kinds.SinkFunction),
        ("sage.api.function.source_function", "SourceFunction", kinds.SourceFunction),
        ("sage.api.function.source_function", "StopSignal", kinds.StopSignal),
        ("sage.api.function.batch_function", "BatchFunction", kinds.BatchFunction),
        ("sage.api.function.keyby_function", "KeyByFunction", kinds.KeyByFunction),
        ("sage.api.function.comap_function", "BaseCoMapFunction", kinds.BaseCoMapFunction),
        ("sage.api.function.join_function", "BaseJoinFunction", kinds.BaseJoinFunction),
        ("sage.api.datastream", "DataStream", Stream),
        ("sage.api.connected_streams", "ConnectedStreams", Stream),
    ],
)
def test_the_modules_of_the_tutorials_give_our_classes_and_warn(module: str, name: str, now: type) -> None:
    with pytest.warns(DeprecationWarning, match=f"write here: from {now.__module__} import {now.__name__}"):
        assert getattr(importlib.import_module(module), name) is now
    with pytest.raises(AttributeError, match="has no attribute 'Other'"):
        _ = importlib.import_module(module).Other


def test_old_names_of_services() -> None:
    import sage.service

    with pytest.warns(DeprecationWarning, match="MemoryOrchestratorService"):
        assert sage.service.MemoryService is sage.service.MemoryOrchestratorService
    with pytest.raises(InvalidRequest, match="no graph service"):
        sage.service.create_graph_service_factory("graph_service", backend_type="memory")


def test_a_remote_environment_is_one_on_ray() -> None:
    from sage.api.remote_environment import RemoteEnvironment

    with pytest.warns(DeprecationWarning, match="import RayEnvironment"):
        env = RemoteEnvironment(config={"discovery": None})
    assert isinstance(env, RayEnvironment)
    assert env.name == "remote_environment"
    with (
        pytest.warns(DeprecationWarning, match="RemoteEnvironment"),
        pytest.raises(InvalidRequest, match=r"no JobManager here to reach at 10\.0\.0\.7:19001"),
    ):
        RemoteEnvironment("far", host="10.0.0.7")
    with pytest.warns(DeprecationWarning, match='platform="ray"'):
        LocalEnvironment("far", {"discovery": None}, platform="remote")


def test_an_environment_needs_no_name() -> None:
    assert LocalEnvironment(config={"discovery": None}).name == "environment"


class Numbers(BatchFunction):
    def __init__(self, start: int, ctx: Any = None, **kwargs: Any) -> None:
        super().__init__(ctx, **kwargs)
        self.next, self.end = start, kwargs.get("end", 3)

    def execute(self) -> int | None:
        self.next += 1
        return self.next - 1 if self.next <= self.end else None


class Iterated(BatchFunction):
    def get_data_iterator(self) -> Iterator[int]:
        return iter(range(2))

    def get_total_count(self) -> int:
        return 2


class Signalling(SourceFunction):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = [1, 2, StopSignal("numbers"), 3]

    def execute(self, data: Any = None) -> Any:
        return self.records.pop(0)


@pytest.mark.parametrize("add", ["from_batch", "from_source", "from_collection"])
@pytest.mark.parametrize(
    ("source", "arguments", "options", "records"),
    [
        (Numbers, (0,), {}, [0, 1, 2]),
        (Numbers, (1,), {"end": 2}, [1]),
        (Iterated, (), {}, [0, 1]),
        (Iterated(), (), {}, [0, 1]),
        (Signalling, (), {}, [1, 2]),
        ([4, 5], (), {}, [4, 5]),
    ],
)
@pytest.mark.filterwarnings("ignore:from_collection is a name of upstream SAGE")
def test_a_source_is_a_class_with_its_arguments(
    add: str, source: Any, arguments: tuple[Any, ...], options: dict[str, Any], records: list[int]
) -> None:
    stream = getattr(environment(), add)(source, *arguments, **options)
    assert stream.collect() == records
    assert stream.collect() == records


def test_arguments_that_nobody_takes_are_refused() -> None:
    env = environment()
    with pytest.raises(InvalidRequest, match="Iterated cannot be made with these arguments: it has no '__init__'"):
        env.from_batch(Iterated, 5)
    with pytest.raises(InvalidRequest, match="only for a class"):
        env.from_batch([1], progress=True)
    with pytest.raises(InvalidRequest, match="Doubling cannot be made with these arguments"):
        env.from_batch([1]).map(Doubling, factor=2)
    with pytest.warns(DeprecationWarning, match="job.progress"):
        assert env.from_batch([1], progress_log_interval=10).collect() == [1]
    with pytest.raises(InvalidRequest, match="delay must be seconds from 0, not -1"):
        env.from_batch([1], delay=-1)


class Waiting(SourceFunction):
    def __init__(self, delay: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.records = [delay]

    def execute(self) -> float | None:
        return self.records.pop() if self.records else None


def test_a_source_pauses_between_records_and_stops_at_once() -> None:
    env = environment()
    assert env.from_source(Waiting, delay=0.5).collect() == [0.5]
    first = threading.Event()
    begin = time.monotonic()
    env = environment()
    env.from_source(lambda: iter(int, 1), delay=60.0).sink(lambda _: first.set())
    with env:
        job = env.submit()
        assert first.wait(10)
    assert job.state is JobState.STOPPED
    assert time.monotonic() - begin < 10


class Doubling(MapFunction):
    def execute(self, data: int) -> int:
        return data * 2


class Telling(SinkFunction):
    def __init__(self, told: list[str], **kwargs: Any) -> None:
        super().__init__(told, **kwargs)
        self.told = told

    def execute(self, data: int) -> None:
        self.logger.info("got %d", data)
        self.told.append(f"[{self.name}] {data}")

    def close(self) -> None:
        self.told.append("closed")


class Named(MapFunction):
    def __init__(self, **kwargs: Any) -> None:
        self.name = kwargs.get("label", "unnamed")

    def execute(self, data: int) -> str:
        return f"{self.name} {data}"


def test_functions_have_a_name_a_logger_and_close(caplog: pytest.LogCaptureFixture) -> None:
    env, told = environment(), list[str]()
    doubled = env.from_batch([1]).map(Doubling).sink(Telling, told, name="FinalSink")
    with caplog.at_level(logging.INFO):
        assert doubled.map(Named, label="mine").collect() == ["mine 2"]
    assert told == ["[FinalSink] 2", "closed"]
    assert [(record.name, record.message) for record in caplog.records] == [(f"{__name__}.Telling", "got 2")]
    assert Telling([]).name == "Telling"


@dataclass
class Fielded(MapFunction):
    name: str
    factor: int = 2

    def execute(self, data: int) -> str:
        return f"{self.name} {data * self.factor}"


def test_a_function_may_be_a_dataclass_with_a_name() -> None:
    assert environment().from_batch([2]).map(Fielded, "mine").collect() == ["mine 4"]
    with pytest.raises(InvalidRequest, match="name"):
        environment().from_batch([2]).map(Fielded)


class Other:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.arguments = (args, kwargs)


class Both(BaseFunction, Other):
    def __init__(self) -> None:
        super().__init__(1, two=2)


def test_the_constructor_takes_what_subclasses_hand_on() -> None:
    assert Both().arguments == ((1,), {"two": 2})
    assert BaseFunction(1, 2, three=3).name == "BaseFunction"


def test_close_ends_the_jobs_and_the_services_however_often_they_were_started() -> None:
    env = environment()
    env.register_service("list", list)
    env.from_source(lambda: iter(int, 1), delay=0.01).map(Doubling)
    env.start()
    env.start()
    job = env.submit()
    env.close()
    assert job.ended
    assert env.services() == []
    env.close()


class Cache:
    """A service as upstream SAGE's tutorials write it: any class."""

    def __init__(self, events: list[str], max_size: int = 1000) -> None:
        self.events, self.max_size, self.is_running = events, max_size, False

    def start_running(self) -> None:
        self.is_running = True
        self.events.append("started")

    def terminate(self) -> None:
        self.events.append("terminated")

    def describe(self, key: str) -> dict[str, Any]:
        return {"key": key, "size": self.max_size, "running": self.is_running}


class Describing(MapFunction):
    def execute(self, data: str) -> Any:
        return self.call_service("cache", data, method="describe")


def test_a_plain_class_is_a_service_and_is_told_of_its_start_and_end() -> None:
    env, events = environment(), list[str]()
    env.register_service("cache", Cache, events, max_size=500)
    assert env.from_batch(["a"]).map(Describing).collect() == [{"key": "a", "size": 500, "running": True}]
    assert events == ["started", "terminated"]


def test_methods_of_environments_under_their_old_names(capsys: pytest.CaptureFixture[str]) -> None:
    env = environment()
    with pytest.warns(DeprecationWarning, match="env.register_service"):
        env.register_service_factory("things", lambda: Other())
    with pytest.warns(DeprecationWarning, match="env.from_batch"):
        env.from_memory_source([1]).print("Debug", separator=" | ", colored=True)
    with pytest.warns(DeprecationWarning, match="job.metrics"):
        assert len(env.pipeline) == 2
    with pytest.warns(DeprecationWarning, match="env.execute"):
        assert env.submit(autostop=True).state is JobState.FINISHED
    assert capsys.readouterr().out == "Debug | 1\n"
    level = logging.getLogger("sage").level
    try:
        with pytest.warns(DeprecationWarning, match="logging.getLogger"):
            env.set_console_log_level("warning")
        assert logging.getLogger("sage").level == logging.WARNING
    finally:
        logging.getLogger("sage").setLevel(level)
