"""The base of services: a life from setup to cleanup, and public methods that are called through a queue."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Self

from sage.errors import InvalidRequest
from sage.kernels.runtime.service.service_context import RegisteredFactory, made_with_factory, takes_factory
from sage.kernels.runtime.service.service_user import ServiceUser
from sage.kernels.runtime.services.spec import Method, ServiceOptions

__all__ = ["BaseServiceTask", "Dependencies", "Method", "ServiceFactory", "ServiceOptions", "methods_of"]


class Dependencies(NamedTuple):
    """Names of services: ``needs`` must run before the one that calls them; ``uses`` start before it where they are
    registered, and it does without them elsewhere."""

    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()


class BaseServiceTask(ServiceUser):
    """Base of services. The public methods of a subclass, ``async`` or not, can be called; it needs no
    ``super().__init__()``.

    In an environment its life is ``setup → running → stopping → stopped``; :meth:`setup` and :meth:`cleanup` are called
    once each. Alone it is a context manager whose methods are called directly: ``with KVService() as kv: kv.put(…)``.
    """

    max_workers: ClassVar[int] = 1
    """How many calls may run at once, unless ``register_service(…, max_workers=…)`` sets another number."""
    queue_size: ClassVar[int] = 10_000
    """How many calls may wait; one more is refused."""

    _without_environment = "stands alone and has no other services to call; register it in an environment"
    _counts: Callable[[], Mapping[str, Any]] | None = None
    """What its host has counted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes nothing; or, as in upstream SAGE, ``(service_factory, ctx)``."""
        if (args and isinstance(args[0], RegisteredFactory)) or "service_factory" in kwargs:
            self._take_factory(*args, **kwargs)
        else:
            super().__init__(*args, **kwargs)

    def _take_factory(self, service_factory: RegisteredFactory, ctx: Any = None) -> None:
        self.service_factory = service_factory
        self.service_name = service_factory.service_name
        self.ctx = ctx

    @cached_property
    def logger(self) -> logging.Logger:
        """``sage.service.`` and the name of the class."""
        return logging.getLogger(f"sage.service.{type(self).__name__}")

    def __repr__(self) -> str:
        about = self._about()
        return f"<{type(self).__qualname__}: {about}>" if about else f"<{type(self).__qualname__}, a service>"

    def _about(self) -> str:
        """What it is, in a few words without secrets, for its ``repr``."""
        return ""

    def setup(self) -> None:
        """Opens what the methods need: connections, files. An error that it raises fails the start of the
        environment."""
        _call_first(self, "_start_service_instance", "start_running")

    def cleanup(self) -> None:
        """Closes it. Called once, after the last method has ended, also when :meth:`setup` failed."""
        _call_first(self, "_stop_service_instance", "terminate")

    def get_statistics(self) -> dict[str, Any]:
        """``{service_name, service_type, calls, errors, latency_ms}``, as far as its host has counted them."""
        name = getattr(self, "service_name", type(self).__name__)
        counted = self._counts() if self._counts is not None else {}
        return {"service_name": name, "service_type": type(self).__name__, **counted}

    def health(self) -> Mapping[str, Any]:
        """What users should know of its state, as JSON. When it raises, the service is shown as unhealthy."""
        return {}

    @classmethod
    def _dependencies(cls, options: Mapping[str, Any]) -> Dependencies:
        """The services that one with these ``options`` calls."""
        return Dependencies(needs=tuple(getattr(cls, "needs", ())))

    def __enter__(self) -> Self:
        try:
            self.setup()
        except BaseException as error:
            try:
                self.cleanup()
            except Exception as exc:
                error.add_note(f"its cleanup failed, too: {exc!r}")
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cleanup()


def _call_first(service: Any, *names: str) -> None:
    """Calls the first of these methods that there is: services of upstream SAGE have them in place of ours."""
    method = next((found for name in names if callable(found := getattr(service, name, None))), None)
    if method is not None:
        method()


_LIFE = frozenset(("setup", "cleanup", "health"))


def methods_of(service_class: type) -> dict[str, Method]:
    """The methods of a service that can be called: the public ones, without those of its life."""
    methods = {}
    for name in dir(service_class):
        if name.startswith("_") or name in _LIFE:
            continue
        value = inspect.getattr_static(service_class, name)
        if value is getattr(BaseServiceTask, name, None):
            continue
        function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        if not inspect.isroutine(function):
            continue
        methods[name] = Method(name, inspect.iscoroutinefunction(function), _takes_timeout(function))
    return methods


def _takes_timeout(function: Callable[..., Any]) -> bool:
    try:
        return "timeout" in inspect.signature(function).parameters
    except (ValueError, TypeError):  # built in, without a signature
        return False


@dataclass(frozen=True)
class ServiceFactory:
    """Makes a service: calling it returns a new instance. ``needs`` names services that must run before it, besides
    those that its class asks for."""

    service_class: type
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    options: ServiceOptions = field(default_factory=ServiceOptions)
    service_name: str = ""
    """The name under which it was registered, or is meant to be."""

    @classmethod
    def checked(cls, service_class: type, kwargs: Mapping[str, Any], needs: tuple[str, ...] = ()) -> ServiceFactory:
        """A factory whose keywords ``service_class`` takes. Raises :class:`sage.errors.InvalidRequest`, which names a
        keyword that the class does not take and the most similar one that it takes."""
        parameters = inspect.signature(service_class).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        for name in kwargs:
            if name not in parameters and not takes_any:
                similar = difflib.get_close_matches(name, list(parameters), 1, 0.6)
                hint = f"did you mean '{similar[0]}'?" if similar else f"it takes: {', '.join(parameters)}"
                raise InvalidRequest(f"{service_class.__name__} takes no '{name}'; {hint}", param=name)
        return cls(service_class, (), dict(kwargs), needs)

    @property
    def dependencies(self) -> Dependencies:
        """The services that must, or may, start before this one."""
        if not issubclass(self.service_class, BaseServiceTask):
            return Dependencies((*self.needs, *getattr(self.service_class, "needs", ())))
        try:
            options = inspect.signature(self.service_class).bind_partial(*self.args, **self.kwargs).arguments
        except (TypeError, ValueError):  # making the service will say what is wrong
            options = dict(self.kwargs)
        needs, uses = self.service_class._dependencies(options)
        return Dependencies(tuple(dict.fromkeys((*self.needs, *needs))), uses)

    @property
    def is_old_style(self) -> bool:
        """Whether its class takes ``(service_factory, ctx)``, as services of upstream SAGE do."""
        return takes_factory(self.service_class, self.args, self.kwargs)

    def __call__(self) -> Any:
        if self.is_old_style:
            return made_with_factory(self.service_name, self.service_class, self.kwargs)
        return self.service_class(*self.args, **self.kwargs)
