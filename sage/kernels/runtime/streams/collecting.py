"""A sink that keeps the records in this process, wherever the functions run."""

from __future__ import annotations

from typing import Any

from sage.kernels.runtime.services.callers import Callers


class CollectingWorker:
    """Meets :class:`sage.kernels.runtime.streams.workers.Worker`: appends each record to ``records``."""

    def __init__(self, records: list[Any]) -> None:
        self._records = records

    def start(self, callers: Callers) -> None:
        pass

    def process(self, batch: list[Any]) -> list[Any]:
        self._records += batch
        return batch

    def stop(self) -> None:
        pass
