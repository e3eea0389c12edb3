"""At most one tool call a turn (``parallel_tool_calls: false``), for vendors that cannot be told so.

The first call of an answer is kept, and the others are left out: the next turn then has the result of that one alone,
as after an answer of a vendor that made one. Clients send it by themselves (Codex does), so to refuse it would shut
them out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from sage.errors import SageError
from sage.middleware.providers.base import ModelCall, Operation, Relay, Usage
from sage.middleware.providers.wire.json_values import objects

_FIELD = "parallel_tool_calls"


def wants_one(call: ModelCall) -> bool:
    """Whether the caller takes one call a turn at most."""
    return call.operation is Operation.CHAT and call.body.get(_FIELD) is False


def without_limit(call: ModelCall) -> ModelCall:
    """``call`` as the vendor can be asked it."""
    if not wants_one(call):
        return call
    return replace(call, body={name: value for name, value in call.body.items() if name != _FIELD})


def keep_first(call: ModelCall, answer: dict[str, Any]) -> None:
    """Leaves all calls but the first of each choice out of a chat ``answer``, if the caller takes one at most."""
    if not wants_one(call):
        return
    for choice in objects(answer.get("choices")):
        message = choice.get("message")
        if isinstance(message, dict) and isinstance(message.get("tool_calls"), list):
            message["tool_calls"] = message["tool_calls"][:1]


def first_only(call: ModelCall, relay: Relay) -> Relay:
    """``relay``, which leaves the calls after the first out if the caller takes one at most."""
    return _FirstCallRelay(relay) if wants_one(call) else relay


class _FirstCallRelay:
    """The events of another relay of chat chunks, without the calls after the first."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._tell()

    def feed(self, data: bytes) -> bytes:
        events = self._relay.feed(data)
        self._tell()
        return _without_others(events)

    def close(self) -> bytes:
        try:
            return _without_others(self._relay.close())
        finally:
            self._tell()

    def _tell(self) -> None:
        self.usage: Usage | None = self._relay.usage
        self.finished: bool = self._relay.finished
        self.error: SageError | None = self._relay.error


def _without_others(events: bytes) -> bytes:
    if b'"tool_calls"' not in events:
        return events
    return b"".join([_first_of(event) for event in events.split(b"\n\n") if event])


def _first_of(event: bytes) -> bytes:
    """The event as it is, with fewer calls, or nothing if nothing else is in it."""
    if not event.startswith(b"data: {") or b'"tool_calls"' not in event:
        return event + b"\n\n"
    chunk = orjson.loads(event.removeprefix(b"data: "))
    is_empty = True
    for choice in objects(chunk.get("choices")):
        delta = choice.get("delta")
        calls = delta.get("tool_calls") if isinstance(delta, dict) else None
        if isinstance(delta, dict) and isinstance(calls, list):
            kept = [call for call in calls if not isinstance(call, dict) or call.get("index", 0) == 0]
            delta["tool_calls"] = kept
            if not kept:
                del delta["tool_calls"]
        is_empty = is_empty and not delta and choice.get("finish_reason") is None
    return b"" if is_empty and not chunk.get("usage") else b"data: %b\n\n" % orjson.dumps(chunk)
