"""Failed logins, of which there may be any number: a few a minute become an event each, the others are counted."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from sage.middleware.audit.event import ANYONE, AuditEvent
from sage.middleware.audit.log import AuditLog

EACH = 5
"""Events a minute for one account from one address."""
IN_ALL = 100
"""Events a minute for all of them."""
_MINUTE = 60.0
_MOST_PAIRS = 1000
_MOST_SUMMARIES = 20
_Pair = tuple[str, str]


class LoginFailures:
    """Takes failures without waiting, and writes them when :meth:`flush` is called. Safe to use from several threads.

    ``account_of`` gives the name and the tenant of an account, for the folded name that was tried.
    A process that is killed loses what it has not flushed.
    """

    def __init__(
        self,
        log: AuditLog,
        account_of: Callable[[str], tuple[str, str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._account_of = account_of
        self._clock = clock
        self._lock = threading.Lock()
        self._began = clock()
        self._told: Counter[_Pair] = Counter()
        self._counted: Counter[_Pair] = Counter()
        self._others = 0
        self._new: deque[_Pair] = deque()

    def add(self, account: str, address: str) -> None:
        """A login to ``account`` from ``address`` has failed."""
        pair = (account[:128], address[:128])
        with self._lock:
            if self._clock() - self._began >= _MINUTE and not self._counted:
                self._told, self._began = Counter(), self._clock()
            if self._told[pair] < EACH and self._told.total() < IN_ALL:
                self._told[pair] += 1
                self._new.append(pair)
            elif pair in self._counted or len(self._counted) < _MOST_PAIRS:
                self._counted[pair] += 1
            else:
                self._others += 1

    @property
    def is_due(self) -> bool:
        """Whether there is something to write."""
        return bool(self._new) or (bool(self._counted) and self._clock() - self._began >= _MINUTE)

    def flush(self, *, everything: bool = False) -> None:
        """Writes the new events, and once a minute, or for ``everything``, how many more there were. Blocks."""
        with self._lock:
            new, self._new = list(self._new), deque()
            counted: list[tuple[_Pair, int]] = []
            others = 0
            if everything or self._clock() - self._began >= _MINUTE:
                counted = self._counted.most_common(_MOST_SUMMARIES)
                others = self._others + self._counted.total() - sum(count for _, count in counted)
                self._told, self._counted, self._others = Counter(), Counter(), 0
                self._began = self._clock()
        events = [self._event(pair, {}) for pair in new]
        events += [self._event(pair, {"more": count}) for pair, count in counted]
        if others:
            events.append(AuditEvent("login.failed", "users", ANYONE, details={"more": others}))
        if events:
            self._log.append(*events)

    def _event(self, pair: _Pair, details: dict[str, int]) -> AuditEvent:
        name, tenant = self._account_of(pair[0])
        return AuditEvent("login.failed", f"user:{name}", ANYONE, tenant=tenant, details=details, address=pair[1])
