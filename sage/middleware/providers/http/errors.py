"""What can go wrong between a request to an upstream and its answer, in the words of every client."""

from __future__ import annotations

import os
import ssl

from sage.errors import DeadlineExceeded, Unavailable, UpstreamFailed
from sage.middleware.providers.base import UpstreamRequest

MAX_HEAD_LINE = 64 * 1024
"""Bytes of the status line, and of each header, of an answer."""
MAX_HEADERS = 512
MAX_HEAD = 256 * 1024
"""Bytes of a whole head, with the interim answers (1xx) before it."""


def who(request: UpstreamRequest) -> str:
    return f"the provider '{request.provider}'"


def shutting_down() -> Unavailable:
    return Unavailable("the gateway is shutting down; try again soon", code="shutting_down")


def total_timeout(request: UpstreamRequest) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{who(request)} took longer than {request.timeouts.total:g} s in all", code="total_timeout"
    )


def connect_timeout(request: UpstreamRequest) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{who(request)} took no connection within {request.timeouts.connect:g} s", code="connect_timeout"
    )


def read_timeout(request: UpstreamRequest) -> DeadlineExceeded:
    limits = request.timeouts
    return DeadlineExceeded(
        f"{who(request)} was silent for too long (first byte {limits.first_byte:g} s, "
        f"then {limits.between_chunks:g} s between chunks)",
        code="read_timeout",
    )


def unreachable(request: UpstreamRequest, where: str, exc: OSError | None, *, no_such_host: bool) -> UpstreamFailed:
    """No connection to ``where``, since ``exc`` was raised."""
    why = ": there is no such host" if no_such_host else "" if exc is None else _why(exc)
    return UpstreamFailed(f"{who(request)} cannot be reached at {where}{why}", code="connect_failed")


def _why(exc: OSError) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f": its certificate is not accepted ({exc})"
    if isinstance(exc, ssl.SSLError):  # its number is none of the system's
        return f": it does not speak TLS as we do ({exc.reason or 'no reason is known'})"
    return f": {os.strerror(exc.errno)}" if exc.errno else ""


def closed_as_used(request: UpstreamRequest) -> UpstreamFailed:
    return UpstreamFailed(f"{who(request)} closed a kept connection as it was used", code="upstream_closed")


def broken(request: UpstreamRequest, what: str) -> UpstreamFailed:
    return UpstreamFailed(f"{who(request)} {what}", code="upstream_broken")


def nonsense(request: UpstreamRequest) -> UpstreamFailed:
    return UpstreamFailed(f"{who(request)} answered with something that is not HTTP/1.1", code="upstream_nonsense")


def head_too_large(request: UpstreamRequest, what: str) -> UpstreamFailed:
    """``what`` is too much: ``more than 512 headers``. The head itself is never quoted."""
    return UpstreamFailed(f"{who(request)} answered with {what}", code="upstream_head_too_large")


def unreadable_encoding(request: UpstreamRequest, fault: object) -> UpstreamFailed:
    return UpstreamFailed(f"{who(request)}: {fault}", code="upstream_encoding")


def too_large(request: UpstreamRequest, most: int) -> UpstreamFailed:
    return UpstreamFailed(f"{who(request)} sent more than {most} bytes")
