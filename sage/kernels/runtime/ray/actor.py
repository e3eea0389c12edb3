"""What runs in a service's actor: the host of this process, and the calls that come to it as messages of Ray."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from sage.errors import Unavailable
from sage.kernels.runtime.ray.caller_runs_host import CallerRunsHost
from sage.kernels.runtime.ray.deadlines import CLOCK
from sage.kernels.runtime.ray.directory import callers_of
from sage.kernels.runtime.ray.errors import packed
from sage.kernels.runtime.ray.messages import Message, Reply, call_of, reply_of
from sage.kernels.runtime.services.calls import ServiceCall
from sage.kernels.runtime.services.spec import ServiceSpec

EXCHANGES = 8
"""Threads that take messages."""
COLLECTS = 32
"""Threads on which callers wait for what takes longer."""
CONTROLS = 2
GROUPS = {"collect": COLLECTS, "control": CONTROLS, "clock": 1}
"""The clock has a thread of its own: calls wait for it, also while the service's ``health`` keeps the others busy."""

_WINDOW = 0.02
"""Seconds that a message stays for the results of its calls; later ones are collected."""
_COLLECT = 10.0
"""Seconds that a request to collect results waits for some."""
_SHORT_COLLECT = 0.1
_REVIVAL = 1.0
"""Seconds between two attempts to start a service again whose setup fails."""
_CALLERS_KEPT = 10_000
_ABANDONED_KEPT = 10_000


class _Outbox:
    """The calls of one caller that run, and those that are settled and have not been replied to yet."""

    def __init__(self) -> None:
        self.running: dict[int, ServiceCall] = {}
        self._settled: list[tuple[int, ServiceCall]] = []
        self._changed = threading.Condition()

    def settle(self, number: int, call: ServiceCall) -> None:
        with self._changed:
            self.running.pop(number, None)
            self._settled.append((number, call))
            self._changed.notify_all()

    def take(self, seconds: float, numbers: list[int]) -> list[tuple[int, ServiceCall]]:
        """The settled calls, once all of ``numbers`` are settled or the time is over; without numbers, once any is."""
        running = self.running
        with self._changed:
            if numbers:
                self._changed.wait_for(lambda: not any(number in running for number in numbers), seconds)
            else:
                self._changed.wait_for(lambda: self._settled, seconds)
            settled, self._settled = self._settled, []
        return settled


