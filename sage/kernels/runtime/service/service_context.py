"""What services whose ``__init__`` takes ``(service_factory, ctx)``, as in upstream SAGE, are given."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from sage.kernels.runtime.service.service_user import ServiceUser
from sage.kernels.runtime.services.callers import ServiceProxy


class RegisteredFactory:
    """How a service was registered: its ``service_name`` and ``service_class``, and each option that its ``__init__``
    does not take as an attribute, for example ``config``."""

    def __init__(self, service_name: str, service_class: type, options: Mapping[str, Any]) -> None:
        self.service_name = service_name
        self.service_class = service_class
        vars(self).update(options)


class ServiceContext(ServiceUser):
    """The other services of the environment, once the service runs."""

    _without_environment = "knows no other services before the service runs"

    def __init__(self, name: str) -> None:
        self.name = name
        self.logger = logging.getLogger(f"sage.service.{name}")

    @property
    def service_manager(self) -> ServiceContext:
        return self

    def get_service_proxy(self, service_name: str) -> ServiceProxy:
        return self.call_service[service_name]


def takes_factory(service_class: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether ``__init__`` waits for a ``service_factory`` that is not given."""
    if args or "service_factory" in kwargs:
        return False
    try:
        return next(iter(inspect.signature(service_class).parameters), None) == "service_factory"
    except (TypeError, ValueError):  # built in, without a signature
        return False


def made_with_factory(name: str, service_class: type, kwargs: Mapping[str, Any]) -> Any:
    """A new service, in upstream SAGE's way."""
    parameters = inspect.signature(service_class).parameters
    own = {option: value for option, value in kwargs.items() if option in parameters}
    factory = RegisteredFactory(name, service_class, {key: value for key, value in kwargs.items() if key not in own})
    context = ServiceContext(name)
    if "ctx" in parameters:
        own.setdefault("ctx", context)
    service = service_class(factory, **own)
    service._context = context
    return service
