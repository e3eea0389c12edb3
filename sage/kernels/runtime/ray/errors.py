"""What is carried between a service's actor and its callers: results that can be, and errors as what they are."""

from __future__ import annotations

from typing import Any

from sage.errors import SageError, Unavailable
from sage.kernels.runtime.ray.package import load_ray
from sage.kernels.runtime.services.calls import RemoteTraceback, with_traceback_as_cause

_SIMPLE = frozenset((type(None), bool, int, float, str, bytes))
_LOOKED_AT = 100
"""Items of a list that are looked at before it is tried whether all of it can be carried."""


class RemoteError(SageError):
    """A method raised what cannot be carried to its caller; the message and the cause say what it was."""

    default_code = "remote_error"


def is_plain(value: Any, depth: int = 4) -> bool:
    """Whether ``value`` is certainly carried: texts, numbers, arrays, and some of them in lists, tuples and mappings.
    A false may be wrong."""
    kind = type(value)
    if kind in _SIMPLE:
        return True
    if kind is list or kind is tuple:
        return depth > 0 and len(value) <= _LOOKED_AT and all(is_plain(item, depth - 1) for item in value)
    if kind is dict:
        return (
            depth > 0
            and len(value) <= _LOOKED_AT
            and all(type(key) in _SIMPLE and is_plain(item, depth - 1) for key, item in value.items())
        )
    return kind.__name__ == "ndarray" and getattr(value.dtype, "hasobject", True) is False


def why_not_carried(value: Any) -> Exception | None:
    """What is raised when ``value`` is made bytes, if something is."""
    if is_plain(value):
        return None
    try:
        load_ray().cloudpickle.dumps(value)
    except Exception as exc:
        return exc
    return None


def packed(error: BaseException) -> tuple[Any, ...]:
    """``error`` as it is carried: its class, what it holds, its traceback; never raises."""
    if not isinstance(error.__cause__, RemoteTraceback):
        with_traceback_as_cause(error)
    text = str(getattr(error.__cause__, "text", ""))
    for way in (_reduced, _taken_apart):
        try:
            parts = way(error)
        except Exception:  # noqa: S112 - its own code; the next way does without
            continue
        if why_not_carried(parts) is None:
            return (*parts, text)
    words = f"{type(error).__qualname__}: {_shown(error)} (an error that cannot be carried to another process)"
    return ("apart", RemoteError, (words,), {"message": words, "code": RemoteError.default_code}, text)


def _reduced(error: BaseException) -> tuple[Any, ...]:
    """As it says itself that it is made again; raises when that makes something else."""
    reduced: Any = error.__reduce_ex__(4)
    make, args, *state = reduced
    again = make(*args)
    if type(again) is not type(error):
        raise TypeError
    return ("made", make, args, state[0] if state else None)


def _taken_apart(error: BaseException) -> tuple[Any, ...]:
    """For a constructor that takes other things than ``args``, as that of :class:`sage.errors.MissingExtra` does."""
    return ("apart", type(error), error.args, dict(vars(error)))


def unpacked(parts: tuple[Any, ...]) -> BaseException:
    """The error that :func:`packed` was given, caused by the text of where it was raised."""
    way, make, args, state, text = parts
    error: BaseException
    try:
        error = make(*args) if way == "made" else make.__new__(make, *args)
        if way == "apart":
            error.args = args
        vars(error).update(state or {})
    except Exception as exc:
        error = RemoteError(f"an error that cannot be made here again ({type(exc).__name__}: {exc})")
    error.__cause__ = RemoteTraceback(text)
    return error


def _shown(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "without words"


def service_died(service: str, method: str, cause: str) -> Unavailable:
    return Unavailable(
        f"the actor of the service '{service}' died during the call of {method}, which may or may not have run "
        f"({cause}); once it is back, repeat what may run twice, or let options(retries=…) do it",
        code="service_died",
    )


def service_ended(service: str, cause: str) -> Unavailable:
    return Unavailable(
        f"the actor of the service '{service}' is dead and is not started again ({cause}); "
        "stop the environment and start it anew",
        code="service_died",
    )
