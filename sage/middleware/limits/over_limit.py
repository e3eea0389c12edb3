"""The refusal of a call that is over a limit, and the headers that tell a caller how much is left of its limits.

The headers are those of https://platform.openai.com/docs/guides/rate-limits, of the subject that has the least left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from sage.errors import RateLimited
from sage.middleware.settings.limits import SubjectLimits

Headers = list[tuple[bytes, bytes]]


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


def refuse(excess: Excess, tokens: int, headers: Headers) -> OverLimit:
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
    return OverLimit(f"rate limit: {message}", subject=kind, kind=excess.kind, retry_after=wait, headers=headers)


def make_headers(limits: Iterable[SubjectLimits], standings: Iterable[Standing]) -> Headers:
    """``x-ratelimit-…`` of the subjects that have the least left of their requests and of their tokens."""
    requests: tuple[int, int, float] | None = None
    tokens: tuple[int, int, float] | None = None
    for each, used in zip(limits, standings, strict=True):
        rpm, tpm = each.limits.rpm, each.limits.tpm
        if rpm is not None and (requests is None or rpm - used.requests < requests[0]):
            requests = (rpm - used.requests, rpm, used.reset)
        if tpm is not None and (tokens is None or tpm - used.tokens < tokens[0]):
            tokens = (tpm - used.tokens, tpm, used.reset)
    headers: Headers = []
    for kind, least in ((b"requests", requests), (b"tokens", tokens)):
        if least is not None:
            left, limit, reset = least
            headers += (
                (b"x-ratelimit-limit-" + kind, b"%d" % limit),
                (b"x-ratelimit-remaining-" + kind, b"%d" % max(0, left)),
                (b"x-ratelimit-reset-" + kind, duration(reset)),
            )
    return headers


def duration(seconds: float) -> bytes:
    """As OpenAI writes it: ``12ms``, ``1s``, ``6m0s``."""
    if seconds < 1:
        return b"%dms" % max(0, round(seconds * 1000))
    minutes, rest = divmod(round(seconds, 2), 60)
    text = f"{rest:.2f}".rstrip("0").rstrip(".")
    return f"{int(minutes)}m{text}s".encode() if minutes else f"{text}s".encode()
