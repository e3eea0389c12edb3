"""What calls services: other services, and the functions of a DAG."""

from __future__ import annotations

from typing import ClassVar

from sage.errors import InvalidRequest
from sage.kernels.runtime.services.callers import AsyncServiceCaller, Callers, ServiceCaller


class ServiceUser:
    """Calls the services of the environment that it runs in, once that has handed it its callers."""

    _callers: Callers | None = None
    _without_environment: ClassVar[str]
    """Ends the error message for an object that runs in no environment."""

    @property
    def call_service(self) -> ServiceCaller:
        """``self.call_service["name"].method(…)`` of a service of its environment."""
        return self._callers_or_refuse()[0]

    @property
    def call_service_async(self) -> AsyncServiceCaller:
        """As :attr:`call_service`, but returns futures that can be awaited."""
        return self._callers_or_refuse()[1]

    def _callers_or_refuse(self) -> Callers:
        if self._callers is None:
            raise InvalidRequest(f"{type(self).__name__} {self._without_environment}")
        return self._callers
