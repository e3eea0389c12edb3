"""Which writes of a scope's memories may run at the same time.

- A write that adds one memory and touches no other takes :meth:`ScopeLocks.shared`: several run at once in a scope, but
  one after another in a session, and under an idempotency key.
- A write that links, supersedes or removes memories takes :meth:`ScopeLocks.exclusive`: it runs alone in its scope.
- An import takes no lock: its lines are written as they are, in one write.
- Reads take no lock: each write is one write of the collection, so readers see all of it or nothing.

The locks act within one process. Across processes, equal texts of a session meet in one memory because they have the
same id.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_STRIPES = 64
_ScopeKey = tuple[str, str, str]


class _SharedLock:
    """Held by many threads together, or by one alone. While a thread waits to be alone, no further threads enter."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders = 0
        self._is_exclusive = False
        self._waiting_for_exclusive = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_exclusive and not self._waiting_for_exclusive)
            self._holders += 1
        try:
            yield
        finally:
            with self._changed:
                self._holders -= 1
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with self._changed:
            self._waiting_for_exclusive += 1
            try:
                self._changed.wait_for(lambda: not self._is_exclusive and not self._holders)
            finally:
                self._waiting_for_exclusive -= 1
                self._changed.notify_all()
            self._is_exclusive = True
        try:
            yield
        finally:
            with self._changed:
                self._is_exclusive = False
                self._changed.notify_all()


class ScopeLocks:
    """A fixed number of locks that all scopes share. A thread must not take a second one while it holds one."""

    def __init__(self) -> None:
        self._scopes = [_SharedLock() for _ in range(_STRIPES)]
        self._mutexes = [threading.Lock() for _ in range(_STRIPES)]

    @contextmanager
    def shared(self, scope: _ScopeKey, *names: str) -> Iterator[None]:
        """For a write that touches nothing but ``names``: a session, an idempotency key."""
        stripes = sorted(
            {hash((scope, name)) % _STRIPES for name in names}
        )  # sorted: no two threads can block each other
        with self._scopes[hash(scope) % _STRIPES].shared(), ExitStack() as stack:
            for stripe in stripes:
                stack.enter_context(self._mutexes[stripe])
            yield

    @contextmanager
    def exclusive(self, scope: _ScopeKey) -> Iterator[None]:
        """For a write that reads or changes several memories of the scope."""
        with self._scopes[hash(scope) % _STRIPES].exclusive():
            yield
