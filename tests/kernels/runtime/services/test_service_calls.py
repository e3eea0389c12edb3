"""Calls of services in one process: results, errors, deadlines, order, circles, full queues."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sage.errors import Conflict, DeadlineExceeded, InvalidRequest, NotFound, Unavailable
from sage.kernels.runtime.service.base_service_task import BaseServiceTask
from sage.kernels.runtime.services.calls import RemoteTraceback, current_call
from sage.kernels.runtime.services.local_host import LocalHost
from sage.kernels.runtime.services.registry import Services


class Store(BaseServiceTask):
    """Keeps things, and can be made to wait."""

    max_workers = 2

    def __init__(self) -> None:
        self.things: dict[str, Any] = {}
        self.open = threading.Event()
        self.inside = threading.Semaphore(0)
        self.results: list[Any] = []
        self.cancelled_methods: list[str] = []

    def put(self, key: str, value: Any) -> None:
        self.things[key] = value

    def get(self, key: str, default: Any = None) -> Any:
        return self.things.get(key, default)

    async def get_soon(self, key: str) -> Any:
        await asyncio.sleep(0)
        return self.things.get(key)

    def wait(self, value: Any = None) -> Any:
        self.inside.release()
        assert self.open.wait(20)
        self.results.append(value)
        return value

    async def sleep(self) -> None:
        self.inside.release()
        try:
            await asyncio.sleep(3600)
        finally:
            self.cancelled_methods.append("sleep")

    def _has_begun(self) -> bool:
        """Whether a further call of ``wait`` or ``sleep`` has begun."""
        return self.inside.acquire(timeout=0)

    def sleep_by(self, seconds: float, *, timeout: float) -> float:
        return seconds + timeout

    def fail(self, kind: type[BaseException], *words: str) -> None:
        raise kind(*words)

    def whether_abandoned(self) -> None:
        self.inside.release()
        call = current_call()
        assert call is not None
        assert self.open.wait(20)
        self.results.append(call.abandoned)

    def _private(self) -> None:
        raise AssertionError("private")


class Caller(BaseServiceTask):
    """Calls others."""

    def __init__(self, other: str = "store") -> None:
        self.other = other
        self.refused: list[BaseException] = []
        self.begun = threading.Event()

    def ask(self, *args: Any, method: str, timeout: float | None = None) -> Any:
        return self.call_service(self.other, *args, method=method, timeout=timeout)

    async def ask_soon(self, key: str) -> Any:
        return await self.call_service_async[self.other].get(key)

    def get(self, key: str) -> Any:
        return self.call_service[self.other].get(key)

    async def ask_blocking(self, key: str) -> Any:
        return self.call_service[self.other].get(key)

    def work_on(self, then: threading.Event) -> None:
        self.begun.set()
        assert then.wait(20)
        try:
            self.call_service["store"].put("late", 1)
        except BaseException as exc:
            self.refused.append(exc)
            raise


@pytest.fixture
def run() -> Iterator[Callable[..., Services]]:
    with ExitStack() as stack:

        def start(**descriptions: Any) -> Services:
            services = Services("test", LocalHost)
            for name, description in descriptions.items():
                kind, options = description if isinstance(description, tuple) else (description, {})
                services.register(name, kind, **options)
            services.start()
            stack.callback(services.stop, 5)
            return services

        yield start


def service_of(services: Services, name: str) -> Any:
    return services._hosts[name]._service  # type: ignore[attr-defined]


def expire_after_begin(call: Callable[[float], Any], has_begun: Callable[[], bool]) -> None:
    """Makes a call whose deadline passes while its method runs: with a longer time-out on a machine so slow that the
    deadline passes before the method begins."""
    seconds = 0.05
    while True:
        with pytest.raises(DeadlineExceeded):
            call(seconds)
        if has_begun():
            return
        assert seconds < 20
        seconds *= 2


def test_a_call_gives_the_result_of_its_method(run: Callable[..., Services]) -> None:
    services = run(store=Store)
    store = services.call["store"]
    value = {"a": object()}
    store.put("k", value)
    assert store.get("k") is value  # in one process objects go by reference
    assert store.get("absent", default=3, timeout=5) == 3
    assert services.call("store", "k", method="get", timeout=5) is value
    assert store.get_soon("k") is value
    assert store.get.map(["k", "absent"]) == [value, None]
    assert store.put.starmap([("a", 1), ("b", 2)], timeout=5) == [None, None]
    assert store.get_soon.map(["a", "b"]) == [1, 2]
    assert store.get.map([]) == []


def test_every_call_crosses_the_queue(run: Callable[..., Services]) -> None:
    class Where(BaseServiceTask):
        def thread(self) -> int:
            return threading.get_ident()

    assert run(where=Where).call["where"].thread() != threading.get_ident()


def test_a_methods_own_timeout_is_its_own(run: Callable[..., Services]) -> None:
    store = run(store=Store).call["store"]
    assert store.sleep_by(1, timeout=2) == 3
    assert store.options(timeout=30).sleep_by(1, timeout=2) == 3


def test_futures_can_be_waited_for_and_awaited(run: Callable[..., Services]) -> None:
    services = run(store=Store)
    future = services.call_async["store"].put("k", 1)
    assert future.result(timeout=5) is None
    assert future.done()

    async def ask() -> list[Any]:
        store = services.call_async["store"]
        return list(await asyncio.gather(store.get("k"), store.get_soon("k"), store.get.map(["k"])))

    assert asyncio.run(ask()) == [1, 1, [1]]


def test_callbacks_come_once_whenever_they_are_added(run: Callable[..., Services]) -> None:
    services = run(store=Store)
    store = service_of(services, "store")
    future = services.call_async["store"].wait(5)
    results: list[Any] = []
    future.add_done_callback(lambda call: results.append(call.result()))
    store.open.set()
    future.result(5)
    future.add_done_callback(lambda call: results.append(call.result()))
    assert results == [5, 5]


@pytest.mark.parametrize("kind", [ValueError, KeyError, NotFound, SystemExit, KeyboardInterrupt, StopIteration])
def test_an_error_arrives_as_its_type_with_the_remote_traceback(
    run: Callable[..., Services], kind: type[BaseException]
) -> None:
    services = run(store=Store)
    with pytest.raises(kind) as caught:
        services.call["store"].fail(kind, "what went wrong")
    assert caught.type is kind
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in fail" in str(caught.value.__cause__)
    assert services.call["store"].get("a") is None  # the worker goes on


def test_an_error_in_a_batch_ends_it(run: Callable[..., Services]) -> None:
    services = run(store=Store)
    with pytest.raises(ValueError, match="second"):
        services.call["store"].fail.starmap([(ValueError, "second"), (KeyError, "never")])


def test_an_unknown_service_or_method_says_what_there_is(run: Callable[..., Services]) -> None:
    services = run(store=Store)
    with pytest.raises(NotFound, match="'test' runs no service 'shelv'; it runs: store"):
        services.call["shelv"]
    with pytest.raises(NotFound, match=r"no public method 'take'; it has: .*get, get_soon"):
        services.call["store"].take()
    assert not hasattr(services.call["store"], "take")


@pytest.mark.parametrize("name", ["_private", "__init__", "setup", "cleanup", "things", "call_service", "health"])
def test_only_public_methods_can_be_called(run: Callable[..., Services], name: str) -> None:
    services = run(store=Store)
    with pytest.raises(AttributeError):
        services.call("store", method=name)


def test_three_calls_of_a_service_with_three_workers_run_at_once(run: Callable[..., Services]) -> None:
    services = run(store=(Store, {"max_workers": 3}))
    store = service_of(services, "store")
    futures = [services.call_async["store"].wait(number) for number in range(3)]
    assert all(store.inside.acquire(timeout=20) for _ in futures)  # all three are inside before one has ended
    store.open.set()
    assert [future.result(20) for future in futures] == [0, 1, 2]


def test_no_more_calls_run_at_once_than_there_are_workers(run: Callable[..., Services]) -> None:
    class Counting(BaseServiceTask):
        running = most = 0
        lock = threading.Lock()

        def count(self) -> None:
            with self.lock:
                Counting.running += 1
                Counting.most = max(self.most, self.running)
            time.sleep(0.005)
            with self.lock:
                Counting.running -= 1

        async def count_soon(self) -> None:
            Counting.running += 1
            Counting.most = max(self.most, self.running)
            await asyncio.sleep(0.005)
            Counting.running -= 1

    services = run(counting=(Counting, {"max_workers": 2}))
    for method in ("count", "count_soon"):
        futures = [services.call_async("counting", method=method) for _ in range(10)]
        for future in futures:
            future.result(20)
        assert Counting.most == 2


def test_calls_with_one_order_run_one_after_another(run: Callable[..., Services]) -> None:
    class Slow(BaseServiceTask):
        max_workers = 4

        def __init__(self) -> None:
            self.results: dict[str, list[int]] = {"a": [], "b": []}

        def note(self, key: str, number: int) -> None:
            time.sleep(0.0005 * (number % 3))
            self.results[key].append(number)

    services = run(slow=Slow)
    proxies = {key: services.call_async["slow"].options(order=key) for key in "ab"}
    futures = [proxies[key].note(key, number) for number in range(50) for key in "ab"]
    for future in futures:
        future.result(20)
    assert service_of(services, "slow").results == {"a": list(range(50)), "b": list(range(50))}


def test_a_full_queue_refuses_at_once(run: Callable[..., Services]) -> None:
    services = run(store=(Store, {"max_workers": 1, "queue_size": 2}))
    store = service_of(services, "store")
    running = services.call_async["store"].wait(0)
    assert store.inside.acquire(timeout=20)
    waiting = [services.call_async["store"].wait(number) for number in (1, 2)]
    with pytest.raises(Unavailable, match="2 calls wait for the service 'store'") as caught:
        services.call_async["store"].wait(3)
    assert (caught.value.code, caught.value.status) == ("queue_full", 503)
    store.open.set()
    assert [future.result(20) for future in (running, *waiting)] == [0, 1, 2]
    assert services.call["store"].wait(4) == 4


def test_a_call_that_times_out_while_it_waits_never_runs(run: Callable[..., Services]) -> None:
    services = run(store=(Store, {"max_workers": 1}))
    store = service_of(services, "store")
    running = services.call_async["store"].wait("first")
    assert store.inside.acquire(timeout=20)
    with pytest.raises(DeadlineExceeded, match=r"call of wait .* the service 'store' until its time-out"):
        services.call["store"].wait("late", timeout=0.05)
    store.open.set()
    running.result(20)
    assert services.call["store"].wait("third") == "third"
    assert store.results == ["first", "third"]


def test_a_deadline_cancels_an_async_method_and_refuses_further_calls_of_another(run: Callable[..., Services]) -> None:
    services = run(store=Store, caller=Caller)
    store, caller = service_of(services, "store"), service_of(services, "caller")
    expire_after_begin(lambda seconds: services.call["store"].sleep(timeout=seconds), store._has_begun)
    services.call["store"].get_soon("a")  # by now the event loop has cancelled it
    assert store.cancelled_methods == ["sleep"]
    go = threading.Event()
    expire_after_begin(lambda seconds: services.call["caller"].work_on(go, timeout=seconds), caller.begun.is_set)
    go.set()
    services.call["caller"].ask("a", method="get")  # it is the one worker's next
    assert len(caller.refused) == 1
    assert store.things == {}


def test_a_nested_call_has_no_more_time_than_the_outer(run: Callable[..., Services]) -> None:
    services = run(store=Store, caller=Caller)
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        services.call["caller"].options(timeout=0.1).ask("x", method="wait", timeout=60)
    service_of(services, "store").open.set()
    assert time.monotonic() - begun < 10


def test_cancelling_keeps_a_waiting_call_from_running_and_ends_an_async_one(run: Callable[..., Services]) -> None:
    services = run(store=(Store, {"max_workers": 1}))
    store = service_of(services, "store")
    first, second = (services.call_async["store"].wait(number) for number in (1, 2))
    assert store.inside.acquire(timeout=20)
    assert second.cancel()
    assert second.cancelled()
    with pytest.raises(CancelledError):
        second.result()
    store.open.set()
    assert first.result(20) == 1
    assert not first.cancel()
    sleeping = services.call_async["store"].sleep()
    assert store.inside.acquire(timeout=20)
    assert sleeping.cancel()
    assert services.call["store"].get_soon("a") is None
    assert (store.results, store.cancelled_methods) == ([1], ["sleep"])


def test_a_method_can_see_whether_its_call_was_abandoned(run: Callable[..., Services]) -> None:
    services = run(store=(Store, {"max_workers": 1}))
    store = service_of(services, "store")
    for wanted in (True, False):
        future = services.call_async["store"].whether_abandoned()
        assert store.inside.acquire(timeout=20)
        if not wanted:
            future.cancel()
        store.open.set()
        services.call["store"].get("a")  # after it: there is one worker
        store.open.clear()
    assert store.results == [False, True]


def test_awaiting_can_be_cancelled_and_ends_the_call(run: Callable[..., Services]) -> None:
    services = run(store=Store)
    store = service_of(services, "store")

    async def leave() -> None:
        call = services.call_async["store"].sleep()
        assert await asyncio.to_thread(store.inside.acquire, timeout=20)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 0.05)

    async def sleep_until_deadline(seconds: float) -> None:
        await services.call_async["store"].sleep(timeout=seconds)

    asyncio.run(leave())
    expire_after_begin(lambda seconds: asyncio.run(sleep_until_deadline(seconds)), store._has_begun)
    assert services.call["store"].get_soon("a") is None
    assert store.cancelled_methods == ["sleep", "sleep"]


def test_a_blocking_call_works_on_an_event_loop_of_the_program(run: Callable[..., Services]) -> None:
    """As in a cell of a notebook."""
    services = run(store=Store)

    async def cell() -> None:
        services.call["store"].put("a", 1)
        assert services.call["store"].get("a") == 1
        assert services.call["store"].options(retries=1).get("a") == 1
        assert services.call_async["store"].get("a").result() == 1

    asyncio.run(cell())


def test_a_blocking_call_in_an_async_method_of_a_service_is_refused(run: Callable[..., Services]) -> None:
    services = run(store=Store, caller=Caller)
    with pytest.raises(InvalidRequest, match=r"use 'await call_service_async\[\"store\"\]"):
        services.call["caller"].ask_blocking("a")
    services.call["store"].put("a", 1)
    assert services.call["caller"].ask_soon("a") == 1


def test_services_call_services_but_never_in_a_circle(run: Callable[..., Services]) -> None:
    services = run(
        store=Store, a=(Caller, {"other": "b"}), b=(Caller, {"other": "a"}), self=(Caller, {"other": "self"})
    )
    services.call["store"].put("k", 7)
    with pytest.raises(Conflict, match="in a circle: a → b → a") as caught:
        services.call["a"].get("k")
    assert caught.value.code == "call_cycle"
    with pytest.raises(Conflict, match="self → self"):
        services.call["self"].ask_soon("k")


@pytest.mark.slow
def test_a_call_is_made_again_only_with_retries(run: Callable[..., Services]) -> None:
    class Weak(BaseServiceTask):
        def __init__(self) -> None:
            self.calls = 0

        def work(self, fails: int) -> int:
            self.calls += 1
            if self.calls <= fails:
                raise Unavailable("not yet")
            return self.calls

        def calls_made(self) -> int:
            return self.calls

    services = run(weak=Weak)
    with pytest.raises(Unavailable, match="not yet"):
        services.call["weak"].work(1)
    assert services.call["weak"].calls_made() == 1
    assert services.call["weak"].options(retries=2).work(3) == 4
    with pytest.raises(Unavailable):
        services.call["weak"].options(retries=1).work(9)
    assert services.call["weak"].calls_made() == 6
    assert services.call_async["weak"].options(retries=9, timeout=20).work(8).result() == 9


def test_queued_calls_are_done_at_a_stop_and_blocked_ones_are_failed(run: Callable[..., Services]) -> None:
    services = run(store=(Store, {"max_workers": 1}))
    store = service_of(services, "store")
    calls = [services.call_async["store"].wait(number) for number in range(3)]
    assert store.inside.acquire(timeout=20)
    stopping = threading.Thread(target=services.stop, args=(20,))
    stopping.start()
    while True:
        try:
            services._hosts["store"].submit(calls[0])  # one that has begun: nothing more happens to it
        except Unavailable:
            break
    store.open.set()
    stopping.join(20)
    assert [call.result(1) for call in calls] == [0, 1, 2]


def test_a_stop_waits_no_longer_than_its_grace(run: Callable[..., Services]) -> None:
    services = run(store=(Store, {"max_workers": 1}))
    store = service_of(services, "store")
    calls = [services.call_async["store"].wait(number) for number in range(2)]
    calls.append(services.call_async["store"].sleep())
    assert store.inside.acquire(timeout=20)
    services.stop(0.05)
    for call in calls:
        with pytest.raises(Unavailable, match="'store' is stopping"):
            call.result(5)
    store.open.set()


def test_statistics_count_calls_errors_and_what_waits(run: Callable[..., Services]) -> None:
    services = run(store=(Store, {"max_workers": 1, "queue_size": 5}))
    store = service_of(services, "store")
    services.call["store"].put("a", 1)
    services.call["store"].get.map(["a"] * 10)
    with pytest.raises(ValueError, match="x"):
        services.call["store"].fail(ValueError, "x")
    calls = [services.call_async["store"].wait(number) for number in range(3)]
    assert store.inside.acquire(timeout=20)
    (described,) = services.describe()
    statistics = described["statistics"]
    assert (described["name"], described["class"], described["state"]) == ("store", "Store", "running")
    assert described["methods"] == sorted(described["methods"])
    assert "put" in described["methods"]
    assert (statistics["calls"], statistics["errors"], statistics["queue_depth"]) == (12, 1, 2)
    assert (statistics["running"], statistics["workers"], statistics["queue_size"]) == (1, 1, 5)
    assert 0 < statistics["latency_ms"]["p50"] <= statistics["latency_ms"]["p99"]
    assert described["health"] == {"healthy": True}
    store.open.set()
    for call in calls:
        call.result(20)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is meant to die
def test_a_worker_that_dies_is_replaced(run: Callable[..., Services]) -> None:
    import ctypes

    services = run(store=(Store, {"max_workers": 1}))
    (worker,) = _workers_after_a_call(services)
    killed = ctypes.c_ulong(worker.ident or 0)
    while worker.is_alive():  # an asynchronous exception strikes when the thread next runs Python
        ctypes.pythonapi.PyThreadState_SetAsyncExc(killed, ctypes.py_object(SystemExit))
        try:
            services.call["store"].get("a", timeout=5)
        except SystemExit:
            continue  # it struck in the call, which then failed with it
        worker.join(1)  # struck again while it dies, it would die in the hook of the tests
    assert services.call["store"].get("a", timeout=20) is None
    assert worker not in services._hosts["store"]._threads  # type: ignore[attr-defined]


def _workers_after_a_call(services: Services) -> set[threading.Thread]:
    services.call["store"].get("a")
    return set(services._hosts["store"]._threads)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_memory_stays_flat_over_many_calls(run: Callable[..., Services]) -> None:
    """Ten million under SAGE_TEST_FULL."""
    services = run(store=Store)
    store, soon = services.call["store"], services.call_async["store"]

    def some(count: int) -> None:
        for number in range(count // 100):
            store.get("a", timeout=60)
            for future in [soon.get(str(number)) for _ in range(48)]:
                assert future.result(60) is None
            assert store.get.map(["a"] * 50) == [None] * 50
            with pytest.raises(ValueError, match="x"):
                store.fail(ValueError, "x")

    some(100_000)
    before = resident()
    some(10_000_000 if os.environ.get("SAGE_TEST_FULL") else 300_000)
    assert resident() - before < 8 * 2**20


def resident() -> int:
    """Bytes of memory that this process holds."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
