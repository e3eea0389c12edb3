"""What one subject has used in the last minute, and what it runs now."""

from __future__ import annotations

SLOT = 0.5
"""Seconds. Uses of one slot count together, and leave the window together."""
SPAN = 120
"""Slots in a minute. The slot of now counts beside them, so that a use counts for 60 to 60.5 seconds: never too short,
and 0.83 % too long at most."""
WINDOW = SPAN * SLOT


class SubjectUse:
    """Requests and tokens of the last minute in slots of half a second, and the requests that run.

    Slots without a use take no memory. Whoever reads or changes it calls :meth:`advance` first.
    """

    __slots__ = ("_slots", "newest", "requests", "running", "tokens")

    def __init__(self) -> None:
        self.requests = 0
        """Of the window."""
        self.tokens = 0
        """Of the window: reserved ones of requests that run, and counted ones."""
        self.running = 0
        self.newest = 0
        """The newest slot that is in use."""
        self._slots: dict[int, list[int]] = {}
        """Of each slot its requests and its tokens, the oldest first."""

    @property
    def idle(self) -> bool:
        """Whether it is as new, once :meth:`advance` was called."""
        return not self._slots and not self.running

    def advance(self, slot: int) -> None:
        """The slot of now is ``slot``: what is older than a minute leaves the window."""
        slots, first = self._slots, slot - SPAN
        while slots:
            oldest = next(iter(slots))
            if oldest >= first:
                return
            requests, tokens = slots.pop(oldest)
            self.requests -= requests
            self.tokens -= tokens

    def take(self, slot: int, tokens: int) -> None:
        """A request begins that may use so many tokens."""
        self.running += 1
        self._add(slot, 1, tokens)

    def correct(self, slot: int, taken_in: int, requests: int, tokens: int) -> None:
        """What a request took in the slot ``taken_in`` was wrong by so many. What it used less it gives back there, if
        that is in the window still; what it used more counts from now on."""
        taken = self._slots.get(taken_in)
        if taken is not None:
            less = min(tokens, 0)
            taken[0] += requests
            taken[1] += less
            self.requests += requests
            self.tokens += less
        if tokens > 0:
            self._add(slot, 0, tokens)

    def _add(self, slot: int, requests: int, tokens: int) -> None:
        used = self._slots.get(slot)
        if used is None:
            self._slots[slot] = [requests, tokens]
            self.newest = slot
        else:
            used[0] += requests
            used[1] += tokens
        self.requests += requests
        self.tokens += tokens

    def slot_with_room(self, requests: int, tokens: int) -> int:
        """The first slot that leaves this many requests and tokens in the window at most, once it is out of it."""
        left_requests, left_tokens = self.requests, self.tokens
        last = self.newest
        for slot, (some_requests, some_tokens) in self._slots.items():
            if left_requests <= requests and left_tokens <= tokens:
                break
            left_requests -= some_requests
            left_tokens -= some_tokens
            last = slot
        return last


def seconds_until_out(slot: int, now: float) -> float:
    """Seconds until ``slot`` is out of the window."""
    return (slot + SPAN + 1) * SLOT - now
