"""From one process to one actor of a service: calls go as messages, many in one where many wait, results come back.

Three kinds of threads meet in a link. A *caller* sends a call and waits for its reply itself (:meth:`Link.call`), or
queues it (:meth:`Link.submit`). *Ray's threads* bring the replies to messages. *The link's own thread* does all the
rest: the others tell it what happened by putting an event, which is a function, into its queue of events.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from sage.errors import DeadlineExceeded, InvalidRequest, Unavailable
from sage.kernels.runtime.ray.deadlines import RemoteClock
from sage.kernels.runtime.ray.errors import service_died, service_ended, unpacked
from sage.kernels.runtime.ray.messages import message_of, settle
from sage.kernels.runtime.ray.outgoing_queue import NumberedCall, OutgoingQueue
from sage.kernels.runtime.ray.package import load_ray
from sage.kernels.runtime.ray.sent_calls import SentCalls
from sage.kernels.runtime.services.calls import ServiceCall

_MESSAGES = 2
"""Messages under way at once; what is called meanwhile goes together in the next."""
_PAUSE = 0.1
"""Seconds between two attempts to reach an actor that died."""
_LONGEST_WAIT = 4.0
"""Seconds that one such attempt waits at most."""
_CLOSE = 5.0
"""Seconds that the link's thread has to end."""
_CLOCK_ANSWER = 1.0
"""Seconds that the link's thread waits for the actor's time."""
_ROUNDING = 0.001
"""Seconds added to a wait, since Ray rounds it down to milliseconds: no call may end with ``DeadlineExceeded`` before
its deadline."""
_NEW_LIFE = "it has begun a new life"


