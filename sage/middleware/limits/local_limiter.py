"""Limits that one process counts: exact, since everything happens at once on one event loop."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol

from sage.middleware.limits.over_limit import (
    RESET,
    UNBOUNDED,
    Excess,
    Headers,
    Left,
    LimitKind,
    OverLimit,
    Standing,
    bounds_of,
    make_headers,
    refuse,
)
from sage.middleware.limits.subject_use import SLOT, WINDOW, SubjectUse, seconds_until_out
from sage.middleware.settings.limits import SubjectLimits

_CONCURRENT_WAIT = 1.0
"""Seconds after which a caller with too many requests at one time may try again: nobody knows when one ends."""
_UNUSED = Standing(0, 0, 0, 0.0)
_MOST_KNOWN = 4096
_SWEPT = 8
"""Subjects that are looked at, whether they are idle, whenever a new one comes."""


class BoundedSubjects:
    """The subjects whose limits a call meets, each with what it has used: looked up once for many calls."""

    __slots__ = ("_clock", "least_tpm", "limits", "rows", "uses")

    def __init__(
        self, limits: Sequence[SubjectLimits], uses: list[SubjectUse], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits
        self._clock = clock
        self.uses = uses
        self.rows = [(use, *bounds_of(each)) for use, each in zip(uses, limits, strict=True)]
        self.least_tpm = min((tpm for _, _, tpm, _ in self.rows), default=UNBOUNDED)
        """No more tokens than that are taken for a call, so that an answer with a generous bound can be asked for."""

    def charge(self, tokens: int) -> None:
        """A call has ended that used so many tokens more than it has taken."""
        slot = int(self._clock() / SLOT)
        for use in self.uses:
            use.running -= 1
            if use.newest != slot:
                use.enter(slot)
            use.tokens += tokens


class Admitted:
    """What a call has taken from its limits. :meth:`settle` or :meth:`cancel` is called once."""

    __slots__ = ("_left", "_slot", "_subjects", "tokens")

    def __init__(self, subjects: BoundedSubjects, slot: int, tokens: int, left: Left) -> None:
        self._subjects = subjects
        self._slot = slot
        self.tokens = tokens
        """Those that are reserved, of each subject."""
        self._left = left

    @property
    def headers(self) -> Headers:
        """What the caller is told is left of its limits, once this call has taken from them."""
        return make_headers(self._left, RESET)

    def settle(self, tokens: int) -> None:
        """The call has ended and has used so many tokens."""
        slot, excess = self._slot, self.tokens - tokens
        if excess < 0:
            self._subjects.charge(-excess)
            return
        for use in self._subjects.uses:
            use.running -= 1
            if use.newest == slot:
                use.tokens -= excess
            else:
                use.give_back(slot, 0, excess)

    def cancel(self) -> None:
        """The call was not made."""
        for use in self._subjects.uses:
            use.running -= 1
            use.give_back(self._slot, 1, self.tokens)


class Limiter(Protocol):
    """What admits calls."""

    def admit(self, limits: Sequence[SubjectLimits], prompt: int, answer: int) -> Admitted | Awaitable[Admitted]:
        """Takes one request, and the tokens of its prompt and its answer, from all of ``limits`` or from none.

        Raises :class:`sage.middleware.limits.over_limit.OverLimit`.
        """
        ...

    async def standings(self, subjects: Sequence[str]) -> list[Standing]:
        """What each of them has used in the last minute, and runs now."""
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
        self._known: dict[int, BoundedSubjects] = {}
        """By the identity of the limits, which are held, since to hash them takes longer than all the rest."""
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

    async def standings(self, subjects: Sequence[str]) -> list[Standing]:
        """As :meth:`Limiter.standings`."""
        now, found = self._clock(), []
        for subject in subjects:
            use = self._uses.get(subject)
            if use is None:
                found.append(_UNUSED)
                continue
            use.advance(int(now / SLOT))
            found.append(_standing(use, now))
        return found

    def admit(self, limits: Sequence[SubjectLimits], prompt: int, answer: int) -> Admitted:
        """As :meth:`Limiter.admit`, at once."""
        subjects = self._known.get(id(limits)) or self._look_up(limits)
        now = self._clock()
        slot, tokens, is_over = int(now / SLOT), prompt + answer, False
        if tokens > subjects.least_tpm:
            tokens = subjects.least_tpm
            is_over = prompt > tokens
        tightest_rpm = tightest_tpm = left_requests = left_tokens = UNBOUNDED
        for use, rpm, tpm, concurrent in subjects.rows:  # taken first: that none is over is by far the most frequent
            if use.newest != slot:
                use.enter(slot)
            use.running = number = use.running + 1
            if number > concurrent:
                is_over = True
            use.requests = number = use.requests + 1
            if rpm - number < left_requests:
                tightest_rpm, left_requests = rpm, rpm - number
            use.tokens = number = use.tokens + tokens
            if tpm - number < left_tokens:
                tightest_tpm, left_tokens = tpm, tpm - number
        if is_over or left_requests < 0 or left_tokens < 0:
            for use in subjects.uses:
                use.running -= 1
                use.requests -= 1
                use.tokens -= tokens
                use.leave_unused()
            raise _refusal(limits, subjects.uses, now, prompt, tokens)
        if self._has_new:  # only now, since a new one is idle before
            self._sweep(slot)
        return Admitted(subjects, slot, tokens, (tightest_rpm, left_requests, tightest_tpm, left_tokens))

    def take(self, limits: Sequence[SubjectLimits], tokens: int, left: Left) -> Admitted:
        """Counts a call that others have admitted, by whom so much is left."""
        slot = int(self._clock() / SLOT)
        subjects = self._known.get(id(limits)) or self._look_up(limits)
        for use in subjects.uses:
            if use.newest != slot:
                use.enter(slot)
            use.running += 1
            use.requests += 1
            use.tokens += tokens
        if self._has_new:
            self._sweep(slot)
        return Admitted(subjects, slot, tokens, left)

    def reserved(self, limits: Sequence[SubjectLimits], tokens: int) -> int:
        """The tokens that are taken for a call that may use so many."""
        return min(tokens, (self._known.get(id(limits)) or self._look_up(limits)).least_tpm)

    def _look_up(self, limits: Sequence[SubjectLimits]) -> BoundedSubjects:
        uses = [self._uses.get(each.subject) or self._begin(each.subject) for each in limits]
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        found = self._known[id(limits)] = BoundedSubjects(limits, uses, self._clock)
        return found

    def _begin(self, subject: str) -> SubjectUse:
        use = self._uses[subject] = SubjectUse()
        self._has_new = True
        return use

    def _sweep(self, slot: int) -> None:
        """Forgets some of the subjects that are idle."""
        self._has_new = False
        uses = self._uses
        for subject in [subject for subject, _ in zip(uses, range(_SWEPT), strict=False)]:
            use = uses.pop(subject)
            use.advance(slot)
            if use.idle:
                self._known.clear()
            else:
                uses[subject] = use


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
