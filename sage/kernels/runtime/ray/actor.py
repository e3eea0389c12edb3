"""What runs in a service's actor: the host of this process, and the calls that come to it as messages of Ray."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import CancelledError
from typing import Any

from sage.errors import Unavailable
from sage.kernels.runtime.ray.caller_runs_host import CallerRunsHost
from sage.kernels.runtime.ray.directory import callers_of
from sage.kernels.runtime.ray.errors import RemoteError, packed, why_not_carried
from sage.kernels.runtime.services.calls import ServiceCall
from sage.kernels.runtime.services.spec import ServiceSpec

EXCHANGES = 8
"""Threads that take messages."""
COLLECTS = 32
"""Threads on which callers wait for what takes longer."""
CONTROLS = 2
GROUPS = {"collect": COLLECTS, "control": CONTROLS}

_WINDOW = 0.02
"""Seconds that a message stays for the results of its calls; later ones are collected."""
_COLLECT = 10.0
_SHORT_COLLECT = 0.1
_REVIVAL = 1.0
"""Seconds between two attempts to start a service again whose setup fails."""
_CALLERS_KEPT = 10_000
_ABANDONED_KEPT = 10_000

Message = list[Any]
"""A call: ``[number, method, args]``, and unless they are as usual ``kwargs, trail, seconds left, order, many``."""
Reply = tuple[int, bool, Any]
"""``(number, whether it succeeded, result or packed error)``."""


class _Outbox:
    """The results for one caller that no message has taken yet."""

    def __init__(self) -> None:
        self.running: dict[int, ServiceCall] = {}
        self._settled: list[tuple[int, ServiceCall]] = []
        self._changed = threading.Condition()

    def settle(self, number: int, call: ServiceCall) -> None:
        self.running.pop(number, None)
        with self._changed:
            self._settled.append((number, call))
            self._changed.notify_all()

    def take(self, seconds: float, numbers: list[int]) -> list[tuple[int, ServiceCall]]:
        """What is settled once all of ``numbers`` are, or the time is over; without numbers, once anything is."""
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
        self._trail = (spec.name,)
        self._replicas = replicas
        self._life = time.time_ns()  # a later one is greater
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
        """What a caller must know; ``error``: why it cannot start."""
        return {
            "life": self._life,
            "pid": os.getpid(),
            "methods": dict(self._host.methods()),
            "queue_size": self._host._inbox.limit,
            "replicas": self._replicas,
            "error": packed(self._error) if self._error is not None else None,
        }

    # Calls

    def one(self, message: list[Any]) -> list[Any] | int:
        """Of one call, ``[caller, *message]``: ``[result]`` or ``[False, packed error]``; a number: it takes longer
        and is to be collected, from the life of this actor that has this number."""
        caller, number, *_ = message
        call = self._call(message[1:], waits=True)
        if self._ran(caller, number, call) or not self._submitted(call):
            return _alone(call)
        with _Seat(self._exchanges) as found:
            ready = call._ready.acquire(timeout=_WINDOW if found else 0.0)  # type: ignore[union-attr]
        if not ready:
            self._keep(caller, number, call)
            return self._life
        return _alone(call)

    def _ran(self, caller: str, number: int, call: ServiceCall) -> bool:
        """Whether it was run on this thread."""
        if self._error is not None or self._abandoned:
            return False
        with _Seat(self._exchanges) as found:
            if not found:
                return False
            running = self._outbox(caller).running
            running[number] = call
            try:
                return self._host.run_here(call)
            finally:
                running.pop(number, None)

    def exchange(self, caller: str, messages: list[Message]) -> tuple[int, list[Reply]]:
        """Takes many calls in their order; gives its life, and what is settled of this caller's, now or shortly."""
        numbers = []
        for message in messages:
            call = self._call(message)
            self._keep(caller, message[0], call)
            if self._submitted(call):
                numbers.append(message[0])
        with _Seat(self._exchanges) as found:
            settled = self._outbox(caller).take(_WINDOW if found and numbers else 0.0, numbers)
        return self._life, [_reply(number, call) for number, call in settled]

    def collect(self, caller: str, life: int) -> tuple[int, list[Reply]]:
        """Waits for what is settled later; empty after a while without, and at once when calls of another ``life`` are
        asked for, which are lost."""
        if life != self._life:
            return self._life, []
        with _Seat(self._collects) as found:
            settled = self._outbox(caller).take(_COLLECT if found else _SHORT_COLLECT, [])
        return self._life, [_reply(number, call) for number, call in settled]

    def abandon(self, caller: str, numbers: list[int]) -> None:
        """Ends the work of calls that nobody waits for any more, also of those that come later than this."""
        outbox = self._outbox(caller)
        for number in numbers:
            call = outbox.running.get(number)
            if call is not None:
                call.cancel()
                continue
            self._abandoned[caller, number] = True
            if len(self._abandoned) > _ABANDONED_KEPT:
                self._abandoned.pop(next(iter(self._abandoned)), None)

    def _call(self, message: Message, waits: bool = False) -> ServiceCall:
        if len(message) == 3:
            return ServiceCall(message[1], message[2], {}, self._trail, waits=waits)
        _, method, args, kwargs, trail, left, order, many = message
        deadline = time.monotonic() + left if left is not None else None
        return ServiceCall(method, args, kwargs, tuple(trail), deadline, order, many, waits)

    def _submitted(self, call: ServiceCall) -> bool:
        """Whether the host took it; else it is settled."""
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
        outbox = self._outbox(caller)
        outbox.running[number] = call
        if self._abandoned and self._abandoned.pop((caller, number), False):
            call.cancel()
        call.add_done_callback(lambda call: outbox.settle(number, call))

    def _outbox(self, caller: str) -> _Outbox:
        outbox = self._outboxes.get(caller)
        if outbox is None:
            with self._lock:
                outbox = self._outboxes.setdefault(caller, _Outbox())
                if len(self._outboxes) > _CALLERS_KEPT:
                    idle = next((one for one, box in self._outboxes.items() if not box.running and one != caller), None)
                    self._outboxes.pop(idle or "", None)
        return outbox

    # Life

    def describe(self) -> dict[str, Any]:
        return self._host.describe()

    def stop(self, grace: float) -> None:
        self._host.stop(grace)


class _Seat:
    """Whether there is room for one more that waits, while it does."""

    __slots__ = ("_found", "_seats")

    def __init__(self, seats: threading.Semaphore) -> None:
        self._seats = seats

    def __enter__(self) -> bool:
        self._found = self._seats.acquire(blocking=False)
        return self._found

    def __exit__(self, *_: object) -> None:
        if self._found:
            self._seats.release()


def _alone(call: ServiceCall) -> list[Any]:
    _, right, value = _reply(0, call)
    return [value] if right else [False, value]


def _reply(number: int, call: ServiceCall) -> Reply:
    error = call.exception()
    if error is None:
        result = call.result()
        if (why := why_not_carried(result)) is None:
            return number, True, result
        error = RemoteError(
            f"'{call.service}'.{call.method} gave what cannot be carried to another process, "
            f"a {type(result).__qualname__}: {why}",
            code="result_not_carried",
        )
        error.__cause__ = why
    elif isinstance(error, CancelledError):
        error = CancelledError(str(error))
    return number, False, packed(error)
