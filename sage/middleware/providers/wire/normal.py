"""Answers and chunks of servers that speak OpenAI's wire, as OpenAI itself would send them, where its SDKs need that.

Mended are: tool calls (:mod:`~sage.middleware.providers.wire.tool_calls`), reasoning, which is ``reasoning_content``
beside the server's own name for it, text in parts, and choices without a message or delta. All else goes on as it
came, and an answer that needs nothing keeps its bytes.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from sage.middleware.providers.wire import lenient_json
from sage.middleware.providers.wire.chunks import delta_of
from sage.middleware.providers.wire.event_bytes import event_data
from sage.middleware.providers.wire.messages import DeltaReader, flat_content, reasoning_of
from sage.middleware.providers.wire.sse import NOTABLE, EventRelay
from sage.middleware.providers.wire.tool_calls import (
    LEGACY,
    CallFragment,
    add_functions,
    arguments_text,
    call_id,
    functions_of,
    identity_of,
    is_custom,
)

_MENDABLE = frozenset({"tool_calls", LEGACY, "reasoning", "thinking"})
"""The fields of a message that may need mending."""
_MENDABLE_KEYS = (
    rb'tool_calls"|function_call"|reasoning"|thinking"|message"|content_filter(?:_offsets)?"|delta"\s*:\s*null'
    rb'|content"\s*:\s*\[\s*\{\s*"(?!token"|logprob"|bytes"|top_logprobs")'
)
"""The same in the bytes of a chunk, after their quotation mark, and what a chunk has that may have no delta."""
_MAY_NEED_MENDING = re.compile(rb'"(?:' + _MENDABLE_KEYS + rb")")


def is_plain_chat(choices: Any) -> bool:
    """Whether ``choices`` are those of a whole chat that OpenAI itself might have sent: texts, with nothing to mend and
    no error. Most are, and are looked at no further."""
    if type(choices) is not list or not choices:
        return False
    for choice in choices:
        if type(choice) is not dict or "error" in choice or choice.get("finish_reason") == "error":
            return False
        message = choice.get("message")
        if type(message) is not dict or not _MENDABLE.isdisjoint(message) or type(message.get("content")) is not str:
            return False
    return True


def normalise_choices(choices: list[dict[str, Any]], *, keep_reasoning: bool = True) -> bool | None:
    """Mends the ``choices`` of a whole chat in place and tells whether any changed; ``None`` if one has no message.

    A choice that has ended needs none: a content filter leaves nothing of it. ``keep_reasoning`` tells whether the
    server's own field stays beside ``reasoning_content``.
    """
    changed = False
    for choice in choices:
        message = choice.get("message")
        if isinstance(message, dict):
            if not _MENDABLE.isdisjoint(message) or not isinstance(message.get("content"), str):
                changed = _mend_message(message, keep_reasoning) or changed
        elif message is None and isinstance(choice.get("finish_reason"), str) and choice["finish_reason"]:
            choice["message"], changed = {"role": "assistant", "content": None}, True
        else:
            return None
    return changed


def normalise_texts(choices: list[dict[str, Any]]) -> bool:
    """The same for ``completions``: a choice that has ended without a text has an empty one."""
    changed = False
    for choice in choices:
        if choice.get("text") is None and choice.get("finish_reason"):
            choice["text"], changed = "", True
    return changed


def _mend_content(message: dict[str, Any]) -> bool:
    """Makes one text of text in parts, which OpenAI's SDK cannot read in an answer."""
    content = message.get("content")
    flat = flat_content(content) if isinstance(content, list) else None
    if flat is None:
        return False
    message["content"], refusal = flat
    if refusal and not message.get("refusal"):
        message["refusal"] = refusal
    return True


def _mend_message(message: dict[str, Any], keep_reasoning: bool) -> bool:
    changed = _mend_reasoning(message, keep_reasoning)
    changed = _mend_content(message) or changed
    if "content" not in message:
        message["content"], changed = None, True
    ids: set[str] = set()
    if isinstance(message.get("tool_calls"), dict):
        message["tool_calls"], changed = [message["tool_calls"]], True
    changed = add_functions(message.get("tool_calls")) or changed
    for call in functions_of(message.get("tool_calls")):
        identity = identity_of(call)
        if not identity or identity in ids:
            identity = call_id()
        ids.add(identity)
        if call.get("id") != identity:
            call["id"], changed = identity, True
        if not call.get("type"):
            call["type"], changed = "function", True
        changed = _mend_arguments(call["function"]) or changed
    if isinstance(message.get(LEGACY), dict):
        changed = _mend_arguments(message[LEGACY]) or changed
    return changed


def _mend_arguments(function: dict[str, Any]) -> bool:
    arguments = function.get("arguments")
    function["arguments"] = arguments_text(arguments, empty="{}")
    return bool(function["arguments"] != arguments)


