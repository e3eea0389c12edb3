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

    Slots without a use take no memory. Whoever reads calls :meth:`advance` before, whoever adds :meth:`enter`, where
    :attr:`newest` is not the slot of now.
    """

    __slots__ = ("_older", "_older_requests", "_older_tokens", "newest", "oldest", "requests", "running", "tokens")

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
        self._older: dict[int, list[int]] = {}
        """Of each slot before the newest its requests and its tokens, the oldest first. The newest has the rest."""
        self._older_requests = 0
        self._older_tokens = 0

    @property
    def idle(self) -> bool:
        """Whether it is as new, once :meth:`advance` was called."""
        return self.oldest == NEVER and not self.running

    def advance(self, slot: int) -> None:
        """The slot of now is ``slot``: what is older than a minute leaves the window."""
        older, first = self._older, slot - SPAN
        for oldest in list(older):
            if oldest >= first:
                self.oldest = oldest
                return
            requests, tokens = older.pop(oldest)
            self.requests -= requests
            self.tokens -= tokens
            self._older_requests -= requests
            self._older_tokens -= tokens
        if self.oldest != NEVER and self.newest >= first:
            self.oldest = self.newest
        else:
            self.newest, self.oldest = -1, NEVER
            self.requests = self.tokens = 0

    def open(self, slot: int) -> None:
        """From now on ``slot`` is the newest, and what is added to the window is of it."""
        if self.oldest == NEVER:
            self.oldest = slot
        else:
            self._older[self.newest] = [self.requests - self._older_requests, self.tokens - self._older_tokens]
            self._older_requests, self._older_tokens = self.requests, self.tokens
        self.newest = slot

    def enter(self, slot: int) -> None:
        """As :meth:`advance`, then :meth:`open`: what is added now is of ``slot``."""
        self.advance(slot)
        if self.newest != slot:
            self.open(slot)

    def leave_unused(self) -> None:
        """The newest slot is as if it had never been entered, where nothing was added to it."""
        if self.requests != self._older_requests or self.tokens != self._older_tokens:
            return
        if self._older:
            self.newest, (requests, tokens) = self._older.popitem()
            self._older_requests -= requests
            self._older_tokens -= tokens
        else:
            self.newest, self.oldest = -1, NEVER

    def give_back(self, taken_in: int, requests: int, tokens: int) -> None:
        """A request that took in the slot ``taken_in`` took so many too many. Where that slot has left the window,
        nothing changes."""
        if taken_in != self.newest:
            taken = self._older.get(taken_in)
            if taken is None:
                return
            taken[0] -= requests
            taken[1] -= tokens
            self._older_requests -= requests
            self._older_tokens -= tokens
        self.requests -= requests
        self.tokens -= tokens

    def slot_with_room(self, requests: int, tokens: int) -> int:
        """The first slot that leaves this many requests and tokens in the window at most, once it is out of it."""
        left_requests, left_tokens = self.requests, self.tokens
        last = self.newest
        for slot, (some_requests, some_tokens) in self._older.items():
            if left_requests <= requests and left_tokens <= tokens:
                return last
            left_requests -= some_requests
            left_tokens -= some_tokens
            last = slot
        return last if left_requests <= requests and left_tokens <= tokens else self.newest


def seconds_until_out(slot: int, now: float) -> float:
    """Seconds until ``slot`` is out of the window."""
    return (slot + SPAN + 1) * SLOT - now
