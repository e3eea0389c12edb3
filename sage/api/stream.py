"""Streams: what a user builds a pipeline with, function by function."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

from sage.api.upstream_names import check_strategy
from sage.errors import InvalidRequest
from sage.kernels.runtime.services.callers import check_name
from sage.kernels.runtime.streams.collecting import CollectingWorker
from sage.kernels.runtime.streams.job_stage import JobQueue, JobStep, JobWorker
from sage.kernels.runtime.streams.nodes import SourceNode, StageNode
from sage.kernels.runtime.streams.plan import PipelinePlan
from sage.kernels.runtime.streams.service_stage import ServiceStep, ServiceWorker
from sage.kernels.runtime.streams.stage_function import (
    FunctionKind,
    FunctionOfEachStream,
    StageFunction,
    method_name,
)

_CONCURRENT_CALLS = 64
"""Calls of a service that a worker of a keyed stage has in flight at most."""


class PlanOwner(Protocol):
    """What a stream needs of its environment."""

    config: dict[str, Any]
    _plan: PipelinePlan

    def execute(self) -> Any:
        """Runs all pipelines to their end."""


class Stream:
    """Records of a source or stage. Every method adds a stage that reads this stream, and returns the stream of its
    results.

    A function is an instance or a class of :class:`sage.api.function.base_function.BaseFunction`, any object or class
    with ``process`` or ``execute``, or a plain function, ``async`` or not. A class is made with ``args`` and
    ``kwargs``; a plain function is called with them after the record. All stages take these options:

    - ``parallelism``: the number of workers. With 1, records keep their order; with more, only the records of each key
      behind :meth:`keyby` do.
    - ``on_error``: what happens to a record that raises: ``"fail"`` (the job), ``"skip"`` (and count it), ``"retry"``
      or ``Retry(…)``, or a function that takes :class:`sage.kernels.runtime.streams.error_policy.DeadLetter`.
    - ``name``: the name of the stage in metrics and errors.
    """

    def __init__(self, environment: PlanOwner, nodes: tuple[SourceNode | StageNode, ...]) -> None:
        self._environment = environment
        self._plan = environment._plan
        self._nodes = nodes

    def __repr__(self) -> str:
        return f"<Stream of {' and '.join(node.name for node in self._nodes)} in '{self._plan.environment}'>"

    def map(self, function: Any, *args: Any, **options: Any) -> Stream:
        """The result of ``function(record)`` for each record. ``None`` is a record as any other, but from ``execute``
        it means that there is none, as in upstream SAGE."""
        kind = FunctionKind.MAP_UNLESS_NONE if method_name(function) == "execute" else FunctionKind.MAP
        return self._add_stage(kind, function, args, options, "map")

    def filter(self, function: Any, *args: Any, **options: Any) -> Stream:
        """The records for which ``function(record)`` is true."""
        return self._add_stage(FunctionKind.FILTER, function, args, options)

    def flatmap(self, function: Any, *args: Any, **options: Any) -> Stream:
        """Each of the records that ``function(record)`` returns: a list, a generator, or ``None`` for no records."""
        return self._add_stage(FunctionKind.FLATMAP, function, args, options)

    def keyby(self, function: Any, *args: Any, **options: Any) -> Stream:
        """The same records. From here on, records with the same key, which is ``function(record)``, keep their order
        and go to the same worker of each stage. A key is a text, a number, a tuple of them, or another hashable value.

        Connected streams get their keys each for itself, so that :meth:`join` still tells them apart; a list gives each
        its own function.
        """
        check_strategy(options.pop("strategy", None))
        if len(self._nodes) == 1 and not isinstance(function, list | tuple):
            return self._add_stage(FunctionKind.KEY, function, args, options)
        streams = [Stream(self._environment, (node,)) for node in self._nodes]
        functions = list(function) if isinstance(function, list | tuple) else [function] * len(streams)
        if len(functions) != len(streams):
            raise InvalidRequest(f"keyby has {len(functions)} functions for {len(streams)} streams")
        names = _names_of_each(options.pop("name", None), len(streams))
        keyed = [
            stream.keyby(one, *args, name=name, **options)
            for stream, one, name in zip(streams, functions, names, strict=True)
        ]
        return keyed[0].connect(*keyed[1:])

    def connect(self, *others: Stream) -> Stream:
        """The records of this stream and of ``others``, in the order in which they arrive. :meth:`comap` and
        :meth:`join` tell the streams apart."""
        for other in others:
            if not isinstance(other, Stream) or other._plan is not self._plan:
                raise InvalidRequest(f"connect takes only streams of the environment '{self._plan.environment}'")
        return Stream(self._environment, self._nodes + tuple(node for other in others for node in other._nodes))

    def comap(self, function: Any, *args: Any, **options: Any) -> Stream:
        """A method for each of the connected streams: ``map0(record)`` for those of the first one, ``map1(record)`` for
        the second, and so on. ``None`` means that there is no new record.

        ``function`` is an instance or a class of :class:`sage.api.function.kinds.BaseCoMapFunction`, any other with
        these methods, or a plain function for each stream, given one by one or as a list.
        """
        count = self._count_connected("comap")
        functions = function if isinstance(function, list | tuple) else (function, *args)
        if all(callable(one) and not isinstance(one, type) and not hasattr(one, "map0") for one in functions):
            if len(functions) != count:
                raise InvalidRequest(f"comap has {len(functions)} functions for {count} streams")
            function, args = FunctionOfEachStream(functions), ()
        return self._add_stage(FunctionKind.COMAP, function, args, options)

    def join(self, function: Any, *args: Any, **options: Any) -> Stream:
        """Each of the records that ``function(record, key, stream)`` returns, for every record of the connected
        streams, which need keys: ``users.keyby(…).connect(orders.keyby(…)).join(…)``. ``stream`` is 0 for the first
        one, 1 for the second.

        ``function`` is an instance or a class of :class:`sage.api.function.kinds.BaseJoinFunction`, any other with
        ``process`` or ``execute``, or a plain function. All records of a key come to the same worker.
        """
        self._count_connected("join")
        if without := [node.name for node in self._nodes if not node.keyed]:
            raise InvalidRequest(f"join needs streams with keys; '{without[0]}' has none: put keyby(…) before connect")
        return self._add_stage(FunctionKind.JOIN, function, args, options)

    def _count_connected(self, what: str) -> int:
        if len(self._nodes) < 2:
            raise InvalidRequest(f"{what} needs connected streams: stream.connect(other).{what}(…)")
        return len(self._nodes)

    def fill_future(self, future: Stream) -> None:
        """Feeds the records of this stream to ``future``, which ``env.from_future(name)`` has made: a loop. The loop
        has to let go of each record at some point; the job ends when its sources have ended and no record is left in
        a loop."""
        node = future._nodes[0] if isinstance(future, Stream) and len(future._nodes) == 1 else None
        if not isinstance(node, StageNode) or not node.is_feedback or future._plan is not self._plan:
            raise InvalidRequest(
                f"fill_future takes a stream that from_future of the environment '{self._plan.environment}' has made"
            )
        self._plan.fill(node, self._nodes)

    def sink(self, function: Any, *args: Any, **options: Any) -> Stream:
        """Calls ``function(record)`` for each record. Returns this same stream, for further stages beside it."""
        self._add_stage(FunctionKind.SINK, function, args, options)
        return self

    def print(self, prefix: str = "", separator: str = "", **options: Any) -> Stream:
        """Writes each record to standard output, in a line of its own: ``prefix``, ``separator``, the record. Returns
        this same stream."""
        options.pop("colored", None)  # upstream SAGE's
        self._add_stage(FunctionKind.SINK, _Printer(prefix + separator), (), options, default_name="print")
        return self

    def collect(self) -> list[Any]:
        """Runs all pipelines of the environment to their end, and returns the records of this stream. Raises what the
        job failed with."""
        records: list[Any] = []
        name = self._plan.reserve_name(None, "collect")
        policy = self._plan.policy(None, name)
        node = StageNode(
            name, FunctionKind.SINK, None, self._nodes, policy, make_worker=lambda _: CollectingWorker(records)
        )
        self._plan.add(node)
        try:
            self._environment.execute()
        finally:
            self._plan.remove(node)
        return records

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

        - ``arguments(record)`` returns other arguments of the call: a tuple, or a mapping of keywords.
        - ``combine(record, result)`` returns the new record, instead of the result alone.
        - ``key(record)``: as :meth:`keyby` before. The service is called for several keys at once, and for the records
          of one key in order.
        - ``batch``: up to this many waiting records go in one call (``method.map``). When one of them raises, each is
          called again alone, unless the job fails then anyway.
        - ``timeout`` (seconds) and ``retries`` are those of each call.
        """
        if key is not None:
            return self.keyby(key).through(
                service, method=method, arguments=arguments, combine=combine, batch=batch, timeout=timeout,
                retries=retries, parallelism=parallelism, on_error=on_error, name=name,
            )  # fmt: skip
        if batch is not None:
            _check_count("batch", batch)
        stage = self._plan.reserve_name(name, f"{check_name(service)}.{method}")
        policy = self._plan.policy(on_error, stage)
        isolates = policy.skips or policy.retry is not None or policy.dead_letters is not None
        step = ServiceStep(service, method, arguments, combine, batch, isolates, timeout, retries)
        node = StageNode(
            stage, FunctionKind.MAP, None, self._nodes, policy, _check_count("parallelism", parallelism),
            lambda _: ServiceWorker(step), batch or _CONCURRENT_CALLS, with_keys=True,
        )  # fmt: skip
        return self._add(node)

    def enqueue(
        self,
        kind: str,
        request: Callable[[Any], Any] | None = None,
        *,
        group: int = 500,
        within: float | None = 1.0,
        wait: bool = False,
        combine: Callable[[Any, Any], Any] | None = None,
        run: str | None = None,
        jobs: JobQueue | None = None,
        parallelism: int = 1,
        on_error: Any = None,
        name: str | None = None,
        **fields: Any,
    ) -> Stream:
        """Hands the records to the durable queue of a gateway, as jobs of ``kind``: ``enqueue("generate", model="…")``.

        - ``request(record)`` returns what the job is asked for a record, as a mapping or a text. Without it the record
          is that itself. ``fields`` go into every job, as in ``POST /tasks/{kind}``.
        - ``group``: up to this many records become one job, as far as they come ``within`` so many seconds (``None``:
          a group is always full, but for the last one). With 1, each record is a job of its own; so it is with kinds
          that take one thing only, such as ``ingest``.
        - The records that follow are :class:`sage.kernels.runtime.streams.job_stage.EnqueuedRecord`, with the id of
          the job. With ``wait`` they are the results, in order; a record that failed there is an error of this stage.
        - ``combine(record, result)`` returns the new record, instead of the result alone.
        - ``run``: a name under which the same group is not done twice, also when the program runs again. Without it,
          the attempts of one run are the same job.
        - ``jobs``: who takes them: ``LLMService().jobs``, ``JobsClient(url, key)``. Without it, ``jobs`` of the
          environment's configuration, else the gateway that ``SAGE_URL`` and ``SAGE_API_KEY`` name.

        It waits while the queue is full, and so do the stages before.
        """
        if within is not None and not 0 <= within < float("inf"):
            raise InvalidRequest(f"within must be seconds from 0, or None, not {within!r}", param="within")
        stage = self._plan.reserve_name(name, f"enqueue.{kind}")
        policy = self._plan.policy(on_error, stage)
        isolates = policy.skips or policy.retry is not None or policy.dead_letters is not None
        step = JobStep(kind, request, combine, fields, wait, run, isolates)
        queue = jobs if jobs is not None else self._environment.config.get("jobs")
        node = StageNode(
            stage, FunctionKind.MAP, None, self._nodes, policy, _check_count("parallelism", parallelism),
            lambda _: JobWorker(step, queue), _check_count("group", group), fills_batches=True, fill_seconds=within,
        )  # fmt: skip
        return self._add(node)

    def _add_stage(
        self, kind: FunctionKind, function: Any, args: tuple[Any, ...], options: dict[str, Any], default_name: str = ""
    ) -> Stream:
        parallelism = _check_count("parallelism", options.pop("parallelism", 1))
        on_error = options.pop("on_error", None)
        name = self._plan.reserve_name(options.pop("name", None), default_name or kind.value)
        tells_apart = kind in (FunctionKind.COMAP, FunctionKind.JOIN)
        stage = StageFunction(name, kind, function, args, options, len(self._nodes) if tells_apart else 1)
        policy = self._plan.policy(on_error, name)
        node = StageNode(
            name, kind, stage, self._nodes, policy, parallelism, with_keys=kind is FunctionKind.JOIN, tagged=tells_apart
        )
        return self._add(node)

    def _add(self, node: StageNode) -> Stream:
        self._plan.add(node)
        return Stream(self._environment, (node,))


def _names_of_each(name: str | None, count: int) -> list[str | None]:
    return [None] * count if name is None else [name if n == 0 else f"{name}-{n + 1}" for n in range(count)]


class _Printer:
    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def process(self, record: Any) -> None:
        sys.stdout.write(f"{self._prefix}{record}\n")
        sys.stdout.flush()


def _check_count(option: str, count: Any) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InvalidRequest(f"{option} must be a whole number from 1, not {count!r}", param=option)
    return count
