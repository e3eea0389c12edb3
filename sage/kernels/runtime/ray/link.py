"""From one process to one actor of a service: calls go as messages, many in one where many wait, results come back."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections import deque
from typing import Any

from sage.errors import DeadlineExceeded, InvalidRequest, Unavailable
from sage.kernels.runtime.ray.errors import is_plain, service_died, service_ended, unpacked
from sage.kernels.runtime.ray.package import load_ray
from sage.kernels.runtime.services.calls import ServiceCall

_MESSAGES = 2
"""Messages under way at once; what is called meanwhile goes together in the next."""
_LARGEST = 500
"""Calls of one message."""
_PAUSE = 0.1
"""Seconds between two looks whether an actor is there again."""
_GRACE = 5.0
"""Seconds that the reply to a waiting call may come later than its deadline, before it is given up here."""


class Link:
    """Safe for any threads."""

    def __init__(self, service: str, actor: Any, queue_size: int) -> None:
        self.service = service
        self.actor = actor
        self.up = True
        self.ended: Unavailable | None = None
        """Why it will never serve again."""
        self._limit = queue_size
        self._caller = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, ServiceCall]] = deque()
        self._sent: dict[int, ServiceCall] = {}
        self._life = 0
        """Of the actor, as last heard: it numbers them upwards."""
        self._accepted: set[int] = set()
        """Those of the sent that this life has taken: they end with it, also when no message was under way then."""
        self._direct: set[int] = set()
        """Those whose callers wait themselves."""
        self._left: list[int] = []
        """Abandoned ones that the actor is to be told of."""
        self._arrived: deque[tuple[list[int], Any, BaseException | None]] = deque()
        self._taken: deque[tuple[int, int, ServiceCall]] = deque()
        """Calls of callers who wait, which take longer, and the life that has them."""
        self._early: dict[int, tuple[bool, Any]] = {}
        """Results of such calls that came before it was known here that they take longer."""
        self._under_way = 0
        self._ordered = False
        """A message with ordered calls is under way: the next ones wait until it has been taken."""
        self._collecting = False
        self._bell = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def load(self) -> int:
        """Calls that are under way from here."""
        return len(self._direct) + len(self._sent) + len(self._waiting)

    # A call whose caller waits: no other thread takes part in it

    def call(self, call: ServiceCall) -> None:
        """Settles ``call``, or leaves it to be settled later."""
        number = next(self._numbers)
        self._direct.add(number)
        try:
            reply = self._asked(number, call)
        except BaseException as exc:
            self._direct.discard(number)
            self._failed(number, call, exc)
            return
        if type(reply) is int:
            call.on_abandon = lambda: self._forget(number)
            self._taken.append((number, reply, call))
            self._ring()
            return
        self._direct.discard(number)
        if len(reply) == 1:
            call.succeed(reply[0])
        else:
            call.fail(unpacked(reply[1]))

    def _asked(self, number: int, call: ServiceCall) -> Any:
        ray = load_ray()

        ref = self.actor.one.remote([self._caller, *_message(number, call)])
        return ray.get(ref, timeout=None if call.deadline is None else max(call.deadline - time.monotonic(), 0.0))

    def _failed(self, number: int, call: ServiceCall, error: BaseException) -> None:
        if isinstance(error, load_ray().exceptions.GetTimeoutError):
            call.expire()
            self._forget(number)
        elif not isinstance(error, Exception):  # Ctrl-C
            self._forget(number)
            call.cancel()
            raise error
        else:
            call.fail(self._translated(error, call))

    # Calls that have futures

    def submit(self, call: ServiceCall) -> None:
        """Puts it in line for the next message. Raises :class:`Unavailable` when the line is full or has ended."""
        with self._lock:
            if self.ended is not None:
                raise self.ended
            if len(self._waiting) >= self._limit:
                raise Unavailable(
                    f"{self._limit} calls wait here for the service '{self.service}' and it takes no more; "
                    "try again, or give it more workers (max_workers), replicas or a longer queue (queue_size)",
                    code="queue_full",
                )
            number = next(self._numbers)
            self._waiting.append((number, call))
            first = len(self._waiting) == 1
        call.on_abandon = lambda: self._forget(number)
        if first:
            self._ring()

    def _forget(self, number: int) -> None:
        self._sent.pop(number, None)
        self._accepted.discard(number)
        self._left.append(number)
        self._ring()

    def _ring(self) -> None:
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self._closed:
                    self._thread = threading.Thread(target=self._work, name=f"sage-{self.service}-link", daemon=True)
                    self._thread.start()
        self._bell.release()

    def close(self) -> None:
        self._closed = True
        if self._thread is not None:
            self._bell.release()
            self._thread.join(_GRACE)
        self._end(Unavailable(f"the service '{self.service}' is stopped; it takes no calls", code="service_stopped"))

    # The link's own thread

    def _work(self) -> None:
        while not self._closed:
            self._bell.acquire()
            while self._bell.acquire(blocking=False):
                pass
            while self._taken:
                self._follow(*self._taken.popleft())
            while self._arrived:
                self._take(*self._arrived.popleft())
            if not self.up:
                self._await_actor()
            if self._left:
                self._tell_abandoned()
            while self._waiting and self._under_way < _MESSAGES and self.up:
                if not self._send():
                    break
            if self._sent and self._under_way == 0 and not self._collecting:
                self._collecting = True
                self._watch(
                    [], self.actor.collect.options(concurrency_group="collect").remote(self._caller, self._life)
                )

    def _tell_abandoned(self) -> None:
        left, self._left = self._left, []
        self.actor.abandon.options(concurrency_group="control").remote(self._caller, left)

    def _send(self) -> bool:
        """One message; false: nothing may go now."""
        batch, ordered = self._next()
        if not batch:
            return False
        numbers = [number for number, _ in batch]
        messages = [_message(number, call) for number, call in batch]
        self._sent.update(batch)
        try:
            ref = self.actor.exchange.remote(self._caller, messages)
        except Exception as exc:  # its arguments cannot be carried
            for number, call in batch:
                self._sent.pop(number, None)
                call.fail(_not_carried(call, exc))
            return True
        self._under_way += 1
        self._ordered = self._ordered or ordered
        self._watch(numbers, ref)
        return True

    def _next(self) -> tuple[list[tuple[int, ServiceCall]], bool]:
        """Calls that may go together: what might not be carried goes alone, so that it fails alone."""
        batch: list[tuple[int, ServiceCall]] = []
        ordered = False
        with self._lock:
            while self._waiting and len(batch) < _LARGEST:
                number, call = self._waiting[0]
                if call.settled:
                    self._waiting.popleft()
                    continue
                if call.order is not None and self._ordered:
                    break
                alone = not (is_plain(call.args) and is_plain(call.kwargs))
                if alone and batch:
                    break
                self._waiting.popleft()
                batch.append((number, call))
                ordered = ordered or call.order is not None
                if alone:
                    break
        return batch, ordered

    def _watch(self, numbers: list[int], ref: Any) -> None:
        def arrived(future: Any) -> None:
            error = future.exception()
            self._arrived.append((numbers, None if error is not None else future.result(), error))
            self._bell.release()

        ref.future().add_done_callback(arrived)

    def _take(self, numbers: list[int], replies: Any, error: BaseException | None) -> None:
        if numbers:
            self._under_way -= 1
            self._ordered = self._ordered and self._under_way > 0
        else:
            self._collecting = False
        if error is not None:
            self._lost(numbers, error)
            return
        life, settled = replies
        self._heard(life)
        for number, right, value in settled:
            self._accepted.discard(number)
            if (call := self._sent.pop(number, None)) is not None:
                _settle(call, right, value)
            elif number in self._direct:
                self._early[number] = right, value
        for number in numbers:
            self._accept(number, life)

    def _follow(self, number: int, life: int, call: ServiceCall) -> None:
        """A call whose caller waits, which is to be collected from now on."""
        self._direct.discard(number)
        if (early := self._early.pop(number, None)) is not None:
            _settle(call, *early)
        elif not call.settled:
            self._sent[number] = call
            self._heard(life)
            self._accept(number, life)

    def _heard(self, life: int) -> None:
        """Of a new life: what the last one had is lost."""
        if life <= self._life:
            return
        self._life = life
        lost, self._accepted = self._accepted, set()
        for number in lost:
            self._lose(number, "it has begun a new life")

    def _accept(self, number: int, life: int) -> None:
        if number not in self._sent:
            return
        if life < self._life:
            self._lose(number, "it has begun a new life")
        else:
            self._accepted.add(number)

    def _lose(self, number: int, cause: str) -> None:
        if (call := self._sent.pop(number, None)) is not None:
            call.fail(service_died(self.service, call.method, cause))

    def _lost(self, numbers: list[int], error: BaseException) -> None:
        """A message did not come through: those of a dead actor are all lost, wherever they were."""
        dead = _is_death(error)
        for number in list(self._sent) if dead else numbers:
            if (call := self._sent.pop(number, None)) is not None:
                call.fail(self._translated(error, call))
        if dead:
            self._accepted.clear()
            self.up = False

    def _translated(self, error: BaseException, call: ServiceCall) -> BaseException:
        if isinstance(error, DeadlineExceeded | InvalidRequest):
            return error
        if _is_death(error):
            self.up = False
            self._ring()
            return service_died(self.service, call.method, _first_line(error))
        return _not_carried(call, error)

    def _await_actor(self) -> None:
        """Until it answers again; ends the link when it never will."""
        ray = load_ray()

        while not self._closed:
            try:
                ray.get(self.actor.about.options(concurrency_group="control").remote(), timeout=1.0)
            except ray.exceptions.ActorDiedError as exc:
                self._end(service_ended(self.service, _first_line(exc)))
                return
            except ray.exceptions.GetTimeoutError:
                pass
            except Exception:
                if not ray.is_initialized():
                    return
            else:
                self.up = True
                return
            self._pause()

    def _pause(self) -> None:
        end = time.monotonic() + _PAUSE
        while not self._closed and time.monotonic() < end:
            self._bell.acquire(timeout=_PAUSE)

    def _end(self, error: Unavailable) -> None:
        with self._lock:
            self.ended = error
            left = [*self._sent.items(), *self._waiting]
            self._sent.clear()
            self._waiting.clear()
        for _, call in left:
            call.fail(error)


def _message(number: int, call: ServiceCall) -> list[Any]:
    """As short as it can be, and of lists, which cost Ray less than tuples: the rest is as usual when it is missing."""
    message: list[Any] = [number, call.method, list(call.args)]
    if call.deadline is None and not call.kwargs and call.order is None and not call.many and len(call.trail) == 1:
        return message
    left = call.deadline - time.monotonic() if call.deadline is not None else None
    return [*message, call.kwargs, list(call.trail), left, call.order, call.many]


def _settle(call: ServiceCall, right: bool, value: Any) -> None:
    if right:
        call.succeed(value)
    else:
        call.fail(unpacked(value))


def _is_death(error: BaseException) -> bool:
    of_ray = load_ray().exceptions
    return isinstance(error, of_ray.RayActorError | of_ray.WorkerCrashedError | of_ray.NodeDiedError)


def _not_carried(call: ServiceCall, error: BaseException) -> InvalidRequest:
    return InvalidRequest(
        f"the call of '{call.service}'.{call.method} cannot be carried to the service's process, or back: "
        f"{type(error).__name__}: {_first_line(error)}",
        code="call_not_carried",
    )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
