"""The refusal of a call that is over a limit, and the headers that tell a caller how much is left of its limits.

The headers are those of https://platform.openai.com/docs/guides/rate-limits, of the subject that has the least left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple, Protocol

from sage.errors import RateLimited
from sage.middleware.settings.limits import SubjectLimits

Headers = list[tuple[bytes, bytes]]
RESET = b"1m0.5s"
"""When the window of a subject that has made a request now is empty, if no more come: see ``subject_use.SPAN``."""


UNBOUNDED = 1 << 62
"""Stands for a bound that is not there."""

Bounds = tuple[int, int, int]
"""The requests and the tokens in a minute, and the requests at one time, that a subject may have."""

Left = tuple[int, int, int, int]
"""The limit of requests of the subject that has the fewest left, and these; the same of tokens. :data:`UNBOUNDED` where
nothing bounds them."""


def bounds_of(limits: SubjectLimits) -> Bounds:
    """The numbers of ``limits``."""
    each = limits.limits
    rpm, tpm, concurrent = (UNBOUNDED if bound is None else bound for bound in (each.rpm, each.tpm, each.concurrent))
    return rpm, tpm, concurrent


class LimitKind(StrEnum):
    """What a limit bounds."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENT = "concurrent"


class Standing(NamedTuple):
    """What a subject has used."""

    requests: int
    tokens: int
    running: int
    reset: float
    """Seconds until the window is empty if no more requests come."""


class OverLimit(RateLimited):
    """A call that a limit does not allow now (429). Nothing was taken for it."""

    default_code = "rate_limit_exceeded"

    def __init__(
        self, message: str, *, subject: str, kind: LimitKind, retry_after: float, headers: Sequence[tuple[bytes, bytes]]
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.subject = subject
        """The kind of the subject: ``key``, ``user``, ``tenant`` or ``model``."""
        self.kind = kind
        self.headers = tuple(headers)


class Excess(NamedTuple):
    """Which limit a call is over, and how long it is so."""

    limits: SubjectLimits
    kind: LimitKind
    wait: float
    """Seconds."""
    standing: Standing


def refuse(excess: Excess, tokens: int, limits: Sequence[SubjectLimits], standings: Sequence[Standing]) -> OverLimit:
    """The error that says which limit of whom a call of ``tokens`` tokens is over, and when to try again."""
    kind, _, name = excess.limits.subject.partition(":")
    who, bounds, used = f"{kind} '{name}'", excess.limits.limits, excess.standing
    wait = max(0.001, excess.wait)
    when = f"try again in {wait:.1f} s"
    if excess.kind is LimitKind.CONCURRENT:
        message = f"{who} has {used.running} requests running, of {bounds.concurrent} at one time; try again soon"
    elif excess.kind is LimitKind.REQUESTS:
        message = f"{who} has made {used.requests} requests in 60 seconds, of {bounds.rpm}; {when}"
    elif bounds.tpm is not None and tokens > bounds.tpm:
        message = (
            f"this request has about {tokens} tokens, and {who} may use {bounds.tpm} in 60 seconds: shorten it, since "
            "waiting does not help"
        )
    else:
        message = (
            f"{who} has used {used.tokens} tokens in 60 seconds, of {bounds.tpm}, and this request may use {tokens}; "
            f"{when}"
        )
    headers = make_headers(least_left(map(bounds_of, limits), standings), duration(used.reset))
    return OverLimit(f"rate limit: {message}", subject=kind, kind=excess.kind, retry_after=wait, headers=headers)


class Used(Protocol):
    """What a subject has used."""

    @property
    def requests(self) -> int: ...

    @property
    def tokens(self) -> int: ...


def least_left(bounds: Iterable[Bounds], used: Iterable[Used]) -> Left:
    """What is left of the limits of all subjects together, of which ``used`` is used."""
    rpm = tpm = requests = tokens = UNBOUNDED
    for (most_requests, most_tokens, _), use in zip(bounds, used, strict=True):
        if most_requests - use.requests < requests:
            rpm, requests = most_requests, most_requests - use.requests
        if most_tokens - use.tokens < tokens:
            tpm, tokens = most_tokens, most_tokens - use.tokens
    return rpm, max(requests, 0), tpm, max(tokens, 0)


def make_headers(left: Left, reset: bytes) -> Headers:
    """``x-ratelimit-…`` of what is left. ``reset``: when the window is empty if no more requests come."""
    rpm, requests, tpm, tokens = left
    of_requests, of_tokens = _constant_headers(rpm, tpm, reset)
    if not of_tokens:
        return [*of_requests, (b"x-ratelimit-remaining-requests", b"%d" % requests)] if of_requests else []
    remaining_tokens = b"x-ratelimit-remaining-tokens", b"%d" % tokens
    if not of_requests:
        return [*of_tokens, remaining_tokens]
    return [*of_requests, (b"x-ratelimit-remaining-requests", b"%d" % requests), *of_tokens, remaining_tokens]


@lru_cache(1024)
def _constant_headers(rpm: int, tpm: int, reset: bytes) -> tuple[Headers, Headers]:
    """Those of requests and of tokens that say what their limits are."""
    of_requests = [(b"x-ratelimit-limit-requests", b"%d" % rpm), (b"x-ratelimit-reset-requests", reset)]
    of_tokens = [(b"x-ratelimit-limit-tokens", b"%d" % tpm), (b"x-ratelimit-reset-tokens", reset)]
    return of_requests if rpm != UNBOUNDED else [], of_tokens if tpm != UNBOUNDED else []


def duration(seconds: float) -> bytes:
    """As OpenAI writes it: ``12ms``, ``1s``, ``6m0s``."""
    if seconds < 1:
        return b"%dms" % max(0, round(seconds * 1000))
    minutes, rest = divmod(round(seconds, 2), 60)
    text = f"{rest:.2f}".rstrip("0").rstrip(".")
    return f"{int(minutes)}m{text}s".encode() if minutes else f"{text}s".encode()
