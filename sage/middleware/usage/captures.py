"""Prompts and answers of teams that have switched this on: gathered while a call runs, redacted and kept by a thread.

Nothing is kept of a team that has not, and nothing that its expressions could not be applied to.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import and_, delete, select

from sage.errors import SageError
from sage.middleware.database.database import Database
from sage.middleware.settings.capture import CaptureSettings
from sage.middleware.usage.captured_call import CapturedCall
from sage.middleware.usage.entries import Identities, time_of
from sage.middleware.usage.models import captures
from sage.middleware.usage.redaction import redacted

_MOST_KEPT = 64 * 1024
"""Characters of each that are kept, cut after redaction: half of a secret is not left at the end."""
_MOST_WAITING = 500
_TRIMS_EVERY = 60.0
_log = logging.getLogger("sage")


class Captures:
    """Keeps what it is given, on a thread of its own that starts with the first. Reading and erasing block."""

    def __init__(self, open_database: Callable[[], Database]) -> None:
        self._open = open_database
        self.settings: Mapping[str, CaptureSettings] = {}
        """Of the teams that have switched it on, by their names. Read on the event loop for each call."""
        self.lost = 0
        """Calls whose texts were not kept, since redaction or the database failed, or too many came at once."""
        self._waiting: deque[CapturedCall] = deque()
        self._identities = Identities()
        self._wake = threading.Condition()
        self._busy = False
        self._thread: threading.Thread | None = None
        self._trimmed_at = 0.0

    def keep(self, call: CapturedCall) -> None:
        """Hands a call over; never waits."""
        with self._wake:
            if len(self._waiting) >= _MOST_WAITING:
                self.lost += 1
                return
            self._waiting.append(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="usage-captures", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def finish(self, within: float = 2.0) -> None:
        """Returns once all is kept that was handed over, or after some seconds."""
        with self._wake:
            self._wake.wait_for(lambda: not self._waiting and not self._busy, within)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._busy = False
                self._wake.notify_all()
                self._wake.wait_for(lambda: self._waiting, 60.0)
                batch, self._busy = list(self._waiting), True
                self._waiting.clear()
            try:
                self._keep(batch)
                self._trim()
            except SageError as exc:
                self.lost += len(batch)
                _log.error("prompts and answers cannot be kept: %s", exc.message)
            except Exception:
                self.lost += len(batch)
                _log.exception("prompts and answers cannot be kept")

    def _keep(self, batch: Sequence[CapturedCall]) -> None:
        rows = []
        for call in batch:
            texts = redacted(call.settings.redact, [call.prompt, call.answer()])
            if texts is None:
                self.lost += 1
                _log.error("a call of the team '%s' is not kept: its expressions took too long", call.tenant)
                continue
            prompt, answer = (text[:_MOST_KEPT].replace("\0", "\ufffd") for text in texts)
            now = time.time()
            rows.append(
                {
                    **{"id": self._identities.next(now), "request_id": call.request_id.decode("ascii", "replace")},
                    **{"tenant": call.tenant, "user": call.user, "model": call.model, "prompt": prompt},
                    **{"answer": answer, "expires_at": int(now + call.settings.days * 86400)},
                }
            )
        if rows:
            with self._open().writing(alone=False) as connection:
                connection.execute(captures.insert(), rows)

    def _trim(self) -> None:
        if time.monotonic() - self._trimmed_at > _TRIMS_EVERY:
            self._trimmed_at = time.monotonic()
            with self._open().writing(alone=False) as connection:
                connection.execute(delete(captures).where(captures.c.expires_at <= int(time.time())))

    def find(self, request_id: str, tenant: str | None) -> list[dict[str, Any]]:
        """What is kept of the requests with that id: of any team, or of ``tenant`` only."""
        conditions = [captures.c.request_id == request_id, captures.c.expires_at > int(time.time())]
        if tenant is not None:
            conditions.append(captures.c.tenant == tenant)
        names = ("id", "request_id", "tenant", "user", "model", "prompt", "answer", "expires_at")
        columns = [captures.c[name] for name in names]
        with self._open().reading() as connection:
            found = connection.execute(
                select(*columns).where(and_(*conditions)).order_by(captures.c.id).limit(100)
            ).all()
        return [{"id": row[1], "time": time_of(row[0]), **dict(zip(names[2:], row[2:], strict=True))} for row in found]

    def erase(self, user: str, tenant: str | None) -> int:
        """Deletes what is kept of ``user``; returns of how many calls."""
        conditions = [captures.c.user == user] + ([] if tenant is None else [captures.c.tenant == tenant])
        with self._open().writing(alone=False) as connection:
            return connection.execute(delete(captures).where(and_(*conditions))).rowcount
