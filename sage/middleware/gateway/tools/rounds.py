"""One round of a model that has tools of the gateway beside the caller's: what goes on to the caller, and what does
not."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import orjson

from sage.middleware.providers.wire.gathering import AnswerGathering
from sage.middleware.providers.wire.messages import DeltaReader, finish_of, read_message
from sage.middleware.providers.wire.sse import payloads
from sage.middleware.providers.wire.tool_calls import LEGACY, CallFragment, ToolCall, is_custom

_CALLS = frozenset({"tool_calls", LEGACY})


class AnswerHead:
    """What all chunks of the answer have in common, though they come from several rounds: ``id``, ``created``."""

    def __init__(self, separator: str) -> None:
        """``separator`` is put between the texts of two rounds."""
        self.fields: dict[str, Any] = {}
        self.has_text = False
        self.calls = 0
        """The caller's calls so far, which are numbered through."""
        self.separator = separator

    def of(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """``chunk`` under the head of the first one."""
        if not self.fields:
            self.fields = {name: chunk[name] for name in ("id", "object", "created", "model") if name in chunk}
        return {**chunk, **self.fields}

    def event(self, delta: dict[str, Any], finish: str | None = None, **fields: Any) -> bytes:
        """A chunk of the gateway's own."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return _event({**self.fields, "choices": [choice], **fields})

    def usage_event(self, usage: dict[str, Any]) -> bytes:
        """The chunk that carries the usage."""
        return _event({**self.fields, "choices": [], "usage": usage})


class Round:
    """Reads one answer of the model, whole or as events. ``own`` are the names of the gateway's tools."""

    def __init__(self, own: Container[str], head: AnswerHead, *, is_first: bool) -> None:
        self._own = own
        self._head = head
        self._is_first = is_first
        self._reader = DeltaReader()
        self._whole = AnswerGathering(chat=True)
        self._numbers: dict[Any, int] = {}
        """The number of each of the caller's calls that was passed on, by call or by the upstream's index."""
        self._separated = False
        self.usage: dict[str, Any] | None = None
        self.finish: str | None = None
        self.has_foreign_calls = False
        """Whether the model has called a tool of the caller's."""
        self._calls: list[ToolCall] = []
        self._message: dict[str, Any] | None = None

    def read_whole(self, answer: dict[str, Any]) -> None:
        """Takes a whole answer."""
        choices = answer.get("choices") or [{}]
        self._message = dict(choices[0].get("message") or {})
        self._calls = read_message(self._message).calls
        custom = any(map(is_custom, self._message.get("tool_calls") or ()))
        self.has_foreign_calls = custom or any(call.name not in self._own for call in self._calls)
        self.finish, usage = finish_of(choices[0]), answer.get("usage")
        self.usage = usage if isinstance(usage, dict) else None

    def translate(self, events: bytes) -> bytes:
        """The events of the round that the caller sees at once; usage and the end of the round are kept."""
        return b"".join([self._translated(chunk) for chunk in payloads(events) if isinstance(chunk, dict)])

    def _translated(self, chunk: dict[str, Any]) -> bytes:
        self._whole.add(chunk)
        if isinstance(chunk.get("usage"), dict):
            self.usage = chunk["usage"]
        chunk = self._head.of(chunk)
        chunk.pop("usage", None)
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return b""
        choice = dict(choices[0])
        delta = dict(choice["delta"]) if isinstance(choice.get("delta"), dict) else {}
        read = self._reader.read(delta)
        shown = [*self._custom(delta), *(call for part in read.calls for call in self._passed(part))]
        delta = {name: value for name, value in delta.items() if name not in _CALLS}
        if shown:
            delta["tool_calls"] = shown
        self._separate(delta, bool(read.text))
        if choice.get("finish_reason"):
            self.finish = finish_of(choice)
            choice["finish_reason"] = None
        if not self._is_first:
            delta.pop("role", None)
        if not any(value not in (None, "", []) for value in delta.values()) and choice.get("logprobs") is None:
            return b""
        return _event({**chunk, "choices": [{**choice, "delta": delta}]})

    def _separate(self, delta: dict[str, Any], has_text: bool) -> None:
        if not has_text:
            return
        if not self._separated and self._head.has_text and isinstance(delta.get("content"), str):
            delta["content"] = self._head.separator + delta["content"]
        self._separated = self._head.has_text = True

    def _custom(self, delta: dict[str, Any]) -> list[dict[str, Any]]:
        calls = delta.get("tool_calls")
        custom = [call for call in calls if is_custom(call)] if isinstance(calls, list) else []
        return [{**call, "index": self._number(("custom", call.get("index")))} for call in custom]

    def _number(self, call: Any) -> int:
        if call not in self._numbers:
            self._numbers[call] = self._head.calls
            self._head.calls += 1
            self.has_foreign_calls = True
        return self._numbers[call]

    def _passed(self, part: CallFragment) -> list[dict[str, Any]]:
        """``part`` as the caller sees it, if it belongs to one of the caller's tools. Its name is complete once the
        first of its arguments have come."""
        call = part.call
        if call in self._numbers:
            return [{"index": self._numbers[call], "function": {"arguments": part.arguments}}] if part.arguments else []
        if not call.started or call.name in self._own:
            return []
        return [{"index": self._number(call), **call.as_openai()}]

    def end(self) -> bytes:
        """The calls of the caller's tools that came without arguments; to be called when the stream has ended."""
        self._calls = self._reader.calls
        late = [call for call in self._calls if call not in self._numbers and call.name not in self._own]
        if not late:
            return b""
        return self._head.event({"tool_calls": [{"index": self._number(call), **call.as_openai()} for call in late]})

    @property
    def own_calls(self) -> list[ToolCall]:
        """The model's calls of the gateway's tools, once the round has ended."""
        return [call for call in self._calls if call.name in self._own]

    def message(self) -> dict[str, Any]:
        """The model's message with all its calls, as it goes back to the model."""
        message = self._message
        if message is None:
            choices = self._whole.answer()["choices"]
            message = choices[0]["message"] if choices else {}
        message = {name: value for name, value in message.items() if value is not None and name not in _CALLS}
        message = {"role": "assistant", "content": None, **message}
        calls = [call.as_openai() for call in self._calls]
        calls += [call for call in self._raw_calls() if is_custom(call)]
        return {**message, "tool_calls": calls} if calls else message

    def _raw_calls(self) -> list[Any]:
        calls = self._message.get("tool_calls") if self._message is not None else None
        return calls if isinstance(calls, list) else []


def is_call_of(call: Any, own: Container[str]) -> bool:
    """Whether an entry of ``tool_calls`` is a call of one of the tools ``own``."""
    function = call.get("function") if isinstance(call, dict) else None
    return isinstance(function, dict) and function.get("name") in own


def add_usage(total: dict[str, Any] | None, more: dict[str, Any] | None) -> dict[str, Any] | None:
    """The sum of two objects of usage, field by field; what is no number is the last one's."""
    if total is None or more is None:
        return more if total is None else total
    summed = dict(total)
    for name, value in more.items():
        before = summed.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            summed[name] = add_usage(before, value)
        elif _is_number(value) and _is_number(before):
            summed[name] = before + value
        elif value is not None:
            summed[name] = value
    return summed


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