class Link:
    """``about`` is what :meth:`sage.kernels.runtime.ray.actor.ServiceActor.about` returned. Safe for any threads."""

    def __init__(self, service: str, actor: Any, about: dict[str, Any]) -> None:
        self.service = service
        self.actor = actor
        self._caller = secrets.token_hex(8)

        # Any thread
        self.up = True
        """Whether the actor answers, as far as is known here."""
        self._numbers = itertools.count(1)
        self._outgoing = OutgoingQueue(service, about["queue_size"])
        self._direct: set[int] = set()
        """Numbers of calls whose callers wait for the reply themselves."""
        self._clock = RemoteClock(about["clock"][0])  # not its moment: the answer lay here for a while
        self._events: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._thread_lock = threading.Lock()

        # Only the link's thread
        self._sent = SentCalls()
        self._early: dict[int, tuple[bool, Any]] = {}
        """Results of direct calls that came before it was known here that they take longer."""
        self._abandoned: list[int] = []
        """Numbers of calls that the actor must hear of: nobody waits for them any more."""
        self._messages_under_way = 0
        self._ordered_under_way = False
        """Ordered calls wait until the message with the last ones has been accepted: messages can overtake another."""
        self._connection = 1
        """Counts how often the actor was reached again: a message that is lost only now may have been sent before."""
        self._collecting = False
        """A request is under way that waits for results of sent calls."""

    @property
    def load(self) -> int:
        """Calls that are under way from here."""
        return len(self._direct) + len(self._sent) + len(self._outgoing)

    @property
    def end_error(self) -> Unavailable | None:
        """Why the actor will never serve again; ``None`` while it may."""
        return self._outgoing.end_error

    # A caller that waits itself: no other thread takes part in its call, unless it takes longer

    def call(self, call: ServiceCall) -> None:
        """Settles ``call``, or leaves it to be settled later."""
        number = next(self._numbers)
        self._direct.add(number)
        try:
            reply = self._ask(number, call)
        except BaseException as exc:
            self._direct.discard(number)
            self._fail_direct(number, call, exc)
            return
        if type(reply) is int:
            call.on_abandon = lambda: self._abandon(number)
            self._tell(lambda: self._wait_longer(number, reply, call))
            if self._closed.is_set():
                call.fail(self._stopped())
            return
        self._direct.discard(number)
        if len(reply) == 1:
            call.succeed(reply[0])
        else:
            call.fail(unpacked(reply[1]))

    def _ask(self, number: int, call: ServiceCall) -> Any:
        deadline = call.deadline
        if deadline is not None and self._clock.is_stale:
            self._read_clock(_remaining(deadline))
        message = [self._caller, *message_of(number, call, self._clock)]
        timeout = _remaining(deadline) if deadline is not None else None
        return load_ray().get(self.actor.one.remote(message), timeout=timeout)

    def _fail_direct(self, number: int, call: ServiceCall, error: BaseException) -> None:
        if isinstance(error, load_ray().exceptions.GetTimeoutError):
            call.expire()
            self._abandon(number)
        elif not isinstance(error, Exception):  # Ctrl-C
            self._abandon(number)
            call.cancel()
            raise error
        else:
            if _is_death(error):
                self.up = False
                self._tell(_nothing)
            call.fail(self._as_call_error(error, call))

    # Callers that have futures

    def submit(self, call: ServiceCall) -> None:
        """Queues it for the next message. Raises :class:`Unavailable` when the queue is full or the link has ended."""
        number = next(self._numbers)
        is_first = self._outgoing.put(number, call)
        call.on_abandon = lambda: self._abandon(number)
        if is_first:
            self._tell(_nothing)

    # Any thread

    def close(self) -> None:
        self._closed.set()
        with self._thread_lock:
            thread = self._thread
        if thread is not None:
            self._events.put(_nothing)
            thread.join(_CLOSE)
        self._end(self._stopped())

    def _stopped(self) -> Unavailable:
        return Unavailable(f"the service '{self.service}' is stopped; it takes no calls", code="service_stopped")

    def _abandon(self, number: int) -> None:
        self._tell(lambda: self._note_abandoned(number))

    def _tell(self, event: Callable[[], object]) -> None:
        """Lets the link's thread run ``event``."""
        if self._thread is None:
            with self._thread_lock:
                if self._thread is None and not self._closed.is_set():
                    self._thread = threading.Thread(target=self._work, name=f"sage-{self.service}-link", daemon=True)
                    try:
                        self._thread.start()
                    except RuntimeError:  # no more threads can be started now; the next event tries again
                        self._thread = None
                        raise
        self._events.put(event)

    def _read_clock(self, seconds: float) -> None:
        """Asks the actor for its time, so that deadlines can be sent in it; waits up to ``seconds`` for the answer.
        Raises what Ray raises."""
        asked_at = time.monotonic()
        answer = self.actor.clock.options(concurrency_group="clock").remote()
        self._clock.learn(asked_at, *load_ray().get(answer, timeout=seconds))

    def _as_call_error(self, error: BaseException, call: ServiceCall) -> BaseException:
        """The error that ended a message, as the caller of one of its calls gets it."""
        if isinstance(error, DeadlineExceeded | InvalidRequest):
            return error
        if _is_death(error):
            return service_died(self.service, call.method, _first_line(error))
        return _not_carried(call, error)

    # The link's own thread

    def _work(self) -> None:
        while not self._closed.is_set():
            self._events.get()()  # here it sleeps
            self._run_events()
            if not self.up:
                self._await_actor()
            if self.up:
                self._tell_abandoned()
                self._send_messages()
                self._collect()
        self._run_events()  # a call that takes longer, and is failed by the end of the link

    def _run_events(self) -> None:
        with suppress(Empty):
            while True:
                self._events.get_nowait()()

    def _note_abandoned(self, number: int) -> None:
        self._sent.remove(number)
        self._early.pop(number, None)
        self._abandoned.append(number)

    def _tell_abandoned(self) -> None:
        if self._abandoned:
            self.actor.abandon.options(concurrency_group="control").remote(self._caller, self._abandoned)
            self._abandoned = []

    def _send_messages(self) -> None:
        while self._messages_under_way < _MESSAGES:
            batch = self._outgoing.next_batch(ordered_may_go=not self._ordered_under_way)
            if not batch:
                return
            self._send(batch)

    def _send(self, batch: list[NumberedCall]) -> None:
        for number, call in batch:
            self._sent.add(number, call)
        if self._clock.is_stale and any(call.deadline is not None for _, call in batch):
            with suppress(Exception):  # the message meets the same error
                self._read_clock(_CLOCK_ANSWER)
        messages = [message_of(number, call, self._clock) for number, call in batch]
        try:
            ref = self.actor.exchange.remote(self._caller, messages)
        except Exception as exc:  # its arguments cannot be carried
            for number, call in batch:
                self._sent.remove(number)
                call.fail(_not_carried(call, exc))
            return
        self._messages_under_way += 1
        if any(call.order is not None for _, call in batch):
            self._ordered_under_way = True
        numbers = [number for number, _ in batch]
        connection = self._connection
        self._when_done(ref, lambda reply, error: self._end_message(numbers, connection, reply, error))

    def _collect(self) -> None:
        """Asks for the results of sent calls when no message is under way that would bring them."""
        if len(self._sent) and self._messages_under_way == 0 and not self._collecting:
            self._collecting = True
            connection = self._connection
            collect = self.actor.collect.options(concurrency_group="collect")
            ref = collect.remote(self._caller, self._sent.life)
            self._when_done(ref, lambda reply, error: self._end_collecting(connection, reply, error))

    def _when_done(self, ref: Any, then: Callable[[Any, BaseException | None], None]) -> None:
        """Runs ``then(result, error)`` on the link's thread."""

        def on_ray_thread(future: Any) -> None:
            error = future.exception()
            result = future.result() if error is None else None
            self._events.put(lambda: then(result, error))

        ref.future().add_done_callback(on_ray_thread)

    def _end_message(self, numbers: list[int], connection: int, reply: Any, error: BaseException | None) -> None:
        self._messages_under_way -= 1
        self._ordered_under_way = self._ordered_under_way and self._messages_under_way > 0
        if error is not None:
            self._lose_message(numbers, connection, error)
            return
        life, settled = reply
        self._take(life, settled)
        for number in numbers:
            self._accept(number, life)

    def _end_collecting(self, connection: int, reply: Any, error: BaseException | None) -> None:
        self._collecting = False
        if error is not None:
            self._lose_message([], connection, error)
        else:
            self._take(*reply)

    def _take(self, life: int, settled: list[tuple[int, bool, Any]]) -> None:
        self._fail_lost(self._sent.begin_life(life))
        for number, succeeded, value in settled:
            if (call := self._sent.remove(number)) is not None:
                settle(call, succeeded, value)
            elif number in self._direct:
                self._early[number] = succeeded, value

    def _wait_longer(self, number: int, life: int, call: ServiceCall) -> None:
        """A direct call takes longer: from now on its result is collected."""
        self._direct.discard(number)
        if (early := self._early.pop(number, None)) is not None:
            settle(call, *early)
        elif not call.settled:
            self._sent.add(number, call)
            self._fail_lost(self._sent.begin_life(life))
            self._accept(number, life)

    def _accept(self, number: int, life: int) -> None:
        if (call := self._sent.accept(number, life)) is not None:
            self._fail_lost([call])

    def _fail_lost(self, calls: list[ServiceCall]) -> None:
        for call in calls:
            call.fail(service_died(self.service, call.method, _NEW_LIFE))

    def _lose_message(self, numbers: list[int], connection: int, error: BaseException) -> None:
        """A message did not come through. All calls of a dead actor are lost, whichever message they went with."""
        if _is_death(error) and connection == self._connection:
            self.up = False
            lost = self._sent.remove_all()
        else:
            lost = [call for number in numbers if (call := self._sent.remove(number)) is not None]
        for call in lost:
            call.fail(self._as_call_error(error, call))

    # The same thread: an actor that died, the end

    def _await_actor(self) -> None:
        """Returns when the actor answers again; ends the link when it never will."""
        ray, within = load_ray(), 1.0
        while not self._closed.is_set():
            asked_at = time.monotonic()
            try:
                about = ray.get(self.actor.about.options(concurrency_group="control").remote(), timeout=within)
            except ray.exceptions.ActorDiedError as exc:
                self._end(service_ended(self.service, _first_line(exc)))
                return
            except ray.exceptions.GetTimeoutError:
                within = min(within * 2, _LONGEST_WAIT)  # a busy machine answers later
            except Exception:
                if not ray.is_initialized():
                    return
            else:
                self._clock.learn(asked_at, *about["clock"])
                self._connection += 1
                self.up = True
                return
            self._closed.wait(_PAUSE)

    def _end(self, error: Unavailable) -> None:
        for call in [*self._outgoing.end(error), *self._sent.remove_all()]:
            call.fail(error)


def _remaining(deadline: float) -> float:
    """Seconds to wait for an answer of Ray."""
    return max(deadline - time.monotonic(), 0.0) + _ROUNDING


def _nothing() -> None:
    """An event that only wakes the link's thread."""


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
