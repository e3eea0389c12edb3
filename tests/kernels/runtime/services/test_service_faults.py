"""What can go wrong around calls: unusual errors, callbacks, keys, time-outs, workers and loops that die, stops."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from sage.errors import Conflict, DeadlineExceeded, InvalidRequest, Unavailable
from sage.kernels.runtime.service.base_service_task import BaseServiceTask
from sage.kernels.runtime.services.calls import ServiceCall
from sage.kernels.runtime.services.event_loop import in_time
from sage.kernels.runtime.services.local_host import LocalHost
from sage.kernels.runtime.services.mailbox import Mailbox
from sage.kernels.runtime.services.registry import Services, ServiceStartFailed


@dataclass(frozen=True)
class FrozenError(Exception):
    """Lets nobody set its attributes."""

    word: str


class UnusualError(Exception):
    """Has no arguments, and no text."""

    __slots__ = ("only",)

    def __init__(self, *, only: int) -> None:
        self.only = only

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


ONCE = ValueError("one object")


class Desk(BaseServiceTask):
    """Waits at a gate, and fails in all ways."""

    max_workers = 2

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.inside = threading.Semaphore(0)
        self.results: list[Any] = []

    def echo(self, value: Any = None) -> Any:
        self.results.append(value)
        return value

    def wait(self, value: Any = None) -> Any:
        self.inside.release()
        assert self.gate.wait(20)
        self.results.append(value)
        return value

    def fail(self, error: BaseException) -> None:
        raise error

    async def fail_soon(self, error: BaseException) -> None:
        await asyncio.sleep(0)
        raise error

    async def stay(self) -> None:
        """Takes a while to end when it is cancelled."""
        self.inside.release()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(0.02)
            self.results.append("stayed")
            raise

    async def never_leave(self) -> None:
        self.inside.release()
        while not self.gate.is_set():
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue

    async def block_the_loop(self) -> None:
        self.inside.release()
        self.gate.wait(20)

    async def echo_soon(self, value: Any) -> Any:
        await asyncio.sleep(0)
        self.results.append(value)
        return value

    def run_a_loop(self, value: Any) -> Any:
        return asyncio.run(self.echo_soon(value))

    def count(self, most: int) -> Iterator[int]:
        yield from range(most)

    def recur(self) -> Any:
        return self.recur()


@pytest.fixture
def run() -> Iterator[Callable[..., Services]]:
    with ExitStack() as stack:

        def start(**options: Any) -> Services:
            services = Services("test", LocalHost)
            services.register("desk", Desk, **options)
            services.start()
            stack.callback(services.stop, 0.2)
            stack.callback(lambda: desk_of(services).gate.set() if services._hosts else None)
            return services

        yield start


def desk_of(services: Services) -> Any:
    return services._hosts["desk"]._service  # type: ignore[attr-defined]


# Errors


@pytest.mark.parametrize("error", [FrozenError("w"), UnusualError(only=1), ExceptionGroup("g", [ValueError("x")])])
@pytest.mark.parametrize("method", ["fail", "fail_soon"])
def test_unusual_errors_arrive_too(run: Callable[..., Services], error: Exception, method: str) -> None:
    services = run(max_workers=1)
    with pytest.raises(type(error)) as caught:
        services.call("desk", error, method=method, timeout=20)
    assert caught.value is error
    assert f"in {method}" in str(caught.value.__cause__)
    assert services.call["desk"].echo(1, timeout=20) == 1


def test_one_error_raised_again_and_again_does_not_grow(run: Callable[..., Services]) -> None:
    desk = run().call["desk"]
    for _ in range(50):
        with pytest.raises(ValueError, match="one object"):
            desk.fail(ONCE)
    assert len(str(ONCE.__cause__)) < 30_000


class Payload:
    """An object whose end can be observed."""


def test_an_error_that_is_kept_holds_nothing_of_its_method(run: Callable[..., Services]) -> None:
    services = run()
    references: list[weakref.ref[Payload]] = []

    def fail() -> None:
        payload = Payload()
        references.append(weakref.ref(payload))
        try:
            raise KeyError("inner", id(payload))
        except KeyError as exc:
            raise ValueError("outer") from exc

    services._hosts["desk"]._bound["echo"] = (fail, False)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="outer") as caught:
        services.call["desk"].echo()
    assert isinstance(caught.value.__context__, KeyError)
    assert "KeyError: ('inner'" in str(caught.value.__cause__)
    services.call["desk"].run_a_loop(1)  # the worker has let go of it
    gc.collect()
    assert references[0]() is None


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_would_end_a_loop_ends_the_call_only(run: Callable[..., Services], kind: type[BaseException]) -> None:
    services = run()
    for _ in range(2):
        with pytest.raises(kind):
            services.call["desk"].fail_soon(kind("x"), timeout=20)
    assert services.call["desk"].echo_soon(1, timeout=20) == 1


def test_a_method_may_run_a_loop_give_a_generator_or_recur_for_ever(run: Callable[..., Services]) -> None:
    desk = run().call["desk"]
    assert desk.run_a_loop(3) == 3
    assert list(desk.count(3)) == [0, 1, 2]
    with pytest.raises(RecursionError):
        desk.recur(timeout=20)


# Callbacks


def test_a_callback_that_fails_harms_nothing(run: Callable[..., Services], caplog: pytest.LogCaptureFixture) -> None:
    services = run(max_workers=1)
    later = services.call_async["desk"].options(order="key")
    desk, results = desk_of(services), []
    first = later.wait(1)
    assert desk.inside.acquire(timeout=20)
    with caplog.at_level(logging.ERROR):
        first.add_done_callback(lambda _: 1 / 0)
        first.add_done_callback(lambda call: results.append(call.result()))
        second = later.echo(2)
        desk.gate.set()
        assert (first.result(20), second.result(20)) == (1, 2)
    assert "a callback of the call of 'desk'.wait failed" in caplog.text
    assert results == [1]


def test_a_callback_may_call_the_same_service_but_not_wait_for_it(run: Callable[..., Services]) -> None:
    services = run(max_workers=1)
    desk = desk_of(services)
    outcomes: list[Any] = []
    done = threading.Event()

    def go_on(_: ServiceCall) -> None:
        try:
            services.call["desk"].echo("blocking", timeout=20)
        except Conflict as exc:
            outcomes.append(exc.code)
        services.call_async["desk"].echo("next").add_done_callback(note)

    def note(call: ServiceCall) -> None:
        outcomes.append(call.result())
        done.set()

    call = services.call_async["desk"].wait()
    assert desk.inside.acquire(timeout=20)
    call.add_done_callback(go_on)
    desk.gate.set()
    assert done.wait(20)
    assert outcomes == ["call_cycle", "next"]


def test_asking_again_and_again_for_a_result_keeps_nothing(run: Callable[..., Services]) -> None:
    services = run()
    desk = desk_of(services)
    call = services.call_async["desk"].wait(1)
    assert desk.inside.acquire(timeout=20)
    for _ in range(20):
        with pytest.raises(TimeoutError, match="gave no result in 0 s"):
            call.result(timeout=0)
    assert len(call._callbacks) == 1
    desk.gate.set()
    assert call.result(timeout=math.inf) == 1


# Time


def test_a_call_ends_once_whichever_end_is_first() -> None:
    """Result, cancellation and deadline at one time."""
    for turn in range(2000 if os.environ.get("SAGE_TEST_FULL") else 200):
        call = ServiceCall("work", (), {}, ("desk",), time.monotonic() + 0.0002 if turn % 2 else None, waits=True)
        results: list[ServiceCall] = []
        call.add_done_callback(results.append)
        if not call.begin():  # a slow machine: its time was over before
            assert call.settled
            continue
        ends: list[Callable[[], object]] = [partial(call.succeed, 5), call.cancel, partial(call.exception, 20)]
        threads = [threading.Thread(target=end) for end in ends[turn % 3 :] + ends[: turn % 3]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert results == [call]
        error = call.exception()
        assert isinstance(error, CancelledError | DeadlineExceeded) if error else call.result() == 5


def test_a_waiting_thread_waits_for_another_that_is_just_ending_the_call() -> None:
    call = ServiceCall("work", (), {}, ("desk",), time.monotonic(), waits=True)
    call._rights.clear()  # another thread has taken the right to end it, and has not settled it yet
    waiter = threading.Thread(target=lambda: results.append(call.result()))
    results: list[Any] = []
    waiter.start()
    call._result = 7
    call._settle()
    waiter.join(20)
    assert results == [7]


def test_an_async_method_does_not_begin_after_its_deadline() -> None:
    """The event loop was busy until then, and the worker that cancels it has not woken yet."""
    desk = Desk()
    call = ServiceCall("echo_soon", (1,), {}, ("desk",), time.monotonic())
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(in_time(call, desk.echo_soon(1)))
    assert desk.results == []
    assert isinstance(call.exception(), DeadlineExceeded)


@pytest.mark.parametrize("timeout", [math.inf, 1e12, 10**400])
def test_an_endless_time_out_counts_as_none(run: Callable[..., Services], timeout: float) -> None:
    services = run()
    assert services.call["desk"].echo(1, timeout=timeout) == 1
    assert services.call_async["desk"].options(timeout=timeout).echo_soon(1).result(20) == 1


@pytest.mark.parametrize("timeout", ["5", math.nan, True, [1]])
def test_a_time_out_that_is_no_number_is_refused(run: Callable[..., Services], timeout: Any) -> None:
    desk = run().call["desk"]
    with pytest.raises(InvalidRequest, match="time-out must be a number of seconds"):
        desk.echo(1, timeout=timeout)


# Order


def test_a_key_that_cannot_be_hashed_is_refused(run: Callable[..., Services]) -> None:
    with pytest.raises(InvalidRequest, match="'order' must be a key that can be hashed"):
        run().call["desk"].options(order=["a"])


def test_calls_of_an_ordered_key_keep_the_order_in_which_they_came() -> None:
    """Two workers take them out in turns, whichever goes on first."""
    mailbox: Mailbox[int] = Mailbox(10)
    wakeup = threading.Lock()
    for number in range(3):
        mailbox.put(number, "key")
    mailbox.put(9)
    assert [mailbox.take(wakeup), mailbox.take(wakeup), len(mailbox)] == [0, 9, 2]
    assert [mailbox.take_next_of("key") for _ in range(3)] == [1, 2, None]
    mailbox.put(4, "key")
    assert mailbox.take(wakeup) == 4


def test_calls_behind_their_key_count_as_waiting(run: Callable[..., Services]) -> None:
    services = run(queue_size=3)
    desk, keyed = desk_of(services), services.call_async["desk"].options(order="key")
    first = keyed.wait(0)
    assert desk.inside.acquire(timeout=20)
    waiting = [keyed.echo(number) for number in range(3)]
    with pytest.raises(Unavailable, match="3 calls wait"):
        keyed.echo(3)
    assert services.describe()[0]["statistics"]["queue_depth"] == 3
    waiting[1].cancel()
    desk.gate.set()
    assert [call.result(20) for call in (first, waiting[0], waiting[2])] == [0, 0, 2]
    assert desk.results == [0, 0, 2]


def test_a_stop_fails_what_waits_behind_a_key(run: Callable[..., Services]) -> None:
    services = run()
    desk, keyed = desk_of(services), services.call_async["desk"].options(order="key")
    calls = [keyed.wait(number) for number in range(3)]
    assert desk.inside.acquire(timeout=20)
    services.stop(0.05)
    for call in calls:
        with pytest.raises(Unavailable, match="is stopping"):
            call.result(20)
    desk.gate.set()


def test_the_next_call_of_a_key_never_runs_beside_a_cancelled_one(run: Callable[..., Services]) -> None:
    services = run()
    desk, keyed = desk_of(services), services.call_async["desk"].options(order="key")
    first, second = keyed.stay(), keyed.echo("next")
    assert desk.inside.acquire(timeout=20)
    first.cancel()
    assert second.result(20) == "next"
    assert desk.results == ["stayed", "next"]


def test_a_worker_that_dies_leaves_its_ordered_key_to_another() -> None:
    mailbox: Mailbox[int] = Mailbox(10)
    wakeup = threading.Lock()
    for number in range(2):
        mailbox.put(number, "key")
    assert mailbox.take(wakeup) == 0
    assert not mailbox.has_next
    mailbox.remove_worker(wakeup, "key")
    assert mailbox.has_next
    assert mailbox.take(wakeup) == 1
    mailbox.remove_worker(wakeup, "key")
    assert (mailbox.has_next, len(mailbox)) == (False, 0)
    mailbox.put(2, "key")
    assert mailbox.take(wakeup) == 2


# Retries


def test_a_call_cancelled_between_two_attempts_is_not_made_again(run: Callable[..., Services]) -> None:
    services = run()
    desk = desk_of(services)
    failed = threading.Event()

    def fail_once(_: Any = None) -> None:
        desk.results.append("tried")
        failed.set()
        raise Unavailable("not now")

    services._hosts["desk"]._bound["echo"] = (fail_once, False)  # type: ignore[attr-defined]
    call = services.call_async["desk"].options(retries=5).echo()
    assert failed.wait(20)
    call.cancel()
    before = set(threading.enumerate())
    for thread in before:
        if isinstance(thread, threading.Timer):
            thread.join(20)  # the next attempt would be made by it
    services.call["desk"].run_a_loop(1)
    services.call["desk"].run_a_loop(1)
    assert desk.results == ["tried", 1, 1]


class Impatient(BaseServiceTask):
    """Blocks its own event loop."""

    async def ask(self) -> None:
        self.call_service["desk"].options(retries=2).echo("never")


def test_retries_are_refused_on_a_loop_of_services_before_anything_runs() -> None:
    services = Services("test", LocalHost)
    services.register("desk", Desk)
    services.register("impatient", Impatient)
    services.start()
    with pytest.raises(InvalidRequest, match="would stop the event loop"):
        services.call["impatient"].ask()
    services.call["desk"].echo("after")
    assert desk_of(services).results == ["after"]
    services.stop(0.2)


class Clerk(BaseServiceTask):
    """Waits for the desk."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    def ask(self) -> None:
        try:
            self.call_service["desk"].wait()
        except BaseException as exc:
            self.errors.append(exc)
            raise

    def errors_so_far(self) -> list[BaseException]:
        return self.errors


