"""Names of upstream SAGE that stand elsewhere here: they work, with a warning that says what to write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sage.errors import InvalidRequest
from sage.kernels.runtime.old_names import warn_of_old_name


def moved_names(module: str, names: Mapping[str, Any]) -> Callable[[str], Any]:
    """The ``__getattr__`` of the old ``module``, whose ``names`` are now these objects."""

    def module_getattr(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        now = names[name]
        warn_of_name(f"{module}.{name}", f"from {now.__module__} import {now.__name__}")
        return now

    return module_getattr


def warn_of_name(old: str, now: str, *, level: int = 3) -> None:
    """``now``: what to write instead. ``level``: how far up the caller is whose line the warning shows."""
    warn_of_old_name(f"{old} is a name of upstream SAGE; write here: {now}", level)


def check_strategy(strategy: Any) -> None:
    """The option ``strategy`` of upstream SAGE's ``keyby``: ``None`` or ``"hash"``, which is what happens anyway."""
    if strategy not in (None, "hash"):
        raise InvalidRequest(
            f"keyby has no strategy {strategy!r}: all records of a key go to one worker; without keyby, the workers "
            "of a stage share the records",
            param="strategy",
        )
