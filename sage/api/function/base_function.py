"""The base class of functions of a pipeline: one method for each record, which may call services."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sage.kernels.runtime.service.service_user import ServiceUser
from sage.kernels.runtime.streams.stage_function import method_name


class _Default:
    """An attribute of instances that set none of this name themselves. The class has none, so that a subclass may be a
    dataclass with such a field."""

    def __init__(self, value_of: Callable[[Any], Any]) -> None:
        self._value_of = value_of

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            raise AttributeError(f"only instances of {owner.__name__} have it")
        return self._value_of(instance)


def _stage_name(function: Any) -> str:
    """The name of the stage that runs the function, or before that of its class."""
    return function._stage or type(function).__name__


def _logger(function: Any) -> logging.Logger:
    kind = type(function)
    return logging.getLogger(f"{kind.__module__}.{kind.__qualname__}")


class BaseFunction(ServiceUser):
    """Subclasses write ``process(self, record)``, or ``execute(self, record)`` as upstream SAGE names it.

    :meth:`setup` is called once for each instance before its first record, :meth:`cleanup` after its last one. When a
    stream gets an instance, all parallel workers of the stage share it; when it gets a class, each makes its own.
    """

    _without_environment = "runs in no environment, and so it has no services to call"
    _stage: str | None = None
    name: Any = _Default(_stage_name)
    logger: Any = _Default(_logger)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes whatever a subclass hands on with ``super().__init__(…)``, as upstream SAGE's functions do; a base
        class behind this one gets it."""
        following: Any = super().__init__
        if getattr(following, "__objclass__", None) is object:
            following()
        else:
            following(*args, **kwargs)

    __init__.is_placeholder = True  # type: ignore[attr-defined]  # so that arguments for a class without its own are refused

    def __repr__(self) -> str:
        kind = next(base.__name__ for base in type(self).__mro__ if base.__module__.startswith("sage.api.function."))
        return f"<{type(self).__qualname__}, a {kind}>"

    def setup(self) -> None:
        """Prepares what :meth:`process` needs."""

    def cleanup(self) -> None:
        """Releases what :meth:`setup` prepared. A function with ``execute`` may call it ``close``, as upstream SAGE
        does."""
        close = getattr(self, "close", None)
        if callable(close) and method_name(self) == "execute":
            close()

    def process(self, record: Any) -> Any:
        """The result for one record."""
        raise NotImplementedError(f"{type(self).__name__} has neither 'process' nor 'execute'")

    process.is_placeholder = True  # type: ignore[attr-defined]  # so that a stage can refuse a class that has not written it