def _mend_reasoning(message: dict[str, Any], keep: bool) -> bool:
    if message.get("reasoning_content"):
        return False
    reasoning = reasoning_of(message)
    if reasoning:
        message["reasoning_content"] = reasoning
        if not keep:
            message.pop("reasoning", None)
    return bool(reasoning)


class NormalRelay(EventRelay):
    """Relays a chat whose chunks are mended. Only what bytes say may need it is parsed."""

    __slots__ = ("_has_deltas", "_keep_reasoning", "_readers")
    _notable = re.compile(rb'"(?:' + NOTABLE + rb"|" + _MENDABLE_KEYS + rb")")

    def __init__(self, model: str, *, keep_reasoning: bool = True, **options: Any) -> None:
        """``options`` are those of :class:`EventRelay`; ``keep_reasoning`` as in :func:`normalise_choices`."""
        super().__init__(model, **options)
        self._keep_reasoning = keep_reasoning
        self._readers: dict[int, DeltaReader] = {}
        self._has_deltas = False
        """Whether a delta has said something: a message after that says it once more."""

    def _feed(self, data: bytes) -> bytes:
        events = super()._feed(data)
        if self._is_notable and _may_need_mending(events):
            return self._mended(events)
        if not self._has_deltas:
            self._has_deltas = b'"delta"' in events
        return events

    def close(self) -> bytes:
        events = super().close()
        return self._mended(events) if _may_need_mending(events) else events

    def _mended(self, events: bytes) -> bytes:
        return b"".join([self._mend_event(event) + b"\n\n" for event in events.split(b"\n\n")[:-1]])

    def _mend_event(self, event: bytes) -> bytes:
        try:
            chunk = lenient_json.read(event_data(event))
        except ValueError:
            return event  # a comment, or [DONE]
        choices = chunk.get("choices") if isinstance(chunk, dict) else None
        if not isinstance(choices, list) or not sum(map(self._mend_choice, choices)):  # each of them
            return event
        return b"data: " + orjson.dumps(chunk)

    def _mend_choice(self, choice: Any) -> bool:
        if not isinstance(choice, dict):
            return False
        delta = choice.get("delta")
        if delta is None:
            message = choice.pop("message", None)
            choice["delta"] = {} if self._has_deltas or not isinstance(message, dict) else delta_of(message)
            self._mend_delta(choice, choice["delta"])
            return True
        return isinstance(delta, dict) and self._mend_delta(choice, delta)

    def _mend_delta(self, choice: dict[str, Any], delta: dict[str, Any]) -> bool:
        self._has_deltas = self._has_deltas or bool(delta)
        changed = _mend_reasoning(delta, self._keep_reasoning)
        changed = _mend_content(delta) or changed
        if delta.get("tool_calls") or delta.get(LEGACY):
            changed = self._mend_calls(choice.get("index"), delta) or changed
        return changed

    def _mend_calls(self, index: Any, delta: dict[str, Any]) -> bool:
        number = index if isinstance(index, int) else 0
        changed = add_functions(delta.get("tool_calls"))
        fragments = self._readers.setdefault(number, DeltaReader()).read(delta).calls
        if not delta.get("tool_calls"):
            return bool(fragments) and _mend_function(delta[LEGACY], fragments[0])
        sent = delta["tool_calls"] if isinstance(delta["tool_calls"], list) else [delta["tool_calls"]]
        entries = [entry for entry in sent if is_custom(entry) or functions_of(entry)]
        changed = changed or bool(entries != delta["tool_calls"])
        delta["tool_calls"] = entries
        for entry, fragment in zip(functions_of(entries), fragments, strict=True):
            changed = _mend_fragment(entry, fragment) or changed
        return changed


def _may_need_mending(events: bytes) -> bool:
    """Whether a chunk in ``events`` may have a field that needs mending, or a choice without a delta."""
    if _MAY_NEED_MENDING.search(events) is not None:
        return True
    return events.count(b'"delta"') < events.count(b'"finish_reason"')


def _mend_fragment(entry: dict[str, Any], fragment: CallFragment) -> bool:
    """Makes ``entry`` say what ``fragment`` adds, and nothing else."""
    call, changed = fragment.call, False
    if entry.get("index") != call.number:
        entry["index"], changed = call.number, True
    if fragment.starts and entry.get("id") != call.id:
        entry["id"], changed = call.id, True
    elif not fragment.starts and entry.get("id"):
        del entry["id"]
        changed = True
    return _mend_function(entry["function"], fragment) or changed


def _mend_function(function: dict[str, Any], fragment: CallFragment) -> bool:
    changed = False
    for name, value in (("name", fragment.name), ("arguments", fragment.arguments)):
        if (function.get(name) or "") == value:
            continue
        changed = True
        if value or name == "arguments":
            function[name] = value
        else:
            del function[name]
    return changed
