"""How the factories of our services are made: options are checked at once, and have their names of today."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sage.kernels.runtime.old_names import NewName, renamed, warn_of_old_name
from sage.kernels.runtime.service.base_service_task import BaseServiceTask, ServiceFactory


def made_factory(
    service_class: type[BaseServiceTask],
    service_name: str | None,
    options: Mapping[str, Any],
    names: Mapping[str, NewName] | None = None,
    hints: Mapping[str, str] | None = None,
) -> ServiceFactory:
    """``names`` are old names of options (:func:`sage.kernels.runtime.old_names.renamed`). Called by a factory's
    function, whose caller's line the warnings name. Raises :class:`sage.errors.InvalidRequest` for options that the
    service does not take."""
    if service_name is not None:
        warn_of_old_name("'service_name' has no effect: the name is given to env.register_service(name, factory)", 3)
    current = renamed(service_class.__name__, options, names or {}, hints or {}, 3)
    factory = ServiceFactory.checked(service_class, current, service_class._dependencies(current).needs)
    factory()  # refuses bad values now, and opens nothing
    return factory if service_name is None else replace(factory, service_name=service_name)
