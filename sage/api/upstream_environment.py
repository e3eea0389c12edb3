"""The methods that environments of upstream SAGE have under other names."""

from __future__ import annotations

import logging
from typing import Any, Protocol

from sage.api.stream import Stream
from sage.api.upstream_names import warn_of_name
from sage.kernels.runtime.services.callers import ServiceCaller, ServiceProxy
from sage.kernels.runtime.streams.plan import PipelinePlan


class _RenamedMethods(Protocol):
    _plan: PipelinePlan

    def register_service(self, name: str, service: Any, /, *args: Any, **kwargs: Any) -> None: ...

    @property
    def call_service(self) -> ServiceCaller: ...

    def from_batch(self, records: Any, *args: Any, **options: Any) -> Stream: ...


class UpstreamEnvironment:
    """Each method calls the one that it names, and warns."""

    def from_collection(self: _RenamedMethods, records: Any, *args: Any, **options: Any) -> Stream:
        """``from_batch``."""
        warn_of_name("from_collection", "env.from_batch(…)")
        return self.from_batch(records, *args, **options)

    def from_memory_source(self: _RenamedMethods, records: Any, *args: Any, **options: Any) -> Stream:
        """``from_batch``."""
        warn_of_name("from_memory_source", "env.from_batch(…)")
        return self.from_batch(records, *args, **options)

    def register_service_factory(self: _RenamedMethods, name: str, factory: Any) -> None:
        """``register_service``."""
        warn_of_name("register_service_factory", "env.register_service(name, factory)")
        self.register_service(name, factory)

    def get_service_proxy(self: _RenamedMethods, service_name: str) -> ServiceProxy:
        """``call_service``, while the services run."""
        warn_of_name("get_service_proxy", "env.call_service[name]")
        return self.call_service[service_name]

    def set_console_log_level(self, level: str) -> None:
        """The level of the logger ``sage``."""
        warn_of_name("set_console_log_level", f"logging.getLogger('sage').setLevel({level.upper()!r})")
        logging.getLogger("sage").setLevel(level.upper())

    @property
    def pipeline(self: _RenamedMethods) -> list[Any]:
        """The sources and stages, in the order in which they were added."""
        warn_of_name("pipeline", "job.metrics, which names the sources and stages of a job")
        return list(self._plan.nodes)
