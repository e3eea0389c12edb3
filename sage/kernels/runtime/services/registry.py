"""The services of one environment: registered in any order, started by their needs, stopped in reverse."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sage.errors import Conflict, InvalidRequest, NotFound, SageError
from sage.kernels.runtime.old_names import warn_of_old_name
from sage.kernels.runtime.service.base_service_task import ServiceFactory
from sage.kernels.runtime.services.callers import AsyncServiceCaller, ServiceCaller, check_name
from sage.kernels.runtime.services.host import Host
from sage.kernels.runtime.services.spec import ServiceOptions, ServiceSpec

_log = logging.getLogger(__name__)
_LEAST_GRACE = 1.0
"""Seconds that a service has to end its calls when others have used up the grace period."""
_USED_BY_MANY = ("kv_service", "vdb_service")
"""What a function makes is not known before it is called; if it is a memory service, it uses these."""
_HOSTING_OPTIONS = ("max_workers", "queue_size", "replicas", "placement")


class ServiceStartFailed(SageError):
    """A service cannot start; its cause says why."""

    default_code = "service_start_failed"


class Services:
    """Its names are its own: another environment may have other services with the same names."""

    def __init__(self, environment: str, make_host: Callable[[ServiceSpec], Host]) -> None:
        self._environment = environment
        self._make_host = make_host
        self._specs: dict[str, ServiceSpec] = {}
        self._hosts: dict[str, Host] = {}
        self._lock = threading.RLock()
        self._users = 0
        self.call = ServiceCaller(lambda: self._hosts, environment)
        self.call_async = AsyncServiceCaller(lambda: self._hosts, environment)

    def register(self, name: str, service: Any, /, *args: Any, **kwargs: Any) -> None:
        """``(name, Class, factory)``, ``(name, factory)`` or ``(name, Class, *args, **kwargs)``.

        ``max_workers``, ``queue_size``, ``replicas`` and ``placement`` tell how it is hosted, unless the class has
        parameters of these names. Raises :class:`Conflict` when the name is taken or the services run already.
        """
        spec = _spec(check_name(name), service, args, kwargs)
        with self._lock:
            if name in self._specs:
                raise Conflict(f"the environment '{self._environment}' has a service '{name}' already", param="name")
            if self._hosts:
                raise Conflict(f"register '{name}' before the services of '{self._environment}' start")
            self._specs[name] = spec
        if isinstance(spec.make, ServiceFactory) and spec.make.is_old_style:
            warn_of_old_name(
                f"{spec.make.service_class.__name__}.__init__ takes (service_factory, ctx): a service here takes its "
                "options as keywords, and needs no super().__init__()",
                3,
            )

    def names(self) -> list[str]:
        return sorted(self._specs)

    def start(self) -> None:
        """Starts all services, each after those that it needs; a second start is only counted. Raises
        :class:`InvalidRequest` for a circle of needs, :class:`NotFound` for a need that is not registered, and
        :class:`ServiceStartFailed`; nothing runs then."""
        with self._lock:
            if self._users == 0:
                self._start(in_order(self._specs))
            self._users += 1

    def _start(self, order: list[ServiceSpec]) -> None:
        for spec in order:
            host = self._make_host(spec)
            try:
                host.start((self.call, self.call_async))
            except Exception as exc:
                self._stop_after_failure()
                raise ServiceStartFailed(
                    f"the service '{spec.name}' of the environment '{self._environment}' cannot start: {exc}"
                ) from exc
            except BaseException:
                self._stop_after_failure()
                raise
            self._hosts[spec.name] = host

    def _stop_after_failure(self) -> None:
        try:
            self._stop(5.0)
        except Exception:  # the error of the start is raised
            _log.exception("a service of the environment '%s' failed to clean up", self._environment)

    def stop(self, grace: float = 30.0) -> None:
        """Call it once for each start. The last call stops all services, each before those that it needs, within
        ``grace`` seconds together. A cleanup that raises does not keep the others from being stopped; the first such
        error is raised in the end."""
        with self._lock:
            if self._users == 0:
                return
            self._users -= 1
            if self._users == 0:
                self._stop(grace)

    def _stop(self, grace: float) -> None:
        end = time.monotonic() + grace
        shortest = min(grace, _LEAST_GRACE)
        failure: BaseException | None = None
        while self._hosts:
            name = next(reversed(self._hosts))
            try:
                self._hosts[name].stop(max(end - time.monotonic(), shortest))
            except BaseException as exc:
                failure = failure or exc
            finally:
                del self._hosts[name]
                self.call._proxies.pop(name, None)
                self.call_async._proxies.pop(name, None)
        if failure is not None:
            raise failure

    def describe(self) -> list[dict[str, Any]]:
        """:meth:`Host.describe` of each service that runs."""
        return [host.describe() for host in list(self._hosts.values())]


def in_order(specs: Mapping[str, ServiceSpec]) -> list[ServiceSpec]:
    """The services, each after those that it needs, and after those that it uses where that makes no circle; else as
    they were registered."""
    ordered: dict[str, ServiceSpec] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in ordered:
            return
        if name in path:
            circle = " → ".join((*path[path.index(name) :], name))
            raise InvalidRequest(f"services need each other in a circle: {circle}", code="service_cycle")
        spec = specs.get(name)
        if spec is None:
            raise NotFound(
                f"the service '{path[-1]}' needs '{name}', which is not registered; registered: {', '.join(specs)}",
                code="unknown_service",
            )
        for need in spec.needs:
            visit(need, (*path, name))
        for used in spec.uses:
            if used in specs and not _leads_to(specs, used, {name, *path}):
                visit(used, (*path, name))
        ordered[name] = spec

    for name in specs:
        visit(name, ())
    return list(ordered.values())


def _leads_to(specs: Mapping[str, ServiceSpec], start: str, goals: set[str]) -> bool:
    """Whether the service ``start`` is one of ``goals``, or needs or uses one by however many steps."""
    waiting, visited = [start], {start}
    while waiting:
        name = waiting.pop()
        if name in goals:
            return True
        spec = specs.get(name)
        further = {*spec.needs, *spec.uses} - visited if spec is not None else set()
        visited |= further
        waiting += further
    return False


def _spec(name: str, service: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ServiceSpec:
    if isinstance(service, type) and len(args) == 1 and isinstance(args[0], ServiceFactory):
        service, args = args[0], ()
    if isinstance(service, ServiceFactory):
        if args:
            raise InvalidRequest(f"the factory of the service '{name}' takes no further arguments")
        options = _take_hosting(kwargs, ())
        factory = replace(service, kwargs={**service.kwargs, **kwargs}, service_name=name)
        return _spec_of(name, factory, replace(factory.options, **options))
    if isinstance(service, type):
        options = _take_hosting(kwargs, _parameters(service))
        return _spec_of(name, ServiceFactory(service, args, kwargs, service_name=name), ServiceOptions(**options))
    if callable(service):
        options = _take_hosting(kwargs, ())
        make = (lambda: service(*args, **kwargs)) if args or kwargs else service
        needs = tuple(getattr(service, "needs", ()))
        return ServiceSpec(name, None, make, needs, ServiceOptions(**options), _USED_BY_MANY)
    raise InvalidRequest(f"the service '{name}' must be registered by a class or a factory, not {service!r}")


def _spec_of(name: str, factory: ServiceFactory, options: ServiceOptions) -> ServiceSpec:
    needs, uses = factory.dependencies
    return ServiceSpec(name, factory.service_class, factory, needs, options, uses)


def _take_hosting(kwargs: dict[str, Any], parameters: Any) -> dict[str, Any]:
    """Takes those options out of ``kwargs`` that tell how the service is hosted."""
    return {name: kwargs.pop(name) for name in _HOSTING_OPTIONS if name in kwargs and name not in parameters}


def _parameters(service: type) -> Any:
    try:
        return inspect.signature(service).parameters
    except ValueError:  # built in, without a signature
        return ()
