"""A function of a DAG: one method for a record, with the services of its environment at hand."""

from __future__ import annotations

from typing import Any

from sage.kernels.runtime.service.service_user import ServiceUser


class BaseFunction(ServiceUser):
    """Subclasses write ``process(self, record)``, or ``execute(self, record)`` as upstream SAGE names it.

    :meth:`setup` and :meth:`cleanup` are called once for each object, before its first and after its last record. An
    instance that is given to a stream is shared by its parallel workers; of a class, each has one of its own.
    """

    _without_environment = "runs in no environment, which it could call services of"

    def setup(self) -> None:
        """Makes what :meth:`process` needs."""

    def cleanup(self) -> None:
        """Lets go of it."""

    def process(self, record: Any) -> Any:
        """The result for one record."""
        raise NotImplementedError(f"{type(self).__name__} has neither 'process' nor 'execute'")

    process.is_placeholder = True  # type: ignore[attr-defined]  # so that a stage sees that it was not written