class ServiceActor:
    """One replica of a service. Its life begins with the actor's, and again when Ray starts that again."""

    def __init__(self, spec: ServiceSpec, namespace: str, environment: str, replicas: int) -> None:
        self._spec = spec
        self._call_chain = (spec.name,)
        self._replicas = replicas
        self._life = time.time_ns()  # that of a later life is greater
        self._callers = callers_of(namespace, environment)
        self._lock = threading.Lock()
        self._outboxes: dict[str, _Outbox] = {}
        self._abandoned: dict[tuple[str, int], bool] = {}
        self._exchanges = threading.Semaphore(EXCHANGES - 2)  # the others are always free to take a message
        self._collects = threading.Semaphore(COLLECTS - 1)
        self._tried_at = 0.0
        self._error: BaseException | None = None
        self._begin()

    def _begin(self) -> None:
        self._tried_at = time.monotonic()
        self._host = CallerRunsHost(self._spec)
        try:
            self._host.start(self._callers)
            self._error = None
        except BaseException as exc:
            self._error = exc

    def about(self) -> dict[str, Any]:
        """What a caller must know; ``error`` is why it cannot start, packed, or ``None``."""
        return {
            "clock": self.clock(),
            "life": self._life,
            "pid": os.getpid(),
            "methods": dict(self._host.methods()),
            "queue_size": self._host.queue_size,
            "replicas": self._replicas,
            "error": packed(self._error) if self._error is not None else None,
        }

    def clock(self) -> tuple[str, float]:
        """The id of the clock that deadlines are compared with here, and its present moment."""
        return CLOCK, time.monotonic()

    # Calls

    def one(self, message: list[Any]) -> list[Any] | int:
        """Takes one call, ``[caller, *message]``. Returns ``[result]`` or ``[False, packed error]``; or a number when
        the call takes longer: its result is to be collected, from the life of this actor that has this number."""
        caller, number, *_ = message
        call = call_of(message[1:], self._call_chain, waits=True)
        running = self._outbox(caller).running
        running[number] = call
        self._cancel_if_abandoned(caller, number, call)
        if not call.settled and not self._run_here(call) and self._submit(call):
            with _FreeThread(self._exchanges) as may_wait:
                is_settled = call._ready.acquire(timeout=_WINDOW if may_wait else 0.0)  # type: ignore[union-attr]
            if not is_settled:
                self._keep(caller, number, call)
                return self._life
        running.pop(number, None)
        return _lone_reply(call)

    def _run_here(self, call: ServiceCall) -> bool:
        """Runs the call on this thread if that is possible; returns whether it did."""
        if self._error is not None:
            return False
        with _FreeThread(self._exchanges) as is_free:
            return is_free and self._host.run_here(call)

    def exchange(self, caller: str, messages: list[Message]) -> tuple[int, list[Reply]]:
        """Takes many calls in their order. Returns the life of this actor, and the replies to those of this caller's
        calls that are settled now or shortly."""
        numbers = []
        for message in messages:
            call = call_of(message, self._call_chain)
            self._keep(caller, message[0], call)
            if self._submit(call):
                numbers.append(message[0])
        with _FreeThread(self._exchanges) as may_wait:
            settled = self._outbox(caller).take(_WINDOW if may_wait and numbers else 0.0, numbers)
        return self._life, [reply_of(number, call) for number, call in settled]

    def collect(self, caller: str, life: int) -> tuple[int, list[Reply]]:
        """Waits for calls that are settled later; gives none after a while without any, and at once when the calls of
        another ``life`` are asked for, which are lost."""
        if life != self._life:
            return self._life, []
        with _FreeThread(self._collects) as may_wait:
            settled = self._outbox(caller).take(_COLLECT if may_wait else _SHORT_COLLECT, [])
        return self._life, [reply_of(number, call) for number, call in settled]

    def abandon(self, caller: str, numbers: list[int]) -> None:
        """Ends the work of calls that nobody waits for any more, also of those that arrive later than this."""
        running = self._outbox(caller).running
        for number in numbers:
            self._abandoned[caller, number] = True  # before the look: the call arrives on another thread meanwhile
            if (call := running.get(number)) is not None:
                self._abandoned.pop((caller, number), None)
                call.cancel()
        while len(self._abandoned) > _ABANDONED_KEPT:
            self._abandoned.pop(next(iter(self._abandoned)), None)

    def _cancel_if_abandoned(self, caller: str, number: int, call: ServiceCall) -> None:
        if self._abandoned and self._abandoned.pop((caller, number), False):
            call.cancel()

    def _submit(self, call: ServiceCall) -> bool:
        """Hands it to the host; returns whether that took it, else it is settled."""
        try:
            if self._error is not None:
                self._revive()
            self._host.submit(call)
        except BaseException as exc:
            call.fail(exc)
            return False
        return True

    def _revive(self) -> None:
        """After a restart whose setup failed: tries again, now and then."""
        with self._lock:
            if self._error is not None and time.monotonic() - self._tried_at >= _REVIVAL:
                self._begin()
            if self._error is not None:
                raise Unavailable(
                    f"the service '{self._spec.name}' was started again after its death and cannot set up: "
                    f"{type(self._error).__name__}: {self._error}",
                    code="service_start_failed",
                )

    def _keep(self, caller: str, number: int, call: ServiceCall) -> None:
        """From now on its reply waits for a message that takes it along."""
        outbox = self._outbox(caller)
        outbox.running[number] = call
        self._cancel_if_abandoned(caller, number, call)
        call.add_done_callback(lambda call: outbox.settle(number, call))

    def _outbox(self, caller: str) -> _Outbox:
        outbox = self._outboxes.get(caller)
        if outbox is None:
            with self._lock:
                outbox = self._outboxes.setdefault(caller, _Outbox())
                if len(self._outboxes) > _CALLERS_KEPT:
                    idle = (other for other, box in self._outboxes.items() if not box.running and other != caller)
                    self._outboxes.pop(next(idle, ""), None)
        return outbox

    # Life

    def describe(self) -> dict[str, Any]:
        return self._host.describe()

    def stop(self, grace: float) -> None:
        self._host.stop(grace)


class _FreeThread:
    """Takes one of the threads that may wait, while it is entered; ``False`` means that none is free."""

    __slots__ = ("_taken", "_threads")

    def __init__(self, threads: threading.Semaphore) -> None:
        self._threads = threads

    def __enter__(self) -> bool:
        self._taken = self._threads.acquire(blocking=False)
        return self._taken

    def __exit__(self, *_: object) -> None:
        if self._taken:
            self._threads.release()


def _lone_reply(call: ServiceCall) -> list[Any]:
    _, succeeded, value = reply_of(0, call)
    return [value] if succeeded else [False, value]
