"""Workers: each runs the function of one stage of a pipeline, on batches of records, in this process or elsewhere."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from sage.errors import Conflict, InvalidRequest

if TYPE_CHECKING:
    from sage.kernels.runtime.services.callers import AsyncServiceCaller, ServiceCaller
    from sage.kernels.runtime.services.host import Host
    from sage.kernels.runtime.services.spec import ServiceSpec

    Callers = tuple[ServiceCaller, AsyncServiceCaller]

_SLICE = 0.002


class FunctionKind(StrEnum):
    """What becomes of a function's result: it is the new record, decides on the record, is many records, the record's
    key, or nothing."""

    MAP = "map"
    FILTER = "filter"
    FLATMAP = "flatmap"
    KEY = "keyby"
    SINK = "sink"


class Failure:
    """The outcome of a record whose function raised."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


Outcome = Any
"""What the function gave for a record, or a :class:`Failure`. Of a flatmap, always a list."""


@dataclass(frozen=True)
class StageFunction:
    """The function of one stage: all that a worker needs to make it, here or elsewhere. ``name`` is that of the stage,
    ``function`` an instance, a class (made with ``args`` and ``kwargs``) or a callable (called with them after the
    record)."""

    name: str
    kind: FunctionKind
    function: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises :class:`InvalidRequest` when it cannot be run on a record."""
        function = self.function
        if is_made(function):
            try:
                inspect.signature(function).bind(*self.args, **self.kwargs)
            except TypeError as exc:
                raise InvalidRequest(
                    f"{self.name}: {function.__name__} cannot be made with what was given: {exc}"
                ) from exc
            except ValueError:
                pass  # it has no signature
        elif (self.args or self.kwargs) and method_name(function):
            raise InvalidRequest(f"{self.name}: an instance of {type(function).__name__} takes no further arguments")
        unwritten = not method_name(function) and hasattr(function, "process") and not _can_be_called(function)
        if unwritten or not (method_name(function) or callable(function)):
            raise InvalidRequest(
                f"{self.name} needs a function, or an object or class with 'process', not {function!r}"
            )

    def make(self) -> Any:
        """The instance given, a new one of the class given, or the function given."""
        return self.function(*self.args, **self.kwargs) if is_made(self.function) else self.function

    def bind(self, made: Any) -> Callable[[Any], Any]:
        """What is called with a record; ``made`` is what :meth:`make` gave."""
        if name := method_name(made):
            found: Callable[[Any], Any] = getattr(made, name)
            return found
        if is_made(self.function) or not (self.args or self.kwargs):
            return made  # type: ignore[no-any-return]
        return lambda record: made(record, *self.args, **self.kwargs)


def is_made(function: Any) -> bool:
    """Whether this is a class whose instances run; ``str`` or ``int`` is a function like any other."""
    if not isinstance(function, type):
        return False
    return method_name(function) is not None or _can_be_called(function)


def _can_be_called(function: Any) -> bool:
    """Whether an instance of this class, or this instance, is a function itself."""
    kind = function if isinstance(function, type) else type(function)
    return any("__call__" in vars(base) for base in kind.__mro__)


def method_name(function: Any) -> str | None:
    """``process`` or ``execute``, whichever the object or class has of its own."""
    kind = function if isinstance(function, type) else type(function)
    for name in ("process", "execute"):
        found = getattr(kind, name, None)
        if callable(found) and not getattr(found, "is_placeholder", False):
            return name
    return None


class Worker(Protocol):
    """Runs one :class:`StageFunction`. One thread uses it, from start to stop."""

    def start(self, callers: Callers) -> None:
        """Makes the function, hands it ``callers`` and calls its ``setup``. Raises what these raised."""

    def process(self, batch: list[Any]) -> list[Outcome]:
        """What came of the first records of ``batch``, one each and in order, at least of one: the others will be given
        again. Never raises for what a record did; a worker that died and was replaced gives them all again itself."""

    def stop(self) -> None:
        """Calls the function's ``cleanup``; also when start failed."""


