"""The access log: one line for each request, written by a thread, so that a slow pipe delays no request.

A terminal gets lines for people, everything else JSON for programs.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, TextIO

import orjson

_MAX_WAITING = 10_000  # lines
_INTERVAL = 0.1  # seconds
_FOR_PROGRAMS = ("tenant", "credential")
"""What a line for people leaves out."""
_LONGEST = 512
"""Characters of one value: what a client sends as a name may be megabytes long."""
_WHOLE = 4096
"""Bytes that a pipe takes at once (POSIX, ``PIPE_BUF``): lines of several processes do not mix."""


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
        waiting = self._waiting
        if not waiting:  # else the thread is awake, or about to be
            waiting.append(line)
            self._wake.set()
        elif len(waiting) < _MAX_WAITING:
            waiting.append(line)
        else:
            self._dropped += 1

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
        stream = self._stream or sys.stderr
        try:
            for piece in _pieces(b"".join(map(_readable_bytes if stream.isatty() else _json, lines))):
                _write(stream, piece)
        except (OSError, ValueError):
            pass  # the log cannot be written; the gateway goes on


def _pieces(lines: bytes) -> Iterator[bytes]:
    """As many whole lines at a time as a pipe takes at once."""
    begin = 0
    while begin < len(lines):
        end = lines.rfind(b"\n", begin, begin + _WHOLE) + 1 or lines.index(b"\n", begin) + 1
        yield lines[begin:end]
        begin = end


def _write(stream: TextIO, piece: bytes) -> None:
    binary = getattr(stream, "buffer", None)
    if binary is None:  # a stream in memory
        stream.write(piece.decode())
    else:
        binary.write(piece)
    stream.flush()


def readable(line: dict[str, Any]) -> str:
    """``14:03:27  200    812 ms  POST /generate  me  model=bench deployment=openai/gpt-4o-mini``, ended by a line end.

    What a client wrote cannot move the cursor: control characters are shown as U+FFFD.
    """
    facts = dict(line)
    moment = time.strftime("%H:%M:%S", time.localtime(facts.pop("time")))
    parts = [moment]
    if "status" in facts:
        status, duration = facts.pop("status"), facts.pop("ms", 0.0)
        parts += [f"{status:3}", f"{duration:6.0f} ms", f"{facts.pop('method', '')} {facts.pop('path', '')}".strip()]
        if status < 500:
            facts.pop("request_id", None)  # people look for it when the gateway or an upstream failed
    if user := facts.pop("user", ""):
        parts.append(str(user))
    for name in _FOR_PROGRAMS:
        facts.pop(name, None)
    parts.append(" ".join(f"{name}={value}" for name, value in facts.items()))
    text = "  ".join(filter(None, parts))
    return "".join(char if char.isprintable() else "\ufffd" for char in text) + "\n"


def _readable_bytes(line: dict[str, Any]) -> bytes:
    return readable(_shortened(line)).encode("utf-8", "replace")


def _json(line: dict[str, Any]) -> bytes:
    text = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    if len(text) > _LONGEST:
        text = orjson.dumps(_shortened(line), option=orjson.OPT_APPEND_NEWLINE)
    return text


def _shortened(line: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value[:_LONGEST] + "…" if isinstance(value, str) and len(value) > _LONGEST else value
        for name, value in line.items()
    }
