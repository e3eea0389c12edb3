"""What a call has met on its way beside one good answer: waits, loads, new connections, attempts that failed.

Most calls meet nothing of it, and then nothing is written down. Times are those of ``time.monotonic``, which is the
clock of ``time.perf_counter``, too.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from sage.errors import SageError

_CLIENT_LEFT = 499


class StepKind(StrEnum):
    """What happened."""

    QUEUE = "queue"
    """It waited for a deployment that was full or cooling down."""
    LOAD = "load"
    """It waited until the model was loaded or awake."""
    CONNECT = "connect"
    """A connection was opened, within the attempt that follows."""
    ATTEMPT = "attempt"
    """An attempt that gave no answer, or whose stream broke."""
    PAUSE = "pause"
    """It waited before the next attempt."""
    REFUSED = "refused"
    """No deployment could be asked."""


class CallStep(NamedTuple):
    """One of them. ``status`` and ``code`` are those of the error, as a caller would see it; its text is not kept,
    since it may repeat a part of the prompt."""

    kind: StepKind
    begin: float
    end: float
    deployment: str = ""
    status: int = 0
    code: str = ""


class OpenedConnection(NamedTuple):
    """A connection that a request has opened. Without times it is not known how long that took."""

    begin: float | None
    end: float | None
    sent_again: bool
    """Whether the request was sent before, over another, which broke."""


def fault_of(error: BaseException) -> tuple[int, str]:
    """The status and the code of what has ended an attempt."""
    if isinstance(error, SageError):
        return error.status, error.code
    return (500, "internal_error") if isinstance(error, Exception) else (_CLIENT_LEFT, "client_left")
