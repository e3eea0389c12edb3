"""Names that programs written for upstream SAGE use: they work, and warn of the name that stands here."""

from __future__ import annotations

import functools
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from sage.errors import InvalidRequest

_log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")
NewName = str | None | Callable[[Any], str]
"""``None`` means that the value has no effect; a function chooses the name by the value."""


def warn_of_old_name(message: str, stacklevel: int = 2) -> None:
    """A deprecation warning at the caller of the function that calls this.

    Where that is the worker of a service, the line that is to be changed is not on the stack, and Python shows no
    deprecation warning of a library's line: it is logged, too, once.
    """
    warnings.warn(f"{message} (docs/migration.md)", DeprecationWarning, stacklevel=stacklevel + 1)
    if _module_at(stacklevel + 1).startswith("sage.kernels."):
        _log_once(message)


def _module_at(level: int) -> str:
    """The module of the function so many callers above this one."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and level > 0:
        frame, level = frame.f_back, level - 1
    return str(frame.f_globals.get("__name__", "")) if frame is not None else ""


@functools.lru_cache(maxsize=1024)
def _log_once(message: str) -> None:
    _log.warning("%s (docs/migration.md)", message)


def renamed(
    what: str, given: Mapping[str, Any], names: Mapping[str, NewName], hints: Mapping[str, str], stacklevel: int = 2
) -> dict[str, Any]:
    """``given`` with new names in place of old ones. ``hints`` says what to do instead of an option without effect.
    Raises :class:`InvalidRequest` when an option is given by both names."""
    options = {name: value for name, value in given.items() if name not in names}
    for old in given.keys() & names.keys():
        value, new = given[old], names[old]
        if callable(new):
            new = new(value)
        if new is None:
            warn_of_old_name(f"{what}: '{old}' has no effect: {hints[old]}", stacklevel + 1)
            continue
        if new in options:
            raise InvalidRequest(f"{what}: '{old}' is the old name of '{new}'; give only '{new}'", param=new)
        warn_of_old_name(f"{what}: '{old}' is an old name; write '{new}'", stacklevel + 1)
        options[new] = value
    return options


def takes_old_names(
    hints: Mapping[str, str] | None = None, **names: NewName
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A method that takes keywords by old names, too. See :func:`renamed`."""
    old_names = frozenset(names)

    def decorate(method: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(method)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if kwargs and not old_names.isdisjoint(kwargs):
                changed: Any = renamed(f"{method.__name__}()", kwargs, names, hints or {})
                return method(*args, **changed)
            return method(*args, **kwargs)

        return call

    return decorate