def test_a_cancelled_call_ends_what_it_waits_for() -> None:
    services = Services("test", LocalHost)
    services.register("desk", Desk, max_workers=1)
    services.register("clerk", Clerk)
    services.start()
    desk = desk_of(services)
    try:
        blocking = services.call_async["desk"].wait("first")
        assert desk.inside.acquire(timeout=20)
        call = services.call_async["clerk"].ask()
        while not len(services._hosts["desk"]._mailbox):  # type: ignore[attr-defined]
            time.sleep(0)
        assert call.cancel()
        (error,) = services.call["clerk"].errors_so_far(timeout=20)  # its one worker is free again
        assert isinstance(error, CancelledError)
        desk.gate.set()
        blocking.result(20)
        services.call["desk"].echo("last")
        assert desk.results == ["first", "last"]
    finally:
        desk.gate.set()
        services.stop()


# Stops, starts, workers


@pytest.mark.slow
@pytest.mark.parametrize("method", ["never_leave", "block_the_loop"])
def test_a_stop_leaves_behind_what_cannot_be_cancelled(
    run: Callable[..., Services], method: str, caplog: pytest.LogCaptureFixture
) -> None:
    services = run()
    desk = desk_of(services)
    call = services.call_async("desk", method=method)
    assert desk.inside.acquire(timeout=20)
    stopping = threading.Thread(target=services.stop, args=(0.05,))
    stopping.start()
    stopping.join(15)
    assert not stopping.is_alive()
    with pytest.raises(Unavailable, match="is stopping"):
        call.result(1)
    desk.gate.set()
    assert "do not end; they are left behind" in caplog.text


