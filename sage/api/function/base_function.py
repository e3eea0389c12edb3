"""A function of a DAG: one method for a record, with the services of its environment at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage.errors import InvalidRequest

if TYPE_CHECKING:
    from sage.kernels.runtime.callers import AsyncServiceCaller, ServiceCaller


class BaseFunction:
    """Subclasses write ``process(self, record)``, or ``execute(self, record)`` as upstream SAGE names it.

    :meth:`setup` and :meth:`cleanup` are called once for each object, before its first and after its last record. An
    instance that is given to a stream is shared by its parallel workers; of a class, each has one of its own.
    """

    _callers: tuple[ServiceCaller, AsyncServiceCaller] | None = None

    def setup(self) -> None:
        """Makes what :meth:`process` needs."""

    def cleanup(self) -> None:
        """Lets go of it."""

    def process(self, record: Any) -> Any:
        """The result for one record."""
        raise NotImplementedError(f"{type(self).__name__} has neither 'process' nor 'execute'")

    process.is_placeholder = True  # type: ignore[attr-defined]  # so that a stage sees that it was not written

    @property
    def call_service(self) -> ServiceCaller:
        """``self.call_service["name"].method(…)`` of a service of its environment."""
        return self._called()[0]

    @property
    def call_service_async(self) -> AsyncServiceCaller:
        """As :attr:`call_service`; gives futures that can be awaited."""
        return self._called()[1]

    def _called(self) -> tuple[ServiceCaller, AsyncServiceCaller]:
        if self._callers is None:
            raise InvalidRequest(f"{type(self).__name__} runs in no environment, which it could call services of")
        return self._callers
