"""The base class of functions of a pipeline: one method for each record, which may call services."""

from __future__ import annotations

import logging
from typing import Any

from sage.kernels.runtime.service.service_user import ServiceUser
from sage.kernels.runtime.streams.stage_function import method_name


class _StageName:
    """The name of the stage that runs the function, or before that of its class; an instance may set its own."""

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else getattr(instance, "_stage", None) or owner.__name__


class _Logger:
    """The logger of the function's class; an instance may set its own."""

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else logging.getLogger(f"{owner.__module__}.{owner.__qualname__}")


class BaseFunction(ServiceUser):
    """Subclasses write ``process(self, record)``, or ``execute(self, record)`` as upstream SAGE names it.

    :meth:`setup` is called once for each instance before its first record, :meth:`cleanup` after its last one. When a
    stream gets an instance, all parallel workers of the stage share it; when it gets a class, each makes its own.
    """

    _without_environment = "runs in no environment, and so it has no services to call"
    _stage: str | None = None
    name: Any = _StageName()
    logger: Any = _Logger()

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
