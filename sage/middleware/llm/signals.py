"""Ctrl-C and SIGTERM, while a service serves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class StopSignals:
    """Calls ``stop`` first, then does what the signal would have done before. Signals are the main thread's: on others
    nothing is changed."""

    def __init__(self, stop: Callable[[], object]) -> None:
        self._stop = stop
        self._previous: dict[int, Any] = {}

    def watch(self) -> None:
        """SIGTERM only where it would kill the process: a program that handles it itself goes on to do so."""
        if threading.current_thread() is threading.main_thread():
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._on_signal)
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._on_signal)

    def unwatch(self) -> None:
        """Does not touch a handler that was set meanwhile."""
        if self._previous and threading.current_thread() is threading.main_thread():
            for number, handler in self._previous.items():
                if signal.getsignal(number) == self._on_signal:
                    signal.signal(number, handler)
            self._previous.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous.get(number)
        self._stop()
        if not threading.main_thread().is_alive():
            return  # the program has ended, and waited only for the service
        if callable(previous):  # asyncio's cancels the main task, Python's raises KeyboardInterrupt
            previous(number, frame)
        elif number == signal.SIGTERM:
            raise SystemExit(128 + number)
        else:
            raise KeyboardInterrupt
