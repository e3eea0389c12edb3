"""Services and pipelines as actors of a real Ray on this machine: calls, errors, deadlines, deaths, names."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sage.api.function.kinds import BaseCoMapFunction, BaseJoinFunction, FlatMapFunction, MapFunction
from sage.api.local_environment import LocalEnvironment
from sage.api.ray_environment import RayEnvironment
from sage.errors import ConfigError, Conflict, DeadlineExceeded, InvalidRequest, MissingExtra, NotFound, Unavailable
from sage.kernels.runtime.ray import deadlines
from sage.kernels.runtime.ray.errors import RemoteError
from sage.kernels.runtime.ray.remote_service import find_service
from sage.kernels.runtime.service.base_service_task import BaseServiceTask
from sage.kernels.runtime.services.calls import RemoteTraceback, ServiceCall
from sage.kernels.runtime.services.registry import ServiceStartFailed
from sage.service import (
    KVService,
    create_kv_service_factory,
    create_memory_service_factory,
    create_vdb_service_factory,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*:ResourceWarning")]
SECONDS = 30.0


def wait_for(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.005)
    return value


class UnusualError(Exception):
    """Its constructor takes other things than it keeps, and it keeps what no process can carry."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")
        self.lock = threading.Lock()


class Store(BaseServiceTask):
    """Keeps things, blocks and fails on request; writes files to show what it does."""

    max_workers = 3

    def __init__(self) -> None:
        self.things: list[Any] = []

    def pid(self) -> int:
        return os.getpid()

    def add(self, thing: Any) -> int:
        self.things.append(thing)
        return len(self.things)

    def all(self) -> list[Any]:
        return self.things

    def block(self, inside: Path, until: Path) -> int:
        inside.write_text(str(os.getpid()))
        wait_for(until.exists)
        return os.getpid()

    async def sleep(self, inside: Path, ended: Path) -> None:
        inside.touch()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.touch()

    def block_then_call(self, inside: Path, until: Path, ended: Path) -> None:
        inside.touch()
        wait_for(until.exists)
        try:
            self.call_service["kv"].put("late", 1)
        except BaseException as exc:
            ended.write_text(type(exc).__name__)

    def put_elsewhere(self, key: str, value: Any) -> Any:
        self.call_service["kv"].put(key, value)
        return self.call_service["kv"].get(key)

    def call_me_by(self, other: str) -> Any:
        return self.call_service[other].call_me_by("store")

    def fail(self, kind: type[BaseException], *words: Any) -> None:
        raise kind(*words)

    def lock(self) -> Any:
        return threading.Lock()


class Pair(BaseServiceTask):
    """Counts how many calls are in it at once."""

    max_workers = 2

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.lock = threading.Lock()
        self.both = threading.Barrier(2)

    def enter(self, together: bool = False) -> None:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        if together:
            self.both.wait(SECONDS)
        with self.lock:
            self.inside -= 1

    def most_at_once(self) -> int:
        return self.most

    def hang(self) -> None:
        threading.Event().wait()


class Unready(BaseServiceTask):
    def setup(self) -> None:
        raise FileNotFoundError(2, "no such model")


@pytest.fixture(scope="module")
def env(ray_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayEnvironment]:
    env = RayEnvironment("shelves", ray_config)
    env.register_service("store", Store)
    env.register_service("other", Store)
    env.register_service("three", Store, replicas=3)
    env.register_service("small", Store, max_workers=1, queue_size=2)
    directory = tmp_path_factory.mktemp("kv")
    factory = create_kv_service_factory(backend_type="sqlite", persist_directory=str(directory))
    env.register_service("kv", KVService, factory)
    with env:
        yield env


