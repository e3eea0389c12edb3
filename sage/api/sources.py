"""Sources of streams that need no vendor: iterables, and functions and objects that give records."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from sage.api.function.kinds import StopSignal
from sage.errors import InvalidRequest
from sage.kernels.runtime.services.callers import Callers
from sage.kernels.runtime.streams.shared_instances import SharedInstances
from sage.kernels.runtime.streams.source_task import SourceTask
from sage.kernels.runtime.streams.stage_function import method_name, why_not_callable

_CHUNK = 256
_CONTAINERS = (list, tuple, range, set, frozenset, dict)
"""Iterables that are read in chunks, since reading them neither blocks nor does anything else."""


class SourceOfJobs:
    """Gives each job its source, which ``make`` returns: an iterable, or an object or function that
    :func:`records_of` can read."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._read_to_its_end: Any = None
        """The iterator that a job has read to its end, if it was one."""

    def open(self) -> Any:
        """Raises :class:`InvalidRequest` for a generator that has ended already."""
        source = self._make()
        if (inspect.isgenerator(source) and source.gi_frame is None) or (
            inspect.isasyncgen(source) and source.ag_frame is None
        ):
            raise _is_spent(source)
        return source

    def end(self, source: Any, records: int) -> None:
        """``source`` was read to its end, and gave so many ``records``. Raises :class:`InvalidRequest` for an iterator
        that had none left, since another job had read them."""
        if isinstance(source, Iterator | AsyncIterator):
            if source is self._read_to_its_end and not records:
                raise _is_spent(source)
            self._read_to_its_end = source


def _is_spent(source: Any) -> InvalidRequest:
    return InvalidRequest(
        f"the source {source!r} was read to its end before, so that it has no more records; for several jobs give a "
        "list, or a function that returns a new iterator: from_source(function)"
    )


class IterableSource:
    """One reading of ``source``."""

    may_block = True

    def __init__(self, source: SourceOfJobs, shared: SharedInstances, delay: float = 0.0) -> None:
        """``delay``: seconds to wait after each record."""
        self._of_jobs = source
        self._shared = shared
        self._delay = delay
        self._source: Any = None
        self._is_acquired = False

    def open(self, callers: Callers) -> None:
        self._source = self._of_jobs.open()
        if _has_lifecycle(self._source):
            self._is_acquired = True
            self._shared.acquire(self._source, callers)

    def read(self, task: SourceTask) -> None:
        if isinstance(self._source, _CONTAINERS) and not self._delay:
            self._read_chunks(task)
            return
        stopping = threading.Event()
        task.on_stop(stopping.set)
        records, count = records_of(self._source), 0
        try:
            while not task.stopping:
                try:
                    record = next(records)
                except StopIteration:
                    self._of_jobs.end(self._source, count)
                    return
                count += 1
                task.put((record,))
                if self._delay:
                    stopping.wait(self._delay)
        finally:
            if (close := getattr(records, "close", None)) is not None:
                close()

    def _read_chunks(self, task: SourceTask) -> None:
        records = iter(self._source)
        while not task.stopping and (chunk := list(islice(records, _CHUNK))):
            task.put(chunk)

    def finish(self, task: SourceTask) -> None:
        pass

    def close(self) -> None:
        if self._is_acquired:
            self._is_acquired = False
            self._shared.release(self._source)

    def describe(self) -> dict[str, Any]:
        return {}


def _has_lifecycle(source: Any) -> bool:
    return hasattr(source, "_callers") or (hasattr(source, "setup") and hasattr(source, "cleanup"))


def records_of(source: Any) -> Iterator[Any]:
    """The records of a source:

    - of an object with ``run``, and of a function, what it returns;
    - of an object with ``process`` or ``execute``, what each call returns, until that is ``None`` or a
      :class:`StopSignal`;
    - of an object with ``get_data_iterator`` or ``get_data_source``, what it returns;
    - of anything else, what it iterates over.

    Raises :class:`InvalidRequest` when there is nothing to iterate.
    """
    if callable(run := getattr(source, "run", None)):
        return _iterate(run())
    if (name := method_name(source)) is not None:
        return _call_until_end(getattr(source, name))
    if (data := _data_method(source)) is not None:
        return _iterate(data())
    if not isinstance(source, Iterable | AsyncIterator) and callable(source):
        return _iterate(source())
    return _iterate(source)


def _data_method(source: Any) -> Callable[[], Any] | None:
    """The method that gives all records of a batch function of upstream SAGE. ``None`` means that it has none."""
    methods = (getattr(source, name, None) for name in ("get_data_iterator", "get_data_source"))
    return next((method for method in methods if callable(method)), None)


def _iterate(records: Any) -> Iterator[Any]:
    if hasattr(records, "__aiter__"):
        return _iterate_async(aiter(records))
    if isinstance(records, str | bytes | Mapping) or not isinstance(records, Iterable):
        raise InvalidRequest(f"a source must give many records (an iterator, a generator, a list), not {records!r}")
    return iter(records)


def _call_until_end(next_record: Callable[[], Any]) -> Iterator[Any]:
    while True:
        try:
            record = next_record()
        except StopIteration:
            return
        if record is None or isinstance(record, StopSignal):
            return
        yield record


def _iterate_async(records: AsyncIterator[Any]) -> Iterator[Any]:
    """Runs an asynchronous iterator on an event loop of its own."""
    with asyncio.Runner() as runner:

        async def next_record() -> Any:
            return await anext(records)

        try:
            while True:
                try:
                    record = runner.run(next_record())
                except StopAsyncIteration:
                    return
                yield record
        finally:
            if (close := getattr(records, "aclose", None)) is not None:
                runner.run(close())


def check_source(source: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
    """What makes the source of one job: an instance if ``source`` is a class, the result if it is a function with
    arguments, else ``source`` itself.

    Raises :class:`InvalidRequest` when that cannot be a source.
    """
    if isinstance(source, type) or (inspect.isroutine(source) and (args or kwargs)):
        if why := why_not_callable(source, args, kwargs):
            raise InvalidRequest(f"the source {source.__name__} cannot be made with these arguments: {why}")
        return lambda: source(*args, **kwargs)
    if args or kwargs:
        raise InvalidRequest(f"the source {source!r} takes no further arguments; give a class or a function")
    if isinstance(source, str | bytes | Mapping):
        raise InvalidRequest(f"a source must give many records (an iterator, a generator, a list), not {source!r}")
    if callable(source) or method_name(source) or hasattr(source, "run") or isinstance(source, Iterable):
        return lambda: source
    if hasattr(source, "__aiter__") or _data_method(source):
        return lambda: source
    raise InvalidRequest(f"a source must be an iterable, a function, or an object or class with 'run', not {source!r}")


def check_delay(delay: Any) -> float:
    """Seconds from 0, else :class:`InvalidRequest`."""
    if isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 <= delay < threading.TIMEOUT_MAX:
        raise InvalidRequest(f"delay must be seconds from 0, not {delay!r}", param="delay")
    return float(delay)


def takes_argument(source: Any, name: str) -> bool:
    """Whether this class or function has a parameter of this name itself."""
    if not isinstance(source, type) and not inspect.isroutine(source):
        return False
    try:
        return name in inspect.signature(source).parameters
    except ValueError:
        return False  # it has no signature


def is_source_object(source: Any) -> bool:
    """Whether this is a class or an object whose methods give records."""
    return isinstance(source, type) or method_name(source) is not None or _data_method(source) is not None
