"""Calls and their replies as they travel between a process and an actor of a service."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import Any

from sage.kernels.runtime.ray.deadlines import RemoteClock, from_wire
from sage.kernels.runtime.ray.errors import RemoteError, packed, unpacked, why_not_carried
from sage.kernels.runtime.services.calls import ServiceCall

Message = list[Any]
"""A call: ``[number, method, args]``, and unless they are as usual also ``kwargs, call_chain, deadline, order,
is_batch``. As short as can be, and of lists, which cost Ray less than tuples."""
Reply = tuple[int, bool, Any]
"""``(number, whether it succeeded, result or packed error)``."""


def message_of(number: int, call: ServiceCall, clock: RemoteClock) -> Message:
    message: Message = [number, call.method, list(call.args)]
    chain = call.call_chain
    if call.deadline is None and not call.kwargs and call.order is None and not call.is_batch and len(chain) == 1:
        return message
    deadline = clock.to_wire(call.deadline) if call.deadline is not None else None
    return [*message, call.kwargs, list(chain), deadline, call.order, call.is_batch]


def call_of(message: Message, call_chain: tuple[str, ...], waits: bool = False) -> ServiceCall:
    """The call that a message brings; ``call_chain`` is that of a call from outside of any service."""
    if len(message) == 3:
        return ServiceCall(message[1], message[2], {}, call_chain, waits=waits)
    _, method, args, kwargs, chain, deadline, order, is_batch = message
    moment = from_wire(deadline) if deadline is not None else None
    return ServiceCall(method, args, kwargs, tuple(chain), moment, order, is_batch, waits)


def reply_of(number: int, call: ServiceCall) -> Reply:
    """The reply to a settled call."""
    error = call.exception()
    if error is None:
        result = call.result()
        if (why := why_not_carried(result)) is None:
            return number, True, result
        error = RemoteError(
            f"'{call.service}'.{call.method} gave what cannot be carried to another process, "
            f"a {type(result).__qualname__}: {why}",
            code="result_not_carried",
        )
        error.__cause__ = why
    elif isinstance(error, CancelledError):
        error = CancelledError(str(error))
    return number, False, packed(error)


def settle(call: ServiceCall, succeeded: bool, value: Any) -> None:
    """Settles ``call`` with what its reply brought."""
    if succeeded:
        call.succeed(value)
    else:
        call.fail(unpacked(value))