def test_a_service_runs_in_a_process_of_its_own_behind_a_token(env: RayEnvironment) -> None:
    kv = env.call_service["kv"]
    kv.put("a", {"x": [1, 2.5, None]})
    assert kv.get("a") == {"x": [1, 2.5, None]}
    pids = {env.call_service[name].pid() for name in ("store", "other", "small")}
    assert len(pids | {os.getpid()}) == 4
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert token.parent == Path(os.environ["SAGE_DATA_DIR"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) == 64
    descriptions = {description["name"]: description for description in env.services()}
    assert descriptions["store"]["class"] == "Store"
    assert descriptions["three"]["replicas"] == descriptions["three"]["health"]["replicas_answering"] == 3
    assert descriptions["kv"]["statistics"]["calls"] == 2


class OldStyle(BaseServiceTask):
    """A service as upstream SAGE's guides write it."""

    def __init__(self, service_factory: Any, ctx: Any = None) -> None:
        super().__init__(service_factory, ctx)
        self.start = service_factory.config["start"]

    def add(self, amount: int) -> int:
        kv = self.ctx.service_manager.get_service_proxy("kv_service")
        kv.put("total", self.start + amount)
        return int(self.call_service["kv_service"].get("total"))


def test_a_memory_finds_the_registered_services_and_old_services_their_context(
    env: RayEnvironment, ray_config: dict[str, Any]
) -> None:
    with pytest.warns(DeprecationWarning, match="platform"):
        other = LocalEnvironment("upstream", ray_config, platform="remote")
    other.register_service("memory_service", create_memory_service_factory(embedder=None))
    other.register_service("kv_service", create_kv_service_factory())
    other.register_service("vdb_service", create_vdb_service_factory())
    with pytest.warns(DeprecationWarning, match=r"takes \(service_factory, ctx\)"):
        other.register_service("old", OldStyle, config={"start": 40})
    with other:
        memory = other.call_service["memory_service"]
        memory.store_memory("s", "text", [1.0, 0.0])
        assert [(one["session_id"], one["memories"]) for one in memory.list_sessions()] == [("s", 1)]
        assert other.call_service["vdb_service"].collections() == ["memory"]
        assert len(other.call_service["kv_service"].list_keys("memory/memory/sessions/")) == 1
        assert other.call_service["old"].add(2) == 42


def test_errors_arrive_as_what_was_raised(env: RayEnvironment) -> None:
    store = env.call_service["store"]
    with pytest.raises(KeyError, match="gone") as caught:
        store.fail(KeyError, "gone")
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in fail" in caught.value.__cause__.text
    with pytest.raises(MissingExtra) as missing:
        store.fail(MissingExtra, "this", "chroma")
    assert (missing.value.extra, missing.value.code) == ("chroma", "missing_extra")
    with pytest.raises(UnicodeDecodeError) as undecoded:
        store.fail(UnicodeDecodeError, "utf-8", b"\xff", 0, 1, "bad byte")
    assert undecoded.value.reason == "bad byte"
    with pytest.raises(FileNotFoundError) as nothing:
        store.fail(FileNotFoundError, 2, "nothing")
    assert nothing.value.errno == 2
    with pytest.raises(RemoteError, match=r"UnusualError: 1 and 2 \(an error that cannot be carried"):
        store.fail(UnusualError, 1, 2)
    with pytest.raises(SystemExit):  # it ends the call, not the actor
        store.fail(SystemExit, 3)
    with pytest.raises(NotFound, match="has no public method 'nothing'; it has: add, all"):
        store.nothing()


def test_an_argument_or_result_that_cannot_be_carried_fails_its_call_alone(env: RayEnvironment) -> None:
    store, soon = env.call_service["store"], env.call_service_async["store"]
    with pytest.raises(RemoteError, match=r"'store'\.lock gave what cannot be carried to another process"):
        store.lock()
    with pytest.raises(InvalidRequest, match=r"the call of 'store'\.add cannot be carried") as refused:
        store.add(threading.Lock())
    assert refused.value.code == "call_not_carried"
    calls = [soon.pid(), soon.add(threading.Lock()), soon.lock(), soon.pid()]
    assert isinstance(calls[1].exception(), InvalidRequest)
    assert isinstance(calls[2].exception(), RemoteError)
    assert calls[0].result() == calls[3].result() == store.pid()


def test_batches_and_futures_keep_their_order(env: RayEnvironment) -> None:
    kv, soon = env.call_service["kv"], env.call_service_async["kv"]
    kv.put.starmap([(f"n{n}", n) for n in range(1500)])
    assert kv.get.map([f"n{n}" for n in range(1500)]) == list(range(1500))
    calls = [soon.get(f"n{n}") for n in range(1500)]
    assert [call.result() for call in calls] == list(range(1500))

    async def awaited() -> list[Any]:
        return list(await asyncio.gather(*(soon.get(f"n{n}") for n in range(20))))

    assert asyncio.run(awaited()) == list(range(20))


def test_the_calls_of_a_key_run_in_order_on_one_replica(env: RayEnvironment) -> None:
    three = env.call_service_async["three"]
    calls = [three.options(order=f"k{n % 5}").add([n % 5, n]) for n in range(400)]
    for call in calls:
        call.result()
    replicas = [env.call_service["three"].options(order=f"k{key}").all() for key in range(5)]
    for key, things in enumerate(replicas):
        assert [n for k, n in things if k == key] == list(range(key, 400, 5))
    env.call_service["three"].options(order="k0").add([0, -1])


def test_replicas_are_chosen_by_what_is_under_way(env: RayEnvironment, tmp_path: Path) -> None:
    three, soon = env.call_service["three"], env.call_service_async["three"]
    blocked = [soon.block(tmp_path / f"in{n}", tmp_path / "go") for n in range(2)]
    busy = {
        int(wait_for(lambda n=n: (tmp_path / f"in{n}").exists() and (tmp_path / f"in{n}").read_text()))
        for n in range(2)
    }
    assert len(busy) == 2
    assert {three.pid() for _ in range(6)}.isdisjoint(busy)
    (tmp_path / "go").touch()
    assert {call.result() for call in blocked} == busy


def test_services_call_each_other_and_never_in_a_circle(env: RayEnvironment) -> None:
    store = env.call_service["store"]
    assert store.put_elsewhere("from", {"an": "actor"}) == {"an": "actor"}
    with pytest.raises(Conflict, match="store → other → store") as circle:
        store.call_me_by("other")
    assert circle.value.code == "call_cycle"
    with pytest.raises(
        NotFound, match="the environment 'shelves' runs no service 'none'; it runs: kv, other, small, store"
    ):
        store.call_me_by("none")


def test_a_deadline_ends_the_work_and_what_it_would_do_next(env: RayEnvironment, tmp_path: Path) -> None:
    store = env.call_service["store"]
    call_until_deadline(tmp_path / "a", lambda soon: soon.sleep(tmp_path / "a", tmp_path / "a-ended"), store)
    wait_for((tmp_path / "a-ended").exists)
    late = call_until_deadline(
        tmp_path / "b",
        lambda soon: soon.block_then_call(tmp_path / "b", tmp_path / "go", tmp_path / "b-ended"),
        store,
    )
    assert late.code == "service_timeout"
    (tmp_path / "go").touch()
    assert wait_for(lambda: (tmp_path / "b-ended").exists() and (tmp_path / "b-ended").read_text()) in (
        "CancelledError", "DeadlineExceeded",
    )  # fmt: skip
    assert env.call_service["kv"].get("late") is None
    soon = env.call_service_async["store"].sleep(tmp_path / "c", tmp_path / "c-ended")
    wait_for((tmp_path / "c").exists)
    assert soon.cancel()
    with pytest.raises(CancelledError):
        soon.result()
    wait_for((tmp_path / "c-ended").exists)


def kill_service(env: RayEnvironment, name: str, number: signal.Signals) -> int:
    """Sends a signal to the process of a service's only actor; returns its pid."""
    description = next(description for description in env.services() if description["name"] == name)
    pid = int(description["host"].rpartition(":")[2])
    os.kill(pid, number)
    return pid


def call_until_deadline(inside: Path, call: Callable[[Any], Any], service: Any) -> DeadlineExceeded:
    """Makes a call that has begun, and writes ``inside`` then, when its deadline passes. A slow machine needs a longer
    one: a call that arrives too late never begins."""
    seconds = 0.3
    while True:
        with pytest.raises(DeadlineExceeded) as late:
            call(service.options(timeout=seconds))
        if inside.exists():
            return late.value
        assert seconds < SECONDS
        seconds *= 2


@pytest.mark.parametrize("way", ["waited for", "a future", "a batch", "a future of a batch"])
def test_a_write_that_arrives_after_its_deadline_is_refused(env: RayEnvironment, way: str) -> None:
    """The actor's process is stopped while the call is on its way to it, until the deadline is over."""
    kv, soon = (caller["kv"].options(timeout=0.3) for caller in (env.call_service, env.call_service_async))
    calls: dict[str, Callable[[], Any]] = {
        "waited for": lambda: kv.put(way, 1),
        "a future": lambda: soon.put(way, 1).result(),
        "a batch": lambda: kv.put.starmap([(way, 1)]),
        "a future of a batch": lambda: soon.put.starmap([(way, 1)]).result(),
    }
    pid = kill_service(env, "kv", signal.SIGSTOP)
    try:
        with pytest.raises(DeadlineExceeded):
            calls[way]()
    finally:
        os.kill(pid, signal.SIGCONT)
    store = env.call_service["store"]
    assert store.put_elsewhere("after", 1) == 1
    wait_for(lambda: env.call_service["kv"].get("after") == 1)
    assert env.call_service["kv"].get(way) is None


@pytest.mark.parametrize("waits", [True, False])
def test_the_first_deadline_for_another_machine_is_sent_in_its_clock(
    env: RayEnvironment, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    """The actor is on this machine, which here gets another clock id."""
    monkeypatch.setattr(deadlines, "CLOCK", "the clock of another machine")
    replicas = find_service("kv", env._platform._cluster.namespace)  # type: ignore[attr-defined]
    assert replicas is not None
    (link,) = replicas.links
    assert link._clock.is_stale
    deadline = time.monotonic() + SECONDS
    call = ServiceCall("get", ["nothing"], {}, ("kv",), deadline, waits=waits)
    try:
        replicas.submit(call)
        assert call.result() is None
        assert not link._clock.is_stale
        assert deadline - 5 < link._clock.to_wire(deadline)[1] < deadline
    finally:
        replicas.close()


def test_a_full_queue_is_refused(env: RayEnvironment, tmp_path: Path) -> None:
    small, soon = env.call_service["small"], env.call_service_async["small"]
    blocked = soon.block(tmp_path / "in", tmp_path / "go")
    wait_for((tmp_path / "in").exists)
    waiting = [soon.pid() for _ in range(2)]
    wait_for(lambda: next(one for one in env.services() if one["name"] == "small")["statistics"]["queue_depth"] == 2)
    with pytest.raises(Unavailable, match="2 calls wait for the service 'small'") as full:
        small.pid()
    assert full.value.code == "queue_full"
    (tmp_path / "go").touch()
    assert {call.result() for call in [blocked, *waiting]} == {small.pid()}


def test_no_more_calls_run_than_there_are_workers_and_stop_ends_all(
    ray_config: dict[str, Any], env: RayEnvironment
) -> None:
    environment = RayEnvironment("pairs", {**ray_config, "grace": 0.3})
    environment.register_service("pair", Pair)
    with environment:
        pair, soon = environment.call_service["pair"], environment.call_service_async["pair"]
        pair.enter()  # now there is one worker, and it sleeps
        with ThreadPoolExecutor(6) as threads:
            for waiting in [threads.submit(pair.enter, True) for _ in range(60)]:
                waiting.result(SECONDS)
        assert pair.most_at_once() == 2
        hanging = [soon.hang() for _ in range(50)]
        begun = time.monotonic()
    assert time.monotonic() - begun < SECONDS
    assert {type(call.exception(SECONDS)) for call in hanging} == {Unavailable}
    with pytest.raises(NotFound, match="runs no service 'pair'"):
        environment.call_service["pair"]
    with pytest.raises(Unavailable, match="is stopped"):
        pair.most_at_once()


def test_a_killed_actor_fails_its_calls_clearly_and_comes_back(env: RayEnvironment, tmp_path: Path) -> None:
    other, kv = env.call_service["other"], env.call_service["kv"]
    kv.put("kept", "on disk")
    pid = other.pid()
    running = [env.call_service_async["other"].block(tmp_path / f"in{n}", tmp_path / "never") for n in range(3)]
    for n in range(3):
        wait_for((tmp_path / f"in{n}").exists)
    os.kill(pid, signal.SIGKILL)
    for call in running:
        error = call.exception(timeout=SECONDS)
        assert isinstance(error, Unavailable)
        assert error.code == "service_died"
        assert "died during the call of block, which may or may not have run" in error.message
    again = other.options(timeout=SECONDS).pid()  # waits until it is back
    assert again != pid


def test_a_call_that_may_run_twice_survives_a_death(env: RayEnvironment, tmp_path: Path) -> None:
    store = env.call_service_async["store"]
    pid = env.call_service["store"].pid()
    call = store.options(retries=2, timeout=SECONDS).block(tmp_path / "in", tmp_path / "go")
    wait_for(lambda: (tmp_path / "in").exists() and (tmp_path / "in").read_text() == str(pid))
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: (tmp_path / "in").read_text() not in ("", str(pid)))
    (tmp_path / "go").touch()
    assert call.result() not in (pid, os.getpid())


def test_durable_values_outlive_the_actor(env: RayEnvironment) -> None:
    kv = env.call_service["kv"]
    for n in range(20):
        kv.put(f"durable{n}", n)
    kill_service(env, "kv", signal.SIGKILL)
    values = env.call_service["kv"].options(retries=5, timeout=SECONDS).get.map([f"durable{n}" for n in range(20)])
    assert values == list(range(20))


class Poisoned:
    """Dies with one record the first time, with another each time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def process(self, record: int) -> tuple[int, bool]:
        first = self.directory / f"seen{record}"
        if record == 13 or (record == 5 and not first.exists()):
            first.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if record == 17:
            raise KeyError(record)
        return record, os.getpid() != int((self.directory / "driver").read_text())


def test_a_pipeline_outlives_the_death_of_its_workers(
    ray_config: dict[str, Any], env: RayEnvironment, tmp_path: Path
) -> None:
    (tmp_path / "driver").write_text(str(os.getpid()))
    environment = LocalEnvironment("pipeline", ray_config, platform="ray")
    environment.register_service("kv", KVService)
    results: list[Any] = []
    stream = environment.from_batch(range(40)).map(Poisoned, tmp_path, on_error="skip")
    stream.filter(lambda record: record[0] % 2).sink(results.append)
    job = environment.execute()
    assert results == [(n, True) for n in range(1, 40, 2) if n not in (13, 17)]
    assert sum(stage["skipped"] for stage in job.metrics.values()) == 2


class Told(BaseCoMapFunction):
    def setup(self) -> None:
        self.is_set_up = True

    def map0(self, record: int) -> tuple[str, int] | None:
        return ("number", record) if self.is_set_up and record else None

    def map1(self, record: str) -> tuple[str, str]:
        return ("text", record)


class Pairs(BaseJoinFunction):
    def setup(self) -> None:
        self.seen: dict[Any, list[list[Any]]] = {}

    def process(self, record: Any, key: Any, stream: int) -> list[tuple[Any, Any]]:
        ours, others = (self.seen.setdefault(key, [[], []])[side] for side in (stream, 1 - stream))
        ours.append(record)
        return [(record, other) if stream == 0 else (other, record) for other in others]


class Halves(FlatMapFunction):
    def execute(self, record: int) -> None:
        if record > 1:
            self.collect(record // 2)
            self.collect(record - record // 2)


def test_connected_streams_and_loops_run_on_actors(ray_config: dict[str, Any]) -> None:
    environment = RayEnvironment("connected", ray_config)
    numbers, texts = environment.from_batch([0, 1, 2]), environment.from_batch(["1", "2"])
    told = numbers.connect(texts).comap(Told)
    joined = numbers.keyby(str).connect(texts.keyby(str)).join(Pairs, parallelism=2)
    back = environment.from_future("back")
    halves = environment.from_batch([5]).connect(back).flatmap(Halves)
    halves.fill_future(back)
    got: dict[str, list[Any]] = {"told": [], "joined": [], "halves": []}
    for name, stream in (("told", told), ("joined", joined)):
        stream.sink(got[name].append)
    got["halves"] = halves.collect()  # runs them all
    assert Counter(got["halves"]) == {1: 5, 2: 2, 3: 1}
    assert sorted(got["told"], key=str) == [("number", 1), ("number", 2), ("text", "1"), ("text", "2")]
    assert sorted(got["joined"]) == [(1, "1"), (2, "2")]


class Question(MapFunction):
    def process(self, number: int) -> dict[str, str]:
        return {"prompt": f"{number} plus {number}?"}


class PlaceInJob(MapFunction):
    def process(self, enqueued: Any) -> tuple[str, int, str]:
        return enqueued.job, enqueued.index, enqueued.record["prompt"]


class TakingJobs:
    def __init__(self) -> None:
        self.bodies: list[Any] = []

    def submit(self, kind: str, body: Any, *, idempotency_key: str | None = None) -> Any:
        self.bodies.append((kind, body, os.getpid()))
        return SimpleNamespace(id=f"job_{len(self.bodies)}")


def test_records_of_actors_are_handed_to_the_queue_by_the_program(ray_config: dict[str, Any]) -> None:
    jobs = TakingJobs()
    environment = RayEnvironment("jobs", {**ray_config, "jobs": jobs})
    enqueued = environment.from_batch([1, 2]).map(Question).enqueue("generate", model="m", within=None)
    assert enqueued.map(PlaceInJob).collect() == [("job_1", 0, "1 plus 1?"), ("job_1", 1, "2 plus 2?")]
    requests = [{"prompt": "1 plus 1?"}, {"prompt": "2 plus 2?"}]
    assert jobs.bodies == [("generate", {"model": "m", "requests": requests}, os.getpid())]


def test_two_environments_with_the_same_names_are_apart(ray_config: dict[str, Any], env: RayEnvironment) -> None:
    import ray

    with _with_kv(ray_config) as twin:
        twin.call_service["kv"].put("a", "twin")
        assert env.call_service["kv"].get("a") != "twin"
        with pytest.raises(NotFound):
            twin.call_service["store"]
        names = [one["namespace"] for one in ray.util.list_named_actors(all_namespaces=True)]
        assert len(set(names)) == 2
    wait_for(lambda: len({one["namespace"] for one in ray.util.list_named_actors(all_namespaces=True)}) == 1)
    assert ray.is_initialized()


def _with_kv(ray_config: dict[str, Any]) -> RayEnvironment:
    env = RayEnvironment("shelves", ray_config)
    env.register_service("kv", KVService)
    return env


def test_a_service_that_cannot_start_says_why(ray_config: dict[str, Any], env: RayEnvironment) -> None:
    environment = RayEnvironment("unready", ray_config)
    environment.register_service("unready", Unready)
    with pytest.raises(ServiceStartFailed, match="no such model") as failed:
        environment.start()
    assert isinstance(failed.value.__cause__, FileNotFoundError)
    environment = RayEnvironment("unplaced", {**ray_config, "ray": {**ray_config["ray"], "start_timeout": 0.5}})
    environment.register_service("far", Store, placement={"resources": {"moon": 1}})
    with pytest.raises(ServiceStartFailed, match="not placed within"):
        environment.start()
    environment = RayEnvironment("misplaced", ray_config)
    environment.register_service("far", Store, placement={"name": "mine"})
    with pytest.raises(ServiceStartFailed, match="cannot set 'name'"):
        environment.start()


def test_ray_without_a_token_is_refused(ray_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    env = RayEnvironment("open", ray_config)
    with pytest.raises(ConfigError, match="RAY_AUTH_MODE is 'disabled'"):
        env.start()
    with pytest.raises(InvalidRequest, match="has no 'adress'; did you mean 'address'"):
        RayEnvironment("wrong", {"ray": {"adress": "127.0.0.2:1"}})
    with pytest.raises(InvalidRequest, match="'host:port' of a head node"):
        RayEnvironment("wrong", {"ray": {"address": "ray://127.0.0.2:1"}})


def test_a_ray_of_our_own_listens_on_loopback_only(env: RayEnvironment) -> None:
    assert env.call_service["store"].options(timeout=60).pid() != os.getpid()
    addresses = [address for pid in family() for address in listening(pid)]
    assert len(addresses) >= 4  # its servers, a worker, this process
    assert {address[-8:] for address in addresses} == {"0100007F"}


def family() -> list[int]:
    """This process and those that descend from it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    pids = [os.getpid()]
    for pid in pids:
        pids += [child for child, parent in parents.items() if parent == pid]
    return pids


def listening(pid: int) -> list[str]:
    """The addresses that its sockets listen at, as the kernel writes them."""
    sockets = set()
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                sockets.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table]
    return [line[1].split(":")[0] for line in lines if line[3] == "0A" and line[9] in sockets]
