"""Results and errors on their way from an actor to a caller: what can be pickled, and an error as what it is."""

from __future__ import annotations

from typing import Any

from sage.errors import SageError, Unavailable
from sage.kernels.runtime.ray.package import load_ray
from sage.kernels.runtime.services.calls import RemoteTraceback, with_traceback_as_cause

_SIMPLE = frozenset((type(None), bool, int, float, str, bytes))
_MOST_CHECKED = 100
"""Items of the longest list that is checked by looking at each; a longer one is pickled to see whether that works."""


class RemoteError(SageError):
    """A method raised what cannot be carried to its caller; the message and the cause say what it was."""

    default_code = "remote_error"


def is_plain(value: Any, depth: int = 4) -> bool:
    """Whether ``value`` can certainly be pickled: texts, numbers, arrays, and these in short lists, tuples and
    mappings. ``False`` means that this is not known."""
    kind = type(value)
    if kind in _SIMPLE:
        return True
    if kind is list or kind is tuple:
        return depth > 0 and len(value) <= _MOST_CHECKED and all(is_plain(item, depth - 1) for item in value)
    if kind is dict:
        return (
            depth > 0
            and len(value) <= _MOST_CHECKED
            and all(type(key) in _SIMPLE and is_plain(item, depth - 1) for key, item in value.items())
        )
    return kind.__name__ == "ndarray" and getattr(value.dtype, "hasobject", True) is False


def why_not_carried(value: Any) -> Exception | None:
    """The error that pickling ``value`` raises; ``None`` means that it can be carried."""
    if is_plain(value):
        return None
    try:
        load_ray().cloudpickle.dumps(value)
    except Exception as exc:
        return exc
    return None


def packed(error: BaseException) -> tuple[Any, ...]:
    """``error`` as it is carried: its class, its attributes, the text of its traceback. Never raises."""
    if not isinstance(error.__cause__, RemoteTraceback):
        with_traceback_as_cause(error)
    text = str(getattr(error.__cause__, "text", ""))
    for take_apart in (_by_its_own_reduce, _by_attributes):
        try:
            parts = take_apart(error)
        except Exception:  # noqa: S112 - the error's own code fails; the next way does without it
            continue
        if why_not_carried(parts) is None:
            return (*parts, text)
    message = f"{type(error).__qualname__}: {_text_of(error)} (an error that cannot be carried to another process)"
    return ("attributes", RemoteError, (message,), {"message": message, "code": RemoteError.default_code}, text)


def _by_its_own_reduce(error: BaseException) -> tuple[Any, ...]:
    """By its own ``__reduce_ex__``; raises when that would make an object of another class."""
    reduced: Any = error.__reduce_ex__(4)
    make, args, *state = reduced
    if type(make(*args)) is not type(error):
        raise TypeError
    return ("reduce", make, args, state[0] if state else None)


def _by_attributes(error: BaseException) -> tuple[Any, ...]:
    """For a class whose constructor takes other arguments than ``args``, such as :class:`sage.errors.MissingExtra`."""
    return ("attributes", type(error), error.args, dict(vars(error)))


def unpacked(parts: tuple[Any, ...]) -> BaseException:
    """The error that :func:`packed` took apart; its cause is the text of its traceback."""
    way, make, args, state, text = parts
    error: BaseException
    try:
        error = make(*args) if way == "reduce" else make.__new__(make, *args)
        if way == "attributes":
            error.args = args
        vars(error).update(state or {})
    except Exception as exc:
        error = RemoteError(f"an error that cannot be restored in this process ({type(exc).__name__}: {exc})")
    error.__cause__ = RemoteTraceback(text)
    return error


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "without a message"


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
