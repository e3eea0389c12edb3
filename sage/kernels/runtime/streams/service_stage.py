"""A service as a stage of a pipeline: its workers call the service with each record."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sage.errors import InvalidRequest, Unavailable
from sage.kernels.runtime.services.callers import Callers
from sage.kernels.runtime.services.calls import ServiceCall
from sage.kernels.runtime.streams.records import UNKEYED
from sage.kernels.runtime.streams.workers import Failure, Outcome

_QUEUE_TIMEOUT = 30.0
"""Seconds that a record waits for room in the queue of the service before it counts as failed."""
_QUEUE_POLL = 0.002
KeyedValue = tuple[Any, Any]


@dataclass(frozen=True)
class ServiceStep:
    """How a service is called for records.

    ``arguments(record)`` returns the positional arguments (a tuple) or the keyword arguments (a mapping) of the call;
    ``None`` means the record alone. ``combine(record, result)`` returns the new record; ``None`` means the result
    alone. ``batch``: records in one call at most. ``isolates``: when a batch raises, each of its records is called
    again alone, to find the one that raises. ``timeout`` is in seconds.
    """

    service: str
    method: str
    arguments: Callable[[Any], Any] | None = None
    combine: Callable[[Any, Any], Any] | None = None
    batch: int | None = None
    isolates: bool = True
    timeout: float | None = None
    retries: int = 0

    def call_arguments(self, record: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.arguments is None:
            return (record,), {}
        arguments = self.arguments(record)
        if isinstance(arguments, Mapping):
            return (), dict(arguments)
        if not isinstance(arguments, tuple):
            raise InvalidRequest(
                f"the arguments of '{self.service}'.{self.method} must be a tuple or a mapping, not {arguments!r}"
            )
        return arguments, {}

    def batch_arguments(self, record: Any) -> tuple[Any, ...]:
        args, kwargs = self.call_arguments(record)
        if kwargs:
            raise InvalidRequest(
                f"batches of '{self.service}'.{self.method} take positional arguments: a tuple for each record"
            )
        return args

    def outcome(self, record: Any, result: Any) -> Outcome:
        """The new record, or a :class:`Failure` with what ``combine`` raised."""
        if self.combine is None:
            return result
        try:
            return self.combine(record, result)
        except BaseException as exc:
            return Failure(exc)


class ServiceWorker:
    """Calls the service for one record at a time; with keys, for many records at a time, but for the records of one key
    one after another."""

    def __init__(self, step: ServiceStep) -> None:
        self._step = step
        self._callers: Callers | None = None

    def start(self, callers: Callers) -> None:
        """Raises :class:`sage.errors.NotFound` when there is no such service or method."""
        callers[0][self._step.service]._method(self._step.method)
        self._callers = callers

    def stop(self) -> None:
        self._callers = None

    def process(self, batch: list[KeyedValue]) -> list[Outcome]:
        if self._step.batch is not None:
            return self._call_batch([record for _, record in batch])
        if batch[0][0] is UNKEYED:
            return [self._call_one(batch[0][1])]
        return self._call_concurrently(batch)

    def _call_one(self, record: Any) -> Outcome:
        return self._outcome(record, self._try_send(UNKEYED, record, deque()))

    def _call_concurrently(self, batch: list[KeyedValue]) -> list[Outcome]:
        pending: deque[ServiceCall] = deque()
        calls = [self._try_send(key, record, pending) for key, record in batch]
        return [self._outcome(record, call) for call, (_, record) in zip(calls, batch, strict=True)]

    def _outcome(self, record: Any, call: ServiceCall | Failure) -> Outcome:
        if isinstance(call, Failure):
            return call
        try:
            result = call.result()
        except BaseException as exc:
            return Failure(exc)
        return self._step.outcome(record, result)

    def _call_batch(self, records: list[Any]) -> list[Outcome]:
        step = self._step
        try:
            arguments = [step.batch_arguments(record) for record in records]
            call = self._send_with_room(lambda: self._method(UNKEYED).starmap(arguments), deque())
            results = call.result()
        except BaseException as exc:
            if step.isolates and len(records) > 1:
                return [self._call_one(record) for record in records]
            return [Failure(exc)]
        return [step.outcome(record, result) for record, result in zip(records, results, strict=True)]

    def _try_send(self, key: Any, record: Any, pending: deque[ServiceCall]) -> ServiceCall | Failure:
        try:
            args, kwargs = self._step.call_arguments(record)
            call = self._send_with_room(lambda: self._method(key)(*args, **kwargs), pending)
        except BaseException as exc:
            return Failure(exc)
        pending.append(call)
        return call

    def _method(self, key: Any) -> Any:
        assert self._callers is not None, "it was started"
        step, proxy = self._step, self._callers[1][self._step.service]
        if key is not UNKEYED or step.timeout is not None or step.retries:
            order = None if key is UNKEYED else key
            proxy = proxy.options(timeout=step.timeout, order=order, retries=step.retries)
        return proxy._method(step.method)

    def _send_with_room(self, send: Callable[[], ServiceCall], pending: deque[ServiceCall]) -> ServiceCall:
        """Waits while the queue of the service is full; first for the oldest of this worker's ``pending`` calls."""
        end = time.monotonic() + _QUEUE_TIMEOUT
        while True:
            try:
                return send()
            except Unavailable as exc:
                if exc.code != "queue_full" or time.monotonic() >= end:
                    raise
            if pending:
                pending.popleft().exception()
            else:
                time.sleep(_QUEUE_POLL)
