"""Calls that wait in this process for the next message to an actor."""

from __future__ import annotations

import threading
from collections import deque

from sage.errors import Unavailable
from sage.kernels.runtime.ray.errors import is_plain
from sage.kernels.runtime.services.calls import ServiceCall

_LARGEST = 500
"""Calls of one message."""

NumberedCall = tuple[int, ServiceCall]


class OutgoingQueue:
    """Bounded, first in, first out. Safe for any threads."""

    def __init__(self, service: str, limit: int) -> None:
        self._service = service
        self._limit = limit
        self._calls: deque[NumberedCall] = deque()
        self._lock = threading.Lock()
        self.end_error: Unavailable | None = None
        """Why the actor will never serve again; ``None`` while it may."""

    def __len__(self) -> int:
        return len(self._calls)

    def put(self, number: int, call: ServiceCall) -> bool:
        """Returns whether the queue was empty. Raises :class:`Unavailable` when it is full, and after :meth:`end`."""
        with self._lock:
            if self.end_error is not None:
                raise self.end_error
            if len(self._calls) >= self._limit:
                raise Unavailable(
                    f"{self._limit} calls wait here for the service '{self._service}' and it takes no more; "
                    "try again, or give it more workers (max_workers), replicas or a longer queue (queue_size)",
                    code="queue_full",
                )
            self._calls.append((number, call))
            return len(self._calls) == 1

    def next_batch(self, ordered_may_go: bool) -> list[NumberedCall]:
        """Calls that may go in one message; ``ordered_may_go`` says whether calls with an ordered key may. A
        call that might not be carried goes alone, so that it fails alone."""
        batch: list[NumberedCall] = []
        with self._lock:
            while self._calls and len(batch) < _LARGEST:
                number, call = self._calls[0]
                if call.settled:
                    self._calls.popleft()
                    continue
                if call.order is not None and not ordered_may_go:
                    break
                goes_alone = not (is_plain(call.args) and is_plain(call.kwargs))
                if goes_alone and batch:
                    break
                self._calls.popleft()
                batch.append((number, call))
                if goes_alone:
                    break
        return batch

    def end(self, error: Unavailable) -> list[ServiceCall]:
        """Refuses all further calls with ``error`` and returns those that wait."""
        with self._lock:
            self.end_error = error
            calls = [call for _, call in self._calls]
            self._calls.clear()
        return calls
