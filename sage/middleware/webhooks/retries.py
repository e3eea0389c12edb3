"""When a webhook that was not taken is tried again."""

from __future__ import annotations

import random

LONGEST_PAUSE = 6 * 3600.0
_GONE = 410


def is_gone(fault: str) -> bool:
    """Whether the receiver has answered that it wants no more of them."""
    return fault.endswith(str(_GONE))


def pause_after(attempts: int, first: float, retry_after: str) -> float:
    """Seconds until the next attempt after ``attempts`` of them: ``first`` after one, and three times as long each
    time, six hours at most, or as long as the receiver's ``Retry-After`` asks, if that is more."""
    pause = min(first * 3.0 ** (attempts - 1), LONGEST_PAUSE)
    return max(pause * random.uniform(1.0, 1.1), _asked_pause(retry_after))  # noqa: S311 (spreads calls)


def _asked_pause(text: str) -> float:
    return min(float(text), LONGEST_PAUSE) if text.isdecimal() and len(text) < 8 else 0.0
