"""Sources of streams that need no vendor: what can be iterated, and objects that are asked again and again."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from sage.errors import InvalidRequest
from sage.kernels.runtime.streams.source_task import SourceTask
from sage.kernels.runtime.streams.workers import SharedInstances, method_name

if TYPE_CHECKING:
    from sage.kernels.runtime.streams.workers import Callers

_CHUNK = 256
_AT_HAND = (list, tuple, range, set, frozenset, dict)
"""What can be read ahead: reading them neither blocks nor does anything else."""


class IterableSource:
    """Reads what ``make`` gives: an iterable, or an object or function as :func:`records_of` knows them."""

    may_block = True

    def __init__(self, make: Callable[[], Any], lives: SharedInstances) -> None:
        self._make = make
        self._lives = lives
        self._made: Any = None
        self._began = False

    def open(self, callers: Callers) -> None:
        self._made = self._make()
        if has_life(self._made):
            self._began = True
            self._lives.begin(self._made, callers)

    def read(self, feed: SourceTask) -> None:
        if isinstance(self._made, _AT_HAND):
            chunks = iter(self._made)
            while not feed.stopping and (chunk := list(islice(chunks, _CHUNK))):
                feed.put(chunk)
            return
        records = records_of(self._made)
        try:
            while not feed.stopping:
                try:
                    record = next(records)
                except StopIteration:
                    return
                feed.put((record,))
        finally:
            if (close := getattr(records, "close", None)) is not None:
                close()

    def finish(self, feed: SourceTask) -> None:
        pass

    def close(self) -> None:
        if self._began:
            self._began = False
            self._lives.end(self._made)

    def describe(self) -> dict[str, Any]:
        return {}


def has_life(made: Any) -> bool:
    return hasattr(made, "_callers") or (hasattr(made, "setup") and hasattr(made, "cleanup"))


def records_of(made: Any) -> Iterator[Any]:
    """The records of a source: of an object with ``run``, what that gives; of one with ``process`` or ``execute``, what
    it returns each time until that is ``None``; of a function, what it gives; else what it is iterated to.

    Raises :class:`InvalidRequest` when that is nothing to iterate.
    """
    if callable(run := getattr(made, "run", None)):
        return _iterated(run())
    if (name := method_name(made)) is not None:
        return _asked(getattr(made, name))
    if not isinstance(made, Iterable | AsyncIterator) and callable(made):
        return _iterated(made())
    return _iterated(made)


def _iterated(found: Any) -> Iterator[Any]:
    if hasattr(found, "__aiter__"):
        return _awaited(aiter(found))
    if isinstance(found, str | bytes | Mapping) or not isinstance(found, Iterable):
        raise InvalidRequest(f"a source must give many records (an iterator, a generator, a list), not {found!r}")
    return iter(found)


def _asked(ask: Callable[[], Any]) -> Iterator[Any]:
    while True:
        try:
            record = ask()
        except StopIteration:
            return
        if record is None:
            return
        yield record


def _awaited(records: AsyncIterator[Any]) -> Iterator[Any]:
    """An asynchronous iterator, on an event loop of its own."""
    with asyncio.Runner() as runner:

        async def following() -> Any:
            return await anext(records)

        try:
            while True:
                try:
                    record = runner.run(following())
                except StopAsyncIteration:
                    return
                yield record
        finally:
            if (close := getattr(records, "aclose", None)) is not None:
                runner.run(close())


def check_source(source: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
    """What makes the source of one job: an instance of a class, what a function gives, or the object given.

    Raises :class:`InvalidRequest` when it cannot be one.
    """
    if isinstance(source, type) or (inspect.isroutine(source) and (args or kwargs)):
        try:
            inspect.signature(source).bind(*args, **kwargs)
        except TypeError as exc:
            raise InvalidRequest(f"the source {source.__name__} cannot be made with what was given: {exc}") from exc
        except ValueError:
            pass  # it has no signature
        return lambda: source(*args, **kwargs)
    if args or kwargs:
        raise InvalidRequest(f"the source {source!r} takes no further arguments; give a class or a function")
    if isinstance(source, str | bytes | Mapping):
        raise InvalidRequest(f"a source must give many records (an iterator, a generator, a list), not {source!r}")
    if callable(source) or method_name(source) or hasattr(source, "run") or isinstance(source, Iterable):
        return lambda: source
    if hasattr(source, "__aiter__"):
        return lambda: source
    raise InvalidRequest(f"a source must be an iterable, a function, or an object or class with 'run', not {source!r}")
