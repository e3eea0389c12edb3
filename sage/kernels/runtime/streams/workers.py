"""Workers: each runs the function of one stage of a pipeline on batches of records."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from sage.errors import InvalidRequest
from sage.kernels.runtime.services.callers import Callers
from sage.kernels.runtime.streams.collecting import Collector
from sage.kernels.runtime.streams.shared_instances import SharedInstances
from sage.kernels.runtime.streams.stage_function import FunctionKind, StageFunction, is_async

_SLICE = 0.002


class Failure:
    """The outcome of a record whose function raised ``error``."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


Outcome = Any
"""The result of the function for one record (always a list for a flatmap), or a :class:`Failure`."""


class Worker(Protocol):
    """Runs one :class:`StageFunction`. One thread uses it, from start to stop."""

    def start(self, callers: Callers) -> None:
        """Makes the function, gives it ``callers`` and calls its ``setup``. Raises what these raise."""

    def process(self, batch: list[Any]) -> list[Outcome]:
        """The outcomes of the first records of ``batch``, in order, at least one; the caller passes the others again.

        It never raises an error of a record. A worker that died and was replaced repeats its records itself.
        """

    def stop(self) -> None:
        """Calls the function's ``cleanup``, also when the start failed."""


class LocalWorker:
    """Runs the function on the thread of its caller. It returns what is done after ``slice_seconds``, so that a slow
    record does not hold back the results of those before it."""

    def __init__(
        self, function: StageFunction, shared: SharedInstances | None = None, slice_seconds: float = _SLICE
    ) -> None:
        self._function = function
        self._slice_seconds = slice_seconds
        self._shared = shared or SharedInstances()
        self._instance: Any = None
        self._is_acquired = False
        self._run: Callable[[Any], Any] = lambda record: record
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, callers: Callers) -> None:
        self._instance = self._function.make()
        if hasattr(self._instance, "_stage"):
            self._instance._stage = self._function.name
        self._is_acquired = True
        self._shared.acquire(self._instance, callers)
        run = self._function.bind(self._instance)
        if is_async(run):
            run = self._on_loop(run)
        kind, name = self._function.kind, self._function.name
        if kind is FunctionKind.FLATMAP and hasattr(self._instance, "_collector"):
            self._instance._collector = self._instance._collector or Collector()
            self._run = _collecting(_giving_lists(run, name), self._instance)
        elif kind in (FunctionKind.FLATMAP, FunctionKind.JOIN):
            self._run = _giving_lists(run, name)
        else:
            self._run = _giving_keys(run, name) if kind is FunctionKind.KEY else run

    def _on_loop(self, run: Callable[[Any], Any]) -> Callable[[Any], Any]:
        self._loop = loop = asyncio.new_event_loop()
        return lambda record: loop.run_until_complete(run(record))

    def process(self, batch: list[Any]) -> list[Outcome]:
        run, outcomes, clock = self._run, [], time.perf_counter
        end = clock() + self._slice_seconds
        for record in batch:
            try:
                outcomes.append(run(record))
            except Exception as exc:
                outcomes.append(Failure(exc))
            except BaseException as exc:  # the stage's task decides, before another record is processed
                outcomes.append(Failure(exc))
                break
            if clock() >= end:
                break
        return outcomes

    def stop(self) -> None:
        try:
            if self._is_acquired:
                self._is_acquired = False
                self._shared.release(self._instance)
        finally:
            if self._loop is not None:
                self._loop.close()


def _collecting(run: Callable[[Any], list[Any]], function: Any) -> Callable[[Any], list[Any]]:
    """``run``, and then what ``function`` has put into its collector. That is looked up for each record: another worker
    that shares the function may have given it a new one during the start."""

    def records_of(record: Any) -> list[Any]:
        collector: Collector = function._collector
        collector.start()
        try:
            returned = run(record)
        finally:
            collected = collector.take()
        return returned + collected

    return records_of


def _giving_lists(run: Callable[[Any], Any], name: str) -> Callable[[Any], list[Any]]:
    def records_of(record: Any) -> list[Any]:
        result = run(record)
        if result is None:
            return []
        if isinstance(result, str | bytes | Mapping):
            raise InvalidRequest(f"{name}: its function must give many records (a list, a generator), not {result!r}")
        return list(result)

    return records_of


def _giving_keys(run: Callable[[Any], Any], name: str) -> Callable[[Any], Any]:
    def key_of(record: Any) -> Any:
        key = run(record)
        try:
            hash(key)
        except TypeError:
            raise InvalidRequest(f"{name}: a key must be hashable (a text, a number, a tuple), not {key!r}") from None
        return key

    return key_of
