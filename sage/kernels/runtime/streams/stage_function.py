"""The function of one stage of a pipeline, as the user wrote it, and how it is made and called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sage.errors import InvalidRequest


class FunctionKind(StrEnum):
    """What a function's result is for: it is the new record, says whether the record goes on, is many records, is the
    record's key, or goes nowhere."""

    MAP = "map"
    MAP_UNLESS_NONE = "map unless none"
    """The new record; ``None`` means that there is none."""
    FILTER = "filter"
    FLATMAP = "flatmap"
    KEY = "keyby"
    SINK = "sink"
    COMAP = "comap"
    """As :attr:`MAP_UNLESS_NONE`, with a method for each of the streams: ``map0``, ``map1`` and so on."""
    JOIN = "join"
    """Many records, of ``(value, key, number of the stream)``."""


@dataclass(frozen=True)
class StageFunction:
    """All that a worker needs to make and call the function of the stage ``name``, in this process or another one.
    ``function`` is an instance, a class (``args`` and ``kwargs`` are for its constructor) or a callable (they are its
    arguments after the record)."""

    name: str
    kind: FunctionKind
    function: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    streams: int = 1
    """The number of streams that a comap or a join tells apart."""

    def __post_init__(self) -> None:
        """Raises :class:`InvalidRequest` when it cannot be called with a record."""
        if self._makes_instances:
            self._check_constructor()
        elif (self.args or self.kwargs) and method_name(self.function):
            kind = type(self.function).__name__
            raise InvalidRequest(f"{self.name}: an instance of {kind} takes no further arguments")
        if self.kind is FunctionKind.COMAP:
            self._check_methods_of_streams()
        elif not self._takes_records():
            raise InvalidRequest(
                f"{self.name} needs a function, or an object or class with 'process', not {self.function!r}"
            )

    @property
    def _makes_instances(self) -> bool:
        if self.kind is FunctionKind.COMAP:
            return isinstance(self.function, type)
        return makes_instances(self.function)

    def _check_constructor(self) -> None:
        if why := why_not_callable(self.function, self.args, self.kwargs):
            name = self.function.__name__
            raise InvalidRequest(f"{self.name}: {name} cannot be made with these arguments: {why}")

    def _check_methods_of_streams(self) -> None:
        kind = self.function if isinstance(self.function, type) else type(self.function)
        needed = [f"map{number}" for number in range(self.streams)]
        if missing := [name for name in needed if not callable(getattr(self.function, name, None))]:
            raise InvalidRequest(
                f"{self.name}: {kind.__name__} has no {', '.join(missing)}; for {self.streams} streams it needs "
                f"{', '.join(needed)}"
            )

    def _takes_records(self) -> bool:
        if method_name(self.function):
            return True
        if hasattr(self.function, "process") and not _has_call(self.function):
            return False  # a BaseFunction whose 'process' was not written
        return callable(self.function)

    def make(self) -> Any:
        """A new instance if the function is a class, else the function itself."""
        return self.function(*self.args, **self.kwargs) if self._makes_instances else self.function

    def bind(self, instance: Any) -> Callable[[Any], Any]:
        """What is called with a record; ``instance`` comes from :meth:`make`. For a comap the record is the pair of
        number of the stream and value, for a join the pair of key and such a pair."""
        if self.kind is FunctionKind.COMAP:
            return _by_stream([getattr(instance, f"map{number}") for number in range(self.streams)])
        if self.kind is FunctionKind.JOIN:
            return _with_key_and_stream(self._bind_plainly(instance))
        return self._bind_plainly(instance)

    def _bind_plainly(self, instance: Any) -> Callable[..., Any]:
        if name := method_name(instance):
            method: Callable[[Any], Any] = getattr(instance, name)
            return method
        if self._makes_instances or not (self.args or self.kwargs):
            return instance  # type: ignore[no-any-return]
        return lambda *record: instance(*record, *self.args, **self.kwargs)


def _by_stream(methods: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def call(record: tuple[int, Any]) -> Any:
        return methods[record[0]](record[1])

    async def call_and_await(record: tuple[int, Any]) -> Any:
        result = call(record)
        return await result if inspect.isawaitable(result) else result

    return call_and_await if any(map(is_async, methods)) else call


def _with_key_and_stream(function: Callable[..., Any]) -> Callable[[Any], Any]:
    def call(record: tuple[Any, tuple[int, Any]]) -> Any:
        key, (stream, value) = record
        return function(value, key, stream)

    async def call_and_await(record: tuple[Any, tuple[int, Any]]) -> Any:
        return await call(record)

    return call_and_await if is_async(function) else call


def is_async(function: Any) -> bool:
    """Whether a call returns a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def why_not_callable(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """Why this class or function does not take these arguments; ``None`` means that it does, or that it cannot be
    known."""
    if (args or kwargs) and getattr(getattr(function, "__init__", None), "is_placeholder", False):
        return "it has no '__init__' of its own"
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as exc:
        return str(exc)
    except ValueError:
        pass  # it has no signature
    return None


def makes_instances(function: Any) -> bool:
    """Whether this is a class whose instances take the records; ``str`` or ``int`` is a function like any other."""
    if not isinstance(function, type):
        return False
    return method_name(function) is not None or _has_call(function)


def _has_call(function: Any) -> bool:
    """Whether this instance, or an instance of this class, can be called itself."""
    kind = function if isinstance(function, type) else type(function)
    return any("__call__" in vars(base) for base in kind.__mro__)


def method_name(function: Any) -> str | None:
    """``process`` or ``execute``, whichever the object or class has of its own; ``None`` means neither."""
    kind = function if isinstance(function, type) else type(function)
    for name in ("process", "execute"):
        method = getattr(kind, name, None)
        if callable(method) and not getattr(method, "is_placeholder", False):
            return name
    return None


def has_lifecycle(instance: Any) -> bool:
    """Whether ``setup`` and ``cleanup`` of this function are for the pipeline to call."""
    return method_name(instance) is not None or hasattr(instance, "_callers") or hasattr(instance, "map0")


class FunctionOfEachStream:
    """A comap of plain functions, one for each stream."""

    def __init__(self, functions: Sequence[Callable[[Any], Any]]) -> None:
        for number, function in enumerate(functions):
            setattr(self, f"map{number}", function)