class FailsToCleanUp(BaseServiceTask):
    """Fails to clean up."""

    def __init__(self, log: list[str], name: str, setup: str = "", needs: tuple[str, ...] = ()) -> None:
        self.log = log
        self.name = name
        self.fails = setup

    def setup(self) -> None:
        if self.fails:
            raise OSError(self.fails)

    def cleanup(self) -> None:
        self.log.append(self.name)
        raise RuntimeError(f"no cleanup of {self.name}")


def test_a_cleanup_that_fails_keeps_no_other_from_being_stopped() -> None:
    log: list[str] = []
    services = Services("test", LocalHost)
    for name in "abc":
        services.register(name, FailsToCleanUp, log, name)
    services.start()
    hosts = list(services._hosts.values())
    with pytest.raises(RuntimeError, match="no cleanup of c"):
        services.stop()
    assert log == ["c", "b", "a"]
    assert [host.describe()["state"] for host in hosts] == ["stopped"] * 3
    services.start()  # all anew
    assert len(services.describe()) == 3
    with pytest.raises(RuntimeError, match="no cleanup of c"):
        services.stop()


def test_a_start_that_fails_says_why_also_when_the_cleanup_fails() -> None:
    log: list[str] = []
    services = Services("test", LocalHost)
    services.register("a", FailsToCleanUp, log, "a")
    services.register("b", FailsToCleanUp, log, "b", setup="no disk")
    with pytest.raises(ServiceStartFailed, match="'b' of the environment 'test' cannot start: no disk"):
        services.start()
    assert log == ["b", "a"]
    with pytest.raises(OSError, match="no disk") as caught, FailsToCleanUp(log, "alone", setup="no disk"):
        pass
    assert "no cleanup of alone" in caught.value.__notes__[0]


