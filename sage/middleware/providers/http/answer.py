"""One answer as it comes in: what is known of it, and the future that waits for more."""

from __future__ import annotations

import asyncio
from enum import Enum, auto

from sage.middleware.providers.base import Sink


class AnswerFault(Enum):
    """Why an answer has ended before its end."""

    UNANSWERED = auto()
    """The connection broke before any byte of an answer."""
    BROKEN = auto()
    NONSENSE = auto()
    LONG_LINE = auto()
    MANY_HEADERS = auto()
    LONG_HEAD = auto()
    TRANSFER_CODING = auto()
    """Its body is in another transfer coding than ``chunked``."""
    SILENT = auto()
    LATE = auto()
    """The time for all of it is over."""
    SHUT_DOWN = auto()


class HttpAnswer:
    """What a connection tells of one answer. The connection forgets it once it ``is_over``."""

    __slots__ = ("encoding", "ends", "fault", "head", "is_over", "rest", "silence", "sink", "status", "waiter")

    def __init__(self, ends: float, silence: float) -> None:
        self.status = 0
        """0 until its head has come."""
        self.head = b""
        """Its head, without the empty line."""
        self.encoding: str | None = None
        """``Content-Encoding``."""
        self.rest = b""
        """What is still unread of it once it is over."""
        self.is_over = False
        """Complete, or broken if there is a ``fault``; the connection is no longer its own."""
        self.fault: AnswerFault | None = None
        self.waiter: asyncio.Future[None] | None = None
        """Done as soon as its head, or more of it, has come, or it is over."""
        self.sink: Sink | None = None
        """What comes is given to it at once. The waiter is done when it takes no more, and is gone, or all is over."""
        self.ends = ends
        """When the time for all of it is over (the loop's time)."""
        self.silence = silence
        """The seconds without a byte after which it has failed."""

    def wake(self) -> None:
        """Whoever waits for more of it goes on."""
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)
