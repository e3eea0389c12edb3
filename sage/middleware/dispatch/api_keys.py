"""Whose turn it is among a provider's keys, and which of them are left alone for a while."""

from __future__ import annotations

import math
from collections.abc import Collection

_REFUSED = 60.0
"""Seconds for which a key that was refused is asked last."""


class ProviderQuota:
    """What all deployments of one provider have in common: its bound on running requests, and its keys."""

    __slots__ = ("in_flight", "limit", "refused")

    def __init__(self, limit: int | None, keys: int) -> None:
        """``limit``: requests at a time, if there is a bound."""
        self.limit = limit
        self.in_flight = 0
        self.refused = [0.0] * max(1, keys)
        """For each key, until when it counts as refused (``time.monotonic``)."""

    @property
    def full(self) -> bool:
        return self.limit is not None and self.in_flight >= self.limit


class Keys:
    """The keys of one deployment, taken in turn; a server without keys, or of our own, counts as one key.

    Vendors count requests for each model, so a key that was told to wait waits at this deployment only.
    """

    __slots__ = ("_next", "_share", "_until", "until")

    def __init__(self, share: ProviderQuota) -> None:
        self._share = share
        self._until = [0.0] * len(share.refused)
        self._next = 0
        self.until = 0.0
        """When the last key that was told to wait may be asked again (``time.monotonic``)."""

    def __len__(self) -> int:
        return len(self._until)

    def pick(self, now: float, barred: Collection[int] = ()) -> int:
        """The key whose turn it is, of those that may be asked now; the next one has the next turn."""
        count = len(self._until)
        order = [(self._next + step) % count for step in range(count)]
        free = [key for key in order if key not in barred and self._until[key] <= now]
        chosen = min(free, key=lambda key: self._refused(key, now))
        self._next = (chosen + 1) % count
        return chosen

    def free_at(self, now: float, barred: Collection[int] = ()) -> float:
        """When one of them may be asked: 0 at once, infinity if all are barred."""
        if now >= self.until and not barred:
            return 0.0
        soonest = min((until for key, until in enumerate(self._until) if key not in barred), default=math.inf)
        return soonest if soonest > now else 0.0

    def cool_down(self, key: int, until: float) -> None:
        self._until[key] = max(self._until[key], until)
        self.until = max(self.until, until)

    def cool_down_all(self, until: float) -> None:
        for key in range(len(self._until)):
            self.cool_down(key, until)

    def refused(self, key: int, now: float) -> None:
        """The upstream did not accept it: asked last for a while, but asked when there is no other."""
        self._share.refused[key] = now + _REFUSED

    def describe(self, now: float) -> list[dict[str, float | int]]:
        """For each key, never shown itself, the seconds for which it is left alone."""
        until = [max(pair) for pair in zip(self._until, self._share.refused, strict=True)]
        return [{"index": key, "cooling_for": round(max(0.0, until[key] - now), 3)} for key in range(len(until))]

    def _refused(self, key: int, now: float) -> float:
        return max(0.0, self._share.refused[key] - now)