def test_proxies_that_were_kept_over_a_restart_work_again(run: Callable[..., Services]) -> None:
    services = run()
    proxy, keyed = services.call["desk"], services.call["desk"].options(order=1)
    echo, later = proxy.echo, services.call_async["desk"].options(retries=1)
    assert (echo(1), keyed.echo(1)) == (1, 1)
    services.stop()
    with pytest.raises(Unavailable, match="is stopped"):
        proxy.echo(2)
    services.start()
    assert [echo(3), proxy.echo(3), keyed.echo(3), later.echo(3).result(20)] == [3] * 4
    assert desk_of(services).results == [3] * 4


def test_a_built_in_class_can_be_a_service() -> None:
    services = Services("test", LocalHost)
    services.register("words", dict, {"a": 1}, max_workers=1)
    services.start()
    try:
        assert services.call["words"].get("a") == 1
    finally:
        services.stop()


def test_a_call_in_a_forked_process_is_refused_instead_of_hanging(run: Callable[..., Services]) -> None:
    services = run()
    services.call["desk"].echo(1)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()

    def ask() -> None:
        try:
            services.call["desk"].echo(2)
        except Unavailable as exc:
            answers.put(str(exc))
        services.stop(0.1)

    child = context.Process(target=ask)
    child.start()
    assert "runs in the process from which this one was forked" in answers.get(timeout=20)
    child.join(20)
    assert child.exitcode == 0
    assert services.call["desk"].echo(3) == 3


