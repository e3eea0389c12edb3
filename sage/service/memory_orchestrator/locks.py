"""Who may change a scope's memories at a time: stores together, one by one in a session; what links or removes,
alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_STRIPES = 64
_Key = tuple[str, str, str]


class _Gate:
    """Many may pass together, or one alone; who waits to be alone lets no more in."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone = False
        self._wanting = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._wanting)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._wanting += 1
            try:
                self._changed.wait_for(lambda: not self._alone and not self._inside)
            finally:
                self._wanting -= 1
                self._changed.notify_all()
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


class Locks:
    """Scopes share a fixed number of locks. Never taken twice by one thread."""

    def __init__(self) -> None:
        self._gates = [_Gate() for _ in range(_STRIPES)]
        self._mutexes = [threading.Lock() for _ in range(_STRIPES)]

    @contextmanager
    def storing(self, scope: _Key, *names: str) -> Iterator[None]:
        """For a write that concerns nothing but ``names``: a session, an idempotency key."""
        with self._gates[hash(scope) % _STRIPES].together(), ExitStack() as stack:
            for place in sorted({hash((scope, name)) % _STRIPES for name in names}):
                stack.enter_context(self._mutexes[place])
            yield

    @contextmanager
    def alone(self, scope: _Key) -> Iterator[None]:
        """For one that reads or writes several memories of the scope."""
        with self._gates[hash(scope) % _STRIPES].alone():
            yield
