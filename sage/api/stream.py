"""Streams: what a user builds a pipeline with, function by function."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sage.errors import InvalidRequest
from sage.kernels.runtime.services.callers import check_name
from sage.kernels.runtime.streams.plan import SourceNode, StageNode
from sage.kernels.runtime.streams.service_stage import ServiceStep, ServiceWorker
from sage.kernels.runtime.streams.workers import FunctionKind, StageFunction

if TYPE_CHECKING:
    from sage.api.local_environment import LocalEnvironment

_IN_FLIGHT = 64
"""Calls of a service that a keyed stage has under way at most."""


class Stream:
    """Records on their way. Every method adds a stage that reads this stream, and gives the stream of its results.

    A function is an instance or a class of :class:`sage.api.function.base_function.BaseFunction`, any object or class
    with ``process`` or ``execute``, or a plain function, ``async`` or not. A class is made with ``args`` and
    ``kwargs``, a plain function called with them after the record. These words are common to all stages:

    - ``parallelism``: workers at once. With 1, order holds; with more, that of each key behind :meth:`keyby`.
    - ``on_error``: what becomes of a record that raises: ``"fail"`` the job, ``"skip"`` and count it, ``"retry"`` or
      ``Retry(…)``, or a function that takes :class:`sage.kernels.runtime.streams.error_policy.DeadLetter`.
    - ``name``: as metrics and errors call it.
    """

    def __init__(self, environment: LocalEnvironment, nodes: tuple[SourceNode | StageNode, ...]) -> None:
        self._environment = environment
        self._nodes = nodes

    def map(self, function: Any, *args: Any, **options: Any) -> Stream:
        """The result of ``function(record)`` for each record."""
        return self._then(FunctionKind.MAP, function, args, options)

    def filter(self, function: Any, *args: Any, **options: Any) -> Stream:
        """The records for which ``function(record)`` is true."""
        return self._then(FunctionKind.FILTER, function, args, options)

    def flatmap(self, function: Any, *args: Any, **options: Any) -> Stream:
        """All that ``function(record)`` gives (a list, a generator; ``None``: nothing), one by one."""
        return self._then(FunctionKind.FLATMAP, function, args, options)

    def keyby(self, function: Any, *args: Any, **options: Any) -> Stream:
        """The same records; from here on, those with the same ``function(record)`` keep their order, and in each stage
        go to the same worker. A key is a text, a number, a tuple of them, or whatever can be hashed."""
        return self._then(FunctionKind.KEY, function, args, options)

    def connect(self, *others: Stream) -> Stream:
        """The records of this stream and of ``others``, as they come."""
        for other in others:
            if not isinstance(other, Stream) or other._environment is not self._environment:
                raise InvalidRequest(f"connect takes streams of the environment '{self._environment.name}' alone")
        return Stream(self._environment, self._nodes + tuple(node for other in others for node in other._nodes))

    def sink(self, function: Any, *args: Any, **options: Any) -> Stream:
        """``function(record)`` for each record; gives this same stream, for further stages beside it."""
        self._then(FunctionKind.SINK, function, args, options)
        return self

    def print(self, prefix: str = "", **options: Any) -> Stream:
        """Writes each record to standard output, in a line of its own; gives this same stream."""
        self._then(FunctionKind.SINK, _Printer(prefix), (), options, word="print")
        return self

    def through(
        self,
        service: str,
        *,
        method: str,
        arguments: Callable[[Any], Any] | None = None,
        combine: Callable[[Any, Any], Any] | None = None,
        key: Callable[[Any], Any] | None = None,
        batch: int | None = None,
        timeout: float | None = None,
        retries: int = 0,
        parallelism: int = 1,
        on_error: Any = None,
        name: str | None = None,
    ) -> Stream:
        """A service as a stage: the result of ``call_service[service].method(record)`` for each record.

        ``arguments(record)`` gives what the method is called with instead: a tuple, or a mapping of keywords.
        ``combine(record, result)`` gives the new record instead of the result alone. ``batch``: up to so many records
        in one call (``method.map``), as many as are there; when one of them raises, each is called again alone, unless
        the job fails then anyway. ``key``: as :meth:`keyby` before; several keys are called at once, each in its order.
        ``timeout`` in seconds and ``retries`` are those of each call.
        """
        if key is not None:
            return self.keyby(key).through(
                service, method=method, arguments=arguments, combine=combine, batch=batch, timeout=timeout,
                retries=retries, parallelism=parallelism, on_error=on_error, name=name,
            )  # fmt: skip
        if batch is not None:
            _check_count("batch", batch)
        env = self._environment
        name = env._free_name(name or f"{check_name(service)}.{method}", own=name is not None)
        policy = env._policy(on_error, name)
        isolates = policy.skips or policy.retry is not None or policy.letters is not None
        step = ServiceStep(service, method, arguments, combine, batch, isolates, timeout, retries)
        node = StageNode(
            name, FunctionKind.MAP, None, self._nodes, policy, _check_count("parallelism", parallelism),
            lambda _: ServiceWorker(step), batch or _IN_FLIGHT, with_keys=True,
        )  # fmt: skip
        return env._add(node)

    def _then(
        self, kind: FunctionKind, function: Any, args: tuple[Any, ...], options: dict[str, Any], word: str = ""
    ) -> Stream:
        env = self._environment
        parallelism = _check_count("parallelism", options.pop("parallelism", 1))
        on_error, given = options.pop("on_error", None), options.pop("name", None)
        name = env._free_name(given or word or kind.value, own=given is not None)
        stage = StageFunction(name, kind, function, args, options)
        node = StageNode(name, kind, stage, self._nodes, env._policy(on_error, name), parallelism)
        return env._add(node)


class _Printer:
    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def process(self, record: Any) -> None:
        sys.stdout.write(f"{self._prefix}{record}\n")
        sys.stdout.flush()


def _check_count(word: str, count: Any) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InvalidRequest(f"{word} must be a whole number from 1, not {count!r}", param=word)
    return count