def test_without_threads_a_call_fails(run: Callable[..., Services], monkeypatch: pytest.MonkeyPatch) -> None:
    services = run()

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(Unavailable, match="no worker can be made for the service 'desk': can't start new thread"):
            services.call["desk"].echo(1, timeout=20)
    assert services.call["desk"].echo(2, timeout=20) == 2
    assert desk_of(services).results == [2]


@pytest.mark.slow
def test_the_process_ends_without_waiting_for_calls() -> None:
    program = """
import atexit, os
from sage.kernels.runtime.services.local_host import LocalHost
from sage.kernels.runtime.services.registry import Services

class Store:
    def get(self, key): return key

services = Services("test", LocalHost)
services.register("store", Store)
services.start()

class Last:
    def __init__(self):
        self.get, self.write = services.call["store"].get, os.write

    def __del__(self):
        try:
            self.get(3)
        except BaseException as exc:
            self.write(1, str(exc).encode())

last = Last()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout) == (0, "the service 'store' ended with the interpreter")
    early = "import atexit" + program.split("import atexit, os")[1].split("class Last")[0]
    early += "atexit.register(lambda: print(services.call['store'].get(2, timeout=10)))"
    ended = subprocess.run([sys.executable, "-c", early], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout) == (0, "2\n")


def test_many_environments_leave_no_threads() -> None:
    before = threading.active_count()
    for number in range(1000 if os.environ.get("SAGE_TEST_FULL") else 60):
        services = Services(str(number), LocalHost)
        services.register("desk", Desk)
        services.start()
        assert services.call["desk"].echo(1) == 1
        assert services.call["desk"].echo_soon(2) == 2
        services.stop()
    assert threading.active_count() == before


@pytest.mark.parametrize("grace", [0.0, 5.0])
def test_a_stop_under_load_settles_every_call(run: Callable[..., Services], grace: float) -> None:
    services = run(max_workers=3, queue_size=100)
    calls: list[list[ServiceCall]] = [[] for _ in range(4)]
    full = threading.Barrier(5)

    def load(own_calls: list[ServiceCall], number: int) -> None:
        proxies = [services.call_async["desk"].options(order=key) for key in (None, number, "all")]
        for turn in range(10**6):
            if turn == 100:
                full.wait(20)
            try:
                own_calls.append(
                    proxies[turn % 3].options(timeout=20).echo_soon(turn) if turn % 5 else proxies[turn % 3].echo(turn)
                )
            except Unavailable as exc:
                if exc.code == "service_stopped":
                    return
            if turn % 7 == 0 and own_calls:
                own_calls[-1].cancel()

    threads = [threading.Thread(target=load, args=(own_calls, number)) for number, own_calls in enumerate(calls)]
    for thread in threads:
        thread.start()
    full.wait(20)
    services.stop(grace)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    for call in [call for own_calls in calls for call in own_calls]:
        error = call.exception(timeout=10)
        assert error is None or isinstance(error, CancelledError | Unavailable)
        if grace and error is not None:
            assert isinstance(error, CancelledError)
