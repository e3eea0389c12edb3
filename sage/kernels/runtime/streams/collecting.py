"""Records that are kept in lists: what a function hands over beside its result, and what a program asks for."""

from __future__ import annotations

import threading
from typing import Any

from sage.kernels.runtime.services.callers import Callers


class Collector:
    """Takes records while a function runs, on each thread apart: workers of a stage may share the function."""

    def __init__(self) -> None:
        self._by_thread: dict[int, list[Any]] = {}

    def start(self) -> None:
        self._by_thread[threading.get_ident()] = []

    def add(self, record: Any) -> bool:
        """``False`` means that no function runs on this thread."""
        records = self._by_thread.get(threading.get_ident())
        if records is None:
            return False
        records.append(record)
        return True

    def take(self) -> list[Any]:
        """What was added on this thread since the start."""
        return self._by_thread.pop(threading.get_ident(), [])


class CollectingWorker:
    """Meets :class:`sage.kernels.runtime.streams.workers.Worker`: appends each record to ``records``, a list of this
    process, wherever the functions run."""

    def __init__(self, records: list[Any]) -> None:
        self._records = records

    def start(self, callers: Callers) -> None:
        pass

    def process(self, batch: list[Any]) -> list[Any]:
        self._records += batch
        return batch

    def stop(self) -> None:
        pass
