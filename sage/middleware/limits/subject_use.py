"""What one subject has used in the last minute, and what it runs now."""

from __future__ import annotations

SLOT = 0.5
"""Seconds. Uses of one slot count together, and leave the window together."""
SPAN = 120
"""Slots in a minute. The slot of now counts beside them, so that a use counts for 60 to 60.5 seconds: never too short,
and 0.83 % too long at most."""
WINDOW = SPAN * SLOT


NEVER = 1 << 62
"""A slot that does not come."""


class SubjectUse:
    """Requests and tokens of the last minute in slots of half a second, and the requests that run.

    Slots without a use take no memory. Whoever reads or takes calls :meth:`advance` before, where :attr:`oldest` is
    older than a minute.
    """

    __slots__ = ("_last", "_slots", "newest", "oldest", "requests", "running", "tokens")

    def __init__(self) -> None:
        self.requests = 0
        """Of the window."""
        self.tokens = 0
        """Of the window: reserved ones of requests that run, and counted ones."""
        self.running = 0
        self.newest = -1
        """The newest slot that is in use."""
        self.oldest = NEVER
        """The oldest one."""
        self._slots: dict[int, list[int]] = {}
        """Of each slot its requests and its tokens, the oldest first."""
        self._last: list[int] = [0, 0]
        """Those of the newest slot."""

    @property
    def idle(self) -> bool:
        """Whether it is as new, once :meth:`advance` was called."""
        return not self._slots and not self.running

    def advance(self, slot: int) -> None:
        """The slot of now is ``slot``: what is older than a minute leaves the window."""
        slots, first = self._slots, slot - SPAN
        for oldest in list(slots):
            if oldest >= first:
                self.oldest = oldest
                return
            requests, tokens = slots.pop(oldest)
            self.requests -= requests
            self.tokens -= tokens
        self.oldest = NEVER

    def take(self, slot: int, tokens: int) -> None:
        """A request begins that may use so many tokens."""
        self.running += 1
        self.requests += 1
        self.tokens += tokens
        last = self._last if slot == self.newest else self._open(slot)
        last[0] += 1
        last[1] += tokens

    def _open(self, slot: int) -> list[int]:
        """The counts of ``slot``, which is the newest."""
        last = self._slots.get(slot)
        if last is None:
            last = self._slots[slot] = [0, 0]
            if self.oldest == NEVER:
                self.oldest = slot
        self.newest, self._last = slot, last
        return last

    def give_back(self, taken_in: int, requests: int, tokens: int) -> None:
        """A request that took in the slot ``taken_in`` took so many too many. Where that slot has left the window,
        nothing changes."""
        taken = self._slots.get(taken_in)
        if taken is not None:
            taken[0] -= requests
            taken[1] -= tokens
            self.requests -= requests
            self.tokens -= tokens

    def charge(self, slot: int, tokens: int) -> None:
        """So many tokens more than were taken count from now on."""
        self._open(slot)[1] += tokens
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
