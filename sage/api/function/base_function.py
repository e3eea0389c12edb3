"""The base class of functions of a pipeline: one method for each record, which may call services."""

from __future__ import annotations

from typing import Any

from sage.kernels.runtime.service.service_user import ServiceUser


class BaseFunction(ServiceUser):
    """Subclasses write ``process(self, record)``, or ``execute(self, record)`` as upstream SAGE names it.

    :meth:`setup` is called once for each instance before its first record, :meth:`cleanup` after its last one. When a
    stream gets an instance, all parallel workers of the stage share it; when it gets a class, each makes its own.
    """

    _without_environment = "runs in no environment, and so it has no services to call"

    def setup(self) -> None:
        """Prepares what :meth:`process` needs."""

    def cleanup(self) -> None:
        """Releases what :meth:`setup` prepared."""

    def process(self, record: Any) -> Any:
        """The result for one record."""
        raise NotImplementedError(f"{type(self).__name__} has neither 'process' nor 'execute'")

    process.is_placeholder = True  # type: ignore[attr-defined]  # so that a stage can refuse a class that has not written it
