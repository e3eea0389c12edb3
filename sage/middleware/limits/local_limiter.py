"""Limits that one process counts: exact, since everything happens at once on one event loop."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol

from sage.middleware.limits.over_limit import (
    RESET,
    Excess,
    Headers,
    LimitKind,
    OverLimit,
    Standing,
    make_headers,
    refuse,
)
from sage.middleware.limits.subject_use import SLOT, SPAN, WINDOW, SubjectUse, seconds_until_out
from sage.middleware.settings.limits import SubjectLimits

_CONCURRENT_WAIT = 1.0
"""Seconds after which a caller with too many requests at one time may try again: nobody knows when one ends."""
_SWEPT = 8
"""Subjects that are looked at, whether they are idle, whenever a new one comes."""


class Admitted:
    """What a call has taken from its limits. :meth:`settle` or :meth:`cancel` is called once."""

    __slots__ = ("_limiter", "_slot", "_subjects", "_uses", "tokens")

    def __init__(
        self, limiter: LocalLimiter, subjects: Sequence[SubjectLimits], uses: list[SubjectUse], slot: int, tokens: int
    ) -> None:
        self._limiter = limiter
        self._subjects = subjects
        self._uses = uses
        self._slot = slot
        self.tokens = tokens
        """Those that are reserved, of each subject."""

    @property
    def headers(self) -> Headers:
        """What the caller is told is left of its limits."""
        return make_headers(self._subjects, self._uses, RESET)

    def settle(self, tokens: int) -> None:
        """The call has ended and has used so many tokens."""
        self._give_back(0, self.tokens - tokens)

    def cancel(self) -> None:
        """The call was not made."""
        self._give_back(1, self.tokens)

    def _give_back(self, requests: int, tokens: int) -> None:
        """It took so many too many; a negative number means too few."""
        slot = self._slot
        for use in self._uses:
            use.running -= 1
            if requests or tokens > 0:
                use.give_back(slot, requests, tokens)
            elif tokens < 0:
                self._limiter.charge(use, -tokens)


class Limiter(Protocol):
    """What admits calls."""

    def admit(self, limits: Sequence[SubjectLimits], prompt: int, answer: int) -> Admitted | Awaitable[Admitted]:
        """Takes one request, and the tokens of its prompt and its answer, from all of ``limits`` or from none.

        Raises :class:`sage.middleware.limits.over_limit.OverLimit`.
        """
        ...

    @property
    def fault(self) -> str | None:
        """Why limits hold in this process alone, though the configuration says otherwise."""
        ...

    def begin(self) -> None:
        """The event loop runs."""
        ...

    async def close(self) -> None: ...


class LocalLimiter:
    """Limits of this process alone. What it remembers of subjects that have been idle for a minute goes."""

    fault: str | None = None

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._uses: dict[str, SubjectUse] = {}
        self._has_new = False

    def __len__(self) -> int:
        """How many subjects it remembers."""
        return len(self._uses)

    def begin(self) -> None:
        """It needs nothing."""

    async def close(self) -> None:
        """It has nothing."""

    def running(self) -> Iterator[tuple[str, int]]:
        """The subjects that run requests, each with their number."""
        return ((subject, use.running) for subject, use in self._uses.items() if use.running)

    def admit(self, limits: Sequence[SubjectLimits], prompt: int, answer: int) -> Admitted:
        """As :meth:`Limiter.admit`, at once."""
        now = self._clock()
        slot = int(now / SLOT)
        first, known, uses, is_over = slot - SPAN, self._uses, [], False
        tokens = prompt + answer and reserved(limits, prompt + answer)
        for each in limits:
            use = known.get(each.subject)
            if use is None:
                use = self._begin(each.subject)
            elif use.oldest < first:
                use.advance(slot)
            uses.append(use)
            bounds = each.limits
            rpm, tpm, concurrent = bounds.rpm, bounds.tpm, bounds.concurrent
            if (
                (rpm is not None and use.requests >= rpm)
                or (tpm is not None and (use.tokens + tokens > tpm or prompt > tpm))
                or (concurrent is not None and use.running >= concurrent)
            ):
                is_over = True
        if is_over:
            raise _refusal(limits, uses, now, prompt, tokens)
        return self._take(limits, uses, slot, tokens)

    def take(self, limits: Sequence[SubjectLimits], tokens: int) -> Admitted:
        """Counts a call that others have admitted."""
        slot = int(self._clock() / SLOT)
        uses = [self._uses.get(each.subject) or self._begin(each.subject) for each in limits]
        for use in uses:
            use.advance(slot)
        return self._take(limits, uses, slot, tokens)

    def _take(self, limits: Sequence[SubjectLimits], uses: list[SubjectUse], slot: int, tokens: int) -> Admitted:
        for use in uses:
            use.take(slot, tokens)
        if self._has_new:  # only now, since a new one is idle before
            self._has_new = False
            self._sweep(slot)
        return Admitted(self, limits, uses, slot, tokens)

    def charge(self, use: SubjectUse, tokens: int) -> None:
        """A call has used so many tokens more than it has taken."""
        slot = int(self._clock() / SLOT)
        use.advance(slot)
        use.charge(slot, tokens)

    def _begin(self, subject: str) -> SubjectUse:
        use = self._uses[subject] = SubjectUse()
        self._has_new = True
        return use

    def _sweep(self, slot: int) -> None:
        """Forgets some of the subjects that are idle."""
        uses = self._uses
        for subject in [subject for subject, _ in zip(uses, range(_SWEPT), strict=False)]:
            use = uses.pop(subject)
            use.advance(slot)
            if not use.idle:
                uses[subject] = use


def reserved(limits: Sequence[SubjectLimits], tokens: int) -> int:
    """The tokens to take for a call that may use so many: no more than the least of ``limits`` has in all, so that an
    answer with a generous bound can be asked for."""
    for each in limits:
        tpm = each.limits.tpm
        if tpm is not None and tpm < tokens:
            tokens = tpm
    return tokens


def _refusal(
    limits: Sequence[SubjectLimits], uses: Sequence[SubjectUse], now: float, prompt: int, tokens: int
) -> OverLimit:
    """Names the limit that the call is over for longest."""
    found = [_excess(each, use, now, prompt, tokens) for each, use in zip(limits, uses, strict=True)]
    longest = max((excess for excess in found if excess is not None), key=lambda excess: excess.wait)
    standings = [_standing(use, now) for use in uses]
    return refuse(longest, max(prompt, tokens), limits, standings)


def _standing(use: SubjectUse, now: float) -> Standing:
    reset = seconds_until_out(use.newest, now)
    return Standing(use.requests, use.tokens, use.running, max(0.0, reset))


def _excess(limits: SubjectLimits, use: SubjectUse, now: float, prompt: int, tokens: int) -> Excess | None:
    """The limit of this subject that the call is over for longest."""
    rpm, tpm, concurrent = limits.limits.rpm, limits.limits.tpm, limits.limits.concurrent
    kind, wait = None, 0.0
    if concurrent is not None and use.running >= concurrent:
        kind, wait = LimitKind.CONCURRENT, _CONCURRENT_WAIT
    if rpm is not None and use.requests >= rpm:
        slot = use.slot_with_room(rpm - 1, use.tokens)
        kind, wait = LimitKind.REQUESTS, seconds_until_out(slot, now)
    if tpm is not None and (use.tokens + tokens > tpm or prompt > tpm):
        slot = use.slot_with_room(use.requests, tpm - tokens)
        until = WINDOW if prompt > tpm else seconds_until_out(slot, now)
        if until > wait:
            kind, wait = LimitKind.TOKENS, until
    return Excess(limits, kind, wait, _standing(use, now)) if kind is not None else None
