"""The function of one stage of a pipeline, as the user wrote it, and how it is made and called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sage.errors import InvalidRequest


class FunctionKind(StrEnum):
    """What a function's result is for: it is the new record, says whether the record goes on, is many records, is the
    record's key, or goes nowhere."""

    MAP = "map"
    FILTER = "filter"
    FLATMAP = "flatmap"
    KEY = "keyby"
    SINK = "sink"


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

    def __post_init__(self) -> None:
        """Raises :class:`InvalidRequest` when it cannot be called with a record."""
        if makes_instances(self.function):
            self._check_constructor()
        elif (self.args or self.kwargs) and method_name(self.function):
            kind = type(self.function).__name__
            raise InvalidRequest(f"{self.name}: an instance of {kind} takes no further arguments")
        if not self._takes_records():
            raise InvalidRequest(
                f"{self.name} needs a function, or an object or class with 'process', not {self.function!r}"
            )

    def _check_constructor(self) -> None:
        try:
            inspect.signature(self.function).bind(*self.args, **self.kwargs)
        except TypeError as exc:
            name = self.function.__name__
            raise InvalidRequest(f"{self.name}: {name} cannot be made with these arguments: {exc}") from exc
        except ValueError:
            pass  # it has no signature

    def _takes_records(self) -> bool:
        if method_name(self.function):
            return True
        if hasattr(self.function, "process") and not _has_call(self.function):
            return False  # a BaseFunction whose 'process' was not written
        return callable(self.function)

    def make(self) -> Any:
        """A new instance if the function is a class, else the function itself."""
        return self.function(*self.args, **self.kwargs) if makes_instances(self.function) else self.function

    def bind(self, instance: Any) -> Callable[[Any], Any]:
        """What is called with a record; ``instance`` comes from :meth:`make`."""
        if name := method_name(instance):
            method: Callable[[Any], Any] = getattr(instance, name)
            return method
        if makes_instances(self.function) or not (self.args or self.kwargs):
            return instance  # type: ignore[no-any-return]
        return lambda record: instance(record, *self.args, **self.kwargs)


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
