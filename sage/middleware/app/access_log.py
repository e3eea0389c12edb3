"""The access log: one line of JSON for each request, written by a thread, so that a slow pipe delays no request."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from typing import Any, TextIO

import orjson

_MAX_WAITING = 10_000  # lines
_INTERVAL = 0.1  # seconds


class AccessLog:
    """Lines wait in memory for a tenth of a second. When the thread cannot keep up, lines are dropped and counted."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._waiting: deque[dict[str, Any]] = deque()
        self._dropped = 0
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def write(self, line: dict[str, Any]) -> None:
        """Queues the line of one request; never blocks."""
        if len(self._waiting) >= _MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append(line)
        if not self._wake.is_set():
            self._wake.set()

    def stop(self) -> None:
        """Writes the lines that wait, and ends the thread."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(2.0)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait()
            time.sleep(0.0 if self._stopping else _INTERVAL)
            self._wake.clear()
            self._flush()
        self._flush()

    def _flush(self) -> None:
        lines = []
        while self._waiting:
            lines.append(self._waiting.popleft())
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            lines.append({"time": time.time(), "event": "access_log_dropped", "lines": dropped})
        if not lines:
            return
        text = b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)
        stream = self._stream or sys.stderr
        try:
            stream.write(text.decode())
            stream.flush()
        except (OSError, ValueError):
            pass  # the log cannot be written; the gateway goes on
