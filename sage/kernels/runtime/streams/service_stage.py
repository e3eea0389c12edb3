"""A service as a stage of a pipeline: its workers call it with each record."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sage.errors import InvalidRequest, Unavailable
from sage.kernels.runtime.streams.channels import UNKEYED
from sage.kernels.runtime.streams.workers import Failure, Outcome

if TYPE_CHECKING:
    from sage.kernels.runtime.services.calls import ServiceCall
    from sage.kernels.runtime.streams.workers import Callers

_PATIENCE = 30.0
"""Seconds that a record waits for room in the queue of the service before it counts as failed."""
_PAUSE = 0.002
Keyed = tuple[Any, Any]


@dataclass(frozen=True)
class ServiceStep:
    """What is called for a record. ``arguments``: its record's positional ones (a tuple) or keyword ones (a mapping);
    ``combine``: makes the new record of the old one and the result; ``batch``: records a call at most, in one crossing
    of the queue; ``isolates``: when a batch raises, each of its records is called again alone, to find which it was."""

    service: str
    method: str
    arguments: Callable[[Any], Any] | None = None
    combine: Callable[[Any, Any], Any] | None = None
    batch: int | None = None
    isolates: bool = True
    timeout: float | None = None
    retries: int = 0

    def of(self, record: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.arguments is None:
            return (record,), {}
        found = self.arguments(record)
        if isinstance(found, Mapping):
            return (), dict(found)
        if not isinstance(found, tuple):
            raise InvalidRequest(
                f"the arguments of '{self.service}'.{self.method} must be a tuple or a mapping, not {found!r}"
            )
        return found, {}

    def result(self, record: Any, found: Any) -> Any:
        return found if self.combine is None else self.combine(record, found)


class ServiceWorker:
    """Calls one at a time; with keys, many at a time, those of one key one after another."""

    def __init__(self, step: ServiceStep) -> None:
        self._step = step
        self._callers: Callers | None = None

    def start(self, callers: Callers) -> None:
        """Raises :class:`sage.errors.NotFound` when there is no such service or method."""
        callers[0][self._step.service]._method(self._step.method)
        self._callers = callers

    def stop(self) -> None:
        self._callers = None

    def process(self, batch: list[Keyed]) -> list[Outcome]:
        if self._step.batch is not None:
            return self._in_one_call([record for _, record in batch])
        if batch[0][0] is UNKEYED:
            return [self._alone(*batch[0])]
        return self._at_once(batch)

    def _alone(self, key: Any, record: Any) -> Outcome:
        try:
            return self._step.result(record, self._sent(key, record, []).result())
        except BaseException as exc:
            return Failure(exc)

    def _at_once(self, batch: list[Keyed]) -> list[Outcome]:
        under_way: deque[ServiceCall] = deque()
        calls: list[ServiceCall | Failure] = []
        for key, record in batch:
            try:
                calls.append(self._sent(key, record, under_way))
            except BaseException as exc:
                calls.append(Failure(exc))
        return [
            call if isinstance(call, Failure) else self._outcome(record, call)
            for call, (_, record) in zip(calls, batch, strict=True)
        ]

    def _outcome(self, record: Any, call: ServiceCall) -> Outcome:
        try:
            return self._step.result(record, call.result())
        except BaseException as exc:
            return Failure(exc)

    def _sent(self, key: Any, record: Any, under_way: deque[ServiceCall] | list[ServiceCall]) -> ServiceCall:
        args, kwargs = self._step.of(record)
        call = self._when_there_is_room(lambda: self._method(key)(*args, **kwargs), under_way)
        under_way.append(call)
        return call

    def _in_one_call(self, records: list[Any]) -> list[Outcome]:
        step = self._step
        try:
            arguments = [self._positional(record) for record in records]
            found = self._when_there_is_room(lambda: self._method(UNKEYED).starmap(arguments), []).result()
        except BaseException as exc:
            if step.isolates and len(records) > 1:
                return [self._alone(UNKEYED, record) for record in records]
            return [Failure(exc)]
        return [self._combined(record, result) for record, result in zip(records, found, strict=True)]

    def _positional(self, record: Any) -> tuple[Any, ...]:
        args, kwargs = self._step.of(record)
        if kwargs:
            raise InvalidRequest(
                f"batches of '{self._step.service}'.{self._step.method} take positional arguments: a tuple a record"
            )
        return args

    def _combined(self, record: Any, found: Any) -> Outcome:
        try:
            return self._step.result(record, found)
        except BaseException as exc:
            return Failure(exc)

    def _method(self, key: Any) -> Any:
        assert self._callers is not None, "it was started"
        step, proxy = self._step, self._callers[1][self._step.service]
        if key is not UNKEYED or step.timeout is not None or step.retries:
            order = None if key is UNKEYED else key
            proxy = proxy.options(timeout=step.timeout, order=order, retries=step.retries)
        return proxy._method(step.method)

    def _when_there_is_room(
        self, send: Callable[[], ServiceCall], under_way: deque[ServiceCall] | list[ServiceCall]
    ) -> ServiceCall:
        """A full queue is no error here: it is why one waits."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return send()
            except Unavailable as exc:
                if exc.code != "queue_full" or time.monotonic() >= until:
                    raise
            if under_way:
                under_way[0].exception()
                del under_way[0]
            else:
                time.sleep(_PAUSE)
