"""How much more than it is asked for a model may ask of its upstreams, and how long it pauses before it does."""

from __future__ import annotations

import random

MOST = 2
"""Further attempts of one request."""
_SHARE = 0.2
_FEW = 3
_HALF = 30.0
_FIRST, _LONGEST = 0.1, 1.0


class RetryBudget:
    """Further attempts at one model: a fifth of its requests over the last 30 to 60 seconds, and three in any case."""

    __slots__ = ("_before", "_requests", "_retries", "_turns")

    def __init__(self) -> None:
        self._requests = self._retries = 0
        self._before = (0, 0)
        self._turns = 0.0

    def request(self, now: float) -> None:
        """A request came (``time.monotonic``)."""
        if now >= self._turns:
            self._turn(now)
        self._requests += 1

    def left(self, now: float) -> int:
        """Further attempts that may be made now."""
        if now >= self._turns:
            self._turn(now)
        allowed = max(_FEW, int(_SHARE * (self._requests + self._before[0])))
        return max(0, allowed - self._retries - self._before[1])

    def retry(self) -> None:
        """A further attempt is made."""
        self._retries += 1

    def _turn(self, now: float) -> None:
        recent = now < self._turns + _HALF
        self._before = (self._requests, self._retries) if recent else (0, 0)
        self._requests = self._retries = 0
        self._turns = now + _HALF


def pause(attempts: int) -> float:
    """Seconds to wait after so many attempts: full jitter, so that those who failed together do not come together."""
    return random.uniform(0.0, min(_LONGEST, _FIRST * 2.0 ** (attempts - 1)))  # noqa: S311
