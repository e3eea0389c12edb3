"""A deployment's circuit breaker: after failures in a row it is left alone, then one request at a time probes it."""

from __future__ import annotations

from sage.errors import SageError
from sage.middleware.settings.settings import Routing

_LONGEST = 12.0
"""The longest pause, in pauses."""


class Breaker:
    """``closed`` (requests go), ``open`` (none goes before ``until``) or ``half_open`` (one probe goes).

    Whoever sends a request says so by :meth:`take`, and what became of it by one of :meth:`succeed`, :meth:`fail` and
    :meth:`give_back`. All times are those of ``time.monotonic``.
    """

    __slots__ = ("_trips", "failures", "last", "probing", "until")

    def __init__(self) -> None:
        self.failures = 0
        """In a row."""
        self.until = 0.0
        """When the next probe may go; 0 while it is closed."""
        self.probing = False
        """The one probe is on its way."""
        self.last: SageError | None = None
        """The last failure of the row."""
        self._trips = 0

    def state(self, now: float) -> str:
        if not self.until:
            return "closed"
        return "half_open" if now >= self.until else "open"

    def admits(self, now: float) -> bool:
        """Whether a request may go now."""
        return not self.until or (now >= self.until and not self.probing)

    def take(self) -> bool:
        """A request goes. Tells whether it is the probe."""
        self.probing = bool(self.until)
        return self.probing

    def answered(self, limit: int) -> None:
        """The probe has its first byte: others may go; the next failure opens again at once (``limit`` in a row)."""
        self.until, self.probing = 0.0, False
        self.failures = limit - 1

    def succeed(self) -> None:
        """A whole answer came. What was sent before the breaker opened says nothing any more."""
        if not self.until:
            self.failures = self._trips = 0
            self.last = None

    def fail(self, now: float, failure: SageError, probe: bool, routing: Routing) -> None:
        """A request failed; only the probe's failure counts while it is not closed."""
        if self.until and not probe:
            return
        self.failures += 1
        self.last = failure.with_traceback(None)
        if probe or self.failures >= routing.breaker_failures:
            self.until = now + routing.breaker_pause * min(2.0 ** min(self._trips, 64), _LONGEST)
            self.probing = False
            self._trips += 1

    def give_back(self) -> None:
        """The probe ended without telling anything of the deployment: another one may go."""
        self.probing = False