class Platform(Protocol):
    """Where services and workers run: ``sage.api.local_environment.LocalPlatform``, and on Ray
    ``sage.kernels.runtime.ray.platform.RayPlatform(environment, config)``, where ``config`` is the environment's
    ``{"ray": …}``. Started with an environment's first user, before its services, and stopped after them; again and
    again."""

    def start(self) -> None: ...

    def make_host(self, spec: ServiceSpec) -> Host: ...

    def make_worker(self, function: StageFunction, index: int) -> Worker:
        """The worker number ``index`` of its stage."""

    def stop(self) -> None: ...


class SharedInstances:
    """Counts who uses a shared instance: the first sets it up, the last cleans it up."""

    def __init__(self) -> None:
        self._users: dict[int, int] = {}
        self._lock = threading.Lock()

    def begin(self, function: Any, callers: Callers) -> None:
        """Raises :class:`Conflict` when the instance works for another environment."""
        with self._lock:
            if hasattr(function, "_callers"):
                if function._callers not in (None, callers):
                    raise Conflict(
                        f"this instance of {type(function).__name__} works for another environment; give it the class"
                    )
                function._callers = callers
            users = self._users.get(id(function), 0)
            self._users[id(function)] = users + 1
            if users == 0 and method_name(function) and hasattr(function, "setup"):
                function.setup()

    def end(self, function: Any) -> None:
        with self._lock:
            users = self._users.pop(id(function), 0)
            if users > 1:
                self._users[id(function)] = users - 1
            if users != 1:
                return  # others use it, or it was never ours
            try:
                if method_name(function) and hasattr(function, "cleanup"):
                    function.cleanup()
            finally:
                if hasattr(function, "_callers"):
                    function._callers = None


class LocalWorker:
    """Runs the function on the thread that asks; hands over what it has after ``seconds``, so that no slow record holds
    back those before it."""

    def __init__(self, function: StageFunction, lives: SharedInstances | None = None, seconds: float = _SLICE) -> None:
        self._stage = function
        self._seconds = seconds
        self._lives = lives or SharedInstances()
        self._made: Any = None
        self._began = False
        self._run: Callable[[Any], Any] = lambda record: record
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, callers: Callers) -> None:
        self._made = self._stage.make()
        self._began = True
        self._lives.begin(self._made, callers)
        run = self._stage.bind(self._made)
        if inspect.iscoroutinefunction(run) or inspect.iscoroutinefunction(getattr(run, "__call__", None)):  # noqa: B004
            run = self._on_loop(run)
        checks = {FunctionKind.FLATMAP: _listed, FunctionKind.KEY: _hashable}
        self._run = checks[kind](run, self._stage.name) if (kind := self._stage.kind) in checks else run

    def _on_loop(self, run: Callable[[Any], Any]) -> Callable[[Any], Any]:
        self._loop = loop = asyncio.new_event_loop()
        return lambda record: loop.run_until_complete(run(record))

    def process(self, batch: list[Any]) -> list[Outcome]:
        run, outcomes, clock = self._run, [], time.perf_counter
        end = clock() + self._seconds
        for record in batch:
            try:
                outcomes.append(run(record))
            except BaseException as exc:  # also SystemExit: it ends the record, not the worker
                outcomes.append(Failure(exc))
            if clock() >= end:
                break
        return outcomes

    def stop(self) -> None:
        try:
            if self._began:
                self._began = False
                self._lives.end(self._made)
        finally:
            if self._loop is not None:
                self._loop.close()


def _listed(run: Callable[[Any], Any], name: str) -> Callable[[Any], list[Any]]:
    def listed(record: Any) -> list[Any]:
        found = run(record)
        if found is None:
            return []
        if isinstance(found, str | bytes | Mapping):
            raise InvalidRequest(f"{name}: its function must give many records (a list, a generator), not {found!r}")
        return list(found)

    return listed


def _hashable(run: Callable[[Any], Any], name: str) -> Callable[[Any], Any]:
    def key_of(record: Any) -> Any:
        key = run(record)
        try:
            hash(key)
        except TypeError:
            raise InvalidRequest(f"{name}: a key must be hashable (a text, a number, a tuple), not {key!r}") from None
        return key

    return key_of
