"""How many more requests than its callers' a model may send to its upstreams, and the pause before each of them."""

from __future__ import annotations

import random

MOST = 2
"""Further attempts of one request."""
_SHARE = 0.2
_ALWAYS = 3
_PERIOD = 30.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0


class RetryBudget:
    """Further attempts at one model: a fifth of its requests over the last 30 to 60 seconds, and three in any case."""

    __slots__ = ("_period_ends", "_previous", "_requests", "_retries")

    def __init__(self) -> None:
        self._requests = self._retries = 0
        self._previous = (0, 0)
        """Requests and retries of the period before."""
        self._period_ends = 0.0

    def request(self, now: float) -> None:
        """A request came (``time.monotonic``)."""
        if now >= self._period_ends:
            self._begin_period(now)
        self._requests += 1

    def left(self, now: float) -> int:
        """Further attempts that may be made now."""
        if now >= self._period_ends:
            self._begin_period(now)
        allowed = max(_ALWAYS, int(_SHARE * (self._requests + self._previous[0])))
        return max(0, allowed - self._retries - self._previous[1])

    def retry(self) -> None:
        """A further attempt is made."""
        self._retries += 1

    def _begin_period(self, now: float) -> None:
        is_next = now < self._period_ends + _PERIOD
        self._previous = (self._requests, self._retries) if is_next else (0, 0)
        self._requests = self._retries = 0
        self._period_ends = now + _PERIOD


def pause(attempts: int) -> float:
    """Seconds to wait after so many attempts: full jitter, so that requests that failed together come back apart."""
    return random.uniform(0.0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (attempts - 1)))  # noqa: S311
