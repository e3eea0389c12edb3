"""A deployment's circuit breakers: after failures in a row it is left alone, then one request at a time probes it."""

from __future__ import annotations

from sage.errors import SageError
from sage.middleware.settings.settings import Routing

_LONGEST_PAUSE = 12.0
"""In units of ``breaker_pause``."""
_MOST_MEMBERS = 64
"""Callers whose failures are told apart in one row."""


class Breaker:
    """``closed`` (requests go), ``open`` (none goes before ``until``) or ``half_open`` (one probe goes).

    A request begins with :meth:`take` and ends with one of :meth:`succeed`, :meth:`fail` and :meth:`give_back`. All
    times are those of ``time.monotonic``.

    A *shared* one is for several callers, its members. A request of one member may be what makes the deployment fail,
    so failures of one member alone never open it, and one member counts for half of what does. Failures that no
    request can provoke open it whoever met them.
    """

    __slots__ = ("_certain", "_row", "_shared", "_trips", "failures", "last", "probing", "until")

    def __init__(self, *, shared: bool = False) -> None:
        self.failures = 0
        """In a row."""
        self.until = 0.0
        """When the next probe may go; 0 while it is closed."""
        self.probing = False
        """Whether the one probe is on its way."""
        self.last: SageError | None = None
        """The last of them."""
        self._trips = 0
        self._shared = shared
        self._certain = 0
        """Those of the row that no request has provoked."""
        self._row: dict[str, int] = {}
        """The others, by member."""

    def state(self, now: float) -> str:
        if not self.until:
            return "closed"
        return "half_open" if now >= self.until else "open"

    def admits(self, now: float) -> bool:
        """Whether a request may go now."""
        return not self.until or (now >= self.until and not self.probing)

    def take(self) -> bool:
        """A request goes; returns whether it is the probe."""
        self.probing = bool(self.until)
        return self.probing

    def answered(self, limit: int) -> None:
        """The probe got its first byte: other requests may go, and the next failure opens it again at once."""
        self.until, self.probing = 0.0, False
        self.failures = self._certain = limit - 1
        self._row.clear()

    def succeed(self) -> None:
        """A whole answer came. While the breaker is not closed, answers to earlier requests do not count."""
        if not self.until:
            self.failures = self._certain = self._trips = 0
            self._row.clear()
            self.last = None

    def fail(self, now: float, failure: SageError, probe: bool, routing: Routing, member: str | None = None) -> None:
        """A request failed. While the breaker is not closed, only the failure of the probe counts.

        ``member``: of a shared one, whose request may have provoked the failure; ``None`` means nobody's.
        """
        if self.until and not probe:
            return
        self.failures += 1
        self.last = failure.with_traceback(None)
        if member is None:
            self._certain += 1
        elif self._shared and (member in self._row or len(self._row) < _MOST_MEMBERS):
            self._row[member] = self._row.get(member, 0) + 1
        if probe or self._must_open(routing.breaker_failures):
            self.until = now + routing.breaker_pause * min(2.0 ** min(self._trips, 64), _LONGEST_PAUSE)
            self.probing = False
            self._trips += 1

    def open(self, until: float, failure: SageError | None) -> None:
        """It opens until then, because of requests of another process."""
        self.failures = max(1, self.failures)
        self.until, self.last, self.probing = until, failure, False
        self._trips += 1

    def _must_open(self, limit: int) -> bool:
        if not self._shared:
            return self.failures >= limit
        most_of_one = (limit + 1) // 2
        counted = self._certain + sum(min(failures, most_of_one) for failures in self._row.values())
        return counted >= limit and (self._certain > 0 or len(self._row) > 1)

    def give_back(self) -> None:
        """The probe ended without showing anything of the deployment: another one may go."""
        self.probing = False
