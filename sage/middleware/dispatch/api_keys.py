"""A provider's API keys: whose turn it is, which are cooling down, and which were refused."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

_REFUSED_FOR = 60.0
"""Seconds for which a refused key is taken last."""


class ProviderQuota:
    """What all deployments of one provider share: its bound on running requests, and its keys."""

    __slots__ = ("all_invalid_until", "in_flight", "invalid_until", "limit", "refused_until")

    def __init__(self, limit: int | None, keys: int) -> None:
        """``limit``: requests at a time; ``None`` means no bound."""
        self.limit = limit
        self.in_flight = 0
        self.refused_until = [0.0] * max(1, keys)
        """For each key, until when it counts as refused (``time.monotonic``)."""
        self.invalid_until = list(self.refused_until)
        self.all_invalid_until = 0.0
        """Until when every key counts as invalid: the upstream does not know them, whatever it is asked for."""

    def mark_refused(self, key: int, until: float, *, is_invalid: bool) -> None:
        """A 401 says that the key is invalid. A 403 may be about a model, which any caller may have named."""
        self.refused_until[key] = until
        if is_invalid:
            self.invalid_until[key] = until
            self.all_invalid_until = min(self.invalid_until)

    def heard_of_refusals(self, refused_until: Sequence[float], invalid_until: Sequence[float]) -> None:
        """Another process of this gateway was refused: for each key until when it counts as such."""
        self.refused_until = list(map(max, self.refused_until, refused_until))
        self.invalid_until = list(map(max, self.invalid_until, invalid_until))
        self.all_invalid_until = min(self.invalid_until)

    @property
    def full(self) -> bool:
        return self.limit is not None and self.in_flight >= self.limit


class Keys:
    """The keys of one deployment, taken in turn; a server without keys counts as one key.

    Vendors count requests for each model, so a key that is cooling down does so at this deployment only. All times are
    those of ``time.monotonic``.
    """

    __slots__ = ("_cooling_until", "_next", "_quota", "cooling_until")

    def __init__(self, quota: ProviderQuota) -> None:
        self._quota = quota
        self._cooling_until = [0.0] * len(quota.refused_until)
        self._next = 0
        self.cooling_until = 0.0
        """When the last of the keys has cooled down."""

    def __len__(self) -> int:
        return len(self._cooling_until)

    @property
    def all_cooling_until(self) -> tuple[float, ...]:
        """For each key when it has cooled down."""
        return tuple(self._cooling_until)

    def pick(self, now: float, excluded: Collection[int] = ()) -> int:
        """The key whose turn it is, of those that may be used now; the next one has the next turn."""
        count = len(self)
        order = [(self._next + step) % count for step in range(count)]
        usable = [key for key in order if key not in excluded and self._cooling_until[key] <= now]
        chosen = min(usable, key=lambda key: max(0.0, self._quota.refused_until[key] - now))
        self._next = (chosen + 1) % count
        return chosen

    def available_at(self, now: float, excluded: Collection[int] = ()) -> float:
        """When one of them may be used: 0 means now, infinity that all are excluded."""
        if now >= self.cooling_until and not excluded:
            return 0.0
        soonest = min((until for key, until in enumerate(self._cooling_until) if key not in excluded), default=math.inf)
        return soonest if soonest > now else 0.0

    def cool_down(self, key: int, until: float) -> None:
        """The upstream asks to wait with this key (``Retry-After``)."""
        self._cooling_until[key] = max(self._cooling_until[key], until)
        self.cooling_until = max(self.cooling_until, until)

    def cool_down_all(self, until: float) -> None:
        for key in range(len(self)):
            self.cool_down(key, until)

    def mark_refused(self, key: int, now: float, *, is_invalid: bool = False) -> None:
        """The upstream did not accept the key: for a while it is taken only when there is no other."""
        self._quota.mark_refused(key, now + _REFUSED_FOR, is_invalid=is_invalid)

    def are_refused(self, now: float) -> bool:
        """Whether the upstream has refused every one of them a while ago at most."""
        return min(self._quota.refused_until) > now

    def describe(self, now: float) -> list[dict[str, float | int]]:
        """For each key, which is never shown itself, the seconds for which it is left alone."""
        until = [max(pair) for pair in zip(self._cooling_until, self._quota.refused_until, strict=True)]
        return [{"index": key, "cooling_for": round(max(0.0, until[key] - now), 3)} for key in range(len(until))]
