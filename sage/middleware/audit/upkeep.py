"""What the audit does beside requests: it writes failed logins, and once a day the head of its chain elsewhere."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from sage.errors import SageError
from sage.middleware.audit.anchors import anchor_line, write_anchor
from sage.middleware.audit.log import AuditLog
from sage.middleware.audit.login_failures import LoginFailures

_DAY = 86400.0
_SECOND = 1.0


class AuditUpkeep:
    """Keeps the audit of a gateway. Belongs to one event loop; ``at_start`` is called once, on a thread."""

    def __init__(
        self,
        log: AuditLog,
        failures: LoginFailures | None,
        anchors: Path | None,
        at_start: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._log = log
        self._failures = failures
        self._anchors = anchors
        self._at_start = at_start
        self._clock = clock
        self._anchored = 0

    async def run(self) -> None:
        """Runs until it is cancelled; then writes what is left."""
        await self._guarded(self._at_start)
        due = self._clock()
        try:
            while True:
                if self._failures is not None and self._failures.is_due:
                    await self._guarded(self._failures.flush)
                if self._clock() >= due:
                    due = self._clock() + _DAY
                    await self._guarded(self.anchor)
                await asyncio.sleep(_SECOND)
        finally:
            if self._failures is not None:
                self._failures.flush(everything=True)

    def close(self) -> None:
        """Closes the log."""
        self._log.close()

    def anchor(self) -> None:
        """Writes the head of the chain to the log, and to the file of anchors; nothing where there is no new event."""
        seq, digest = self._log.head()
        if seq == self._anchored:
            return
        line = anchor_line(seq, digest, self._clock())
        logging.getLogger("sage").info("audit: %s", line)
        if self._anchors is not None:
            write_anchor(self._anchors, line)
        self._anchored = seq

    async def _guarded(self, work: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(work)
        except (SageError, OSError) as exc:
            logging.getLogger("sage").error("the audit cannot be kept now: %s", exc)
