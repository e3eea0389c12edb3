"""Anthropic's stream of events as OpenAI's chunks, event by event.

Source: Anthropic's API reference, *Streaming messages*.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sage.errors import SageError
from sage.middleware.providers.anthropic.answer import (
    arguments_of,
    chat_answer,
    finish_reason,
    is_thought,
    kept_thought,
    refusal_of,
)
from sage.middleware.providers.anthropic.tools import ANSWER_TOOL
from sage.middleware.providers.anthropic.usage import MessageCounts, usage_of
from sage.middleware.providers.wire.chunks import answer_events
from sage.middleware.providers.wire.errors import reported_error
from sage.middleware.providers.wire.event_bytes import cut_off
from sage.middleware.providers.wire.json_values import string
from sage.middleware.providers.wire.tool_calls import call_id
from sage.middleware.providers.wire.translated_stream import TranslatedStream

_MOST_BLOCKS = 10_000


class AnthropicRelay(TranslatedStream):
    """The relay of one chat stream.

    A thought goes on as ``reasoning_content`` while it comes, and with its signature, as an entry of
    ``thinking_blocks``, at its end.
    """

    def __init__(self, model: str, *, keep_usage: bool, by_tool: bool, on_error: Callable[[Any], SageError]) -> None:
        super().__init__(model, keep_usage=keep_usage, on_error=on_error)
        self._model = model
        self._keep_usage = keep_usage
        self._by_tool = by_tool
        self._counts = MessageCounts()
        self._blocks: dict[Any, _Block] = {}
        """Those that have begun and not ended, by their index."""
        self._calls = 0
        self._ending: dict[str, Any] = {}
        """What ``message_delta`` says of the end, once it has come."""
        self._translate: dict[str, Callable[[dict[str, Any]], bytes]] = {
            "message_start": self._message_start,
            "content_block_start": self._block_start,
            "content_block_delta": self._block_delta,
            "content_block_stop": self._block_stop,
            "message_delta": self._message_delta,
            "message_stop": self._message_stop,
        }

    def _event(self, event: Any) -> bytes:
        if not isinstance(event, dict):
            return b""
        kind = event.get("type")
        translate = self._translate.get(kind) if isinstance(kind, str) else None
        if translate is not None:
            return translate(event)
        if kind == "message":
            return self._whole(event)
        if kind in (None, "error"):
            raise self._on_error(reported_error(event) or event)
        return b""  # a ping, or an event that the vendor has added

    def _ended(self) -> bytes:
        if self._ending and not self._blocks:
            return self._message_stop({})  # nothing is missing but the last event
        raise cut_off()

    def _whole(self, answer: dict[str, Any]) -> bytes:
        """The stream of an answer that came whole."""
        decoded = chat_answer(answer, self._model, by_tool=self._by_tool)
        if decoded is None:
            raise self._on_error({"message": "the answer has no content"})
        translated, self.usage = decoded
        self.finished = True
        return answer_events(translated, keep_usage=self._keep_usage)

    def _message_start(self, event: dict[str, Any]) -> bytes:
        message = event.get("message")
        self._counts.add(message.get("usage") if isinstance(message, dict) else None)
        return b""

    def _block_start(self, event: dict[str, Any]) -> bytes:
        start = event.get("content_block")
        if not isinstance(start, dict) or len(self._blocks) >= _MOST_BLOCKS:
            return b""
        block = _Block(start)
        self._blocks[_index(event)] = block
        kind = start.get("type")
        if kind == "tool_use" and self._by_tool and start.get("name") == ANSWER_TOOL:
            block.is_answer = True
        elif kind == "tool_use":
            block.number, self._calls = self._calls, self._calls + 1
            function = {"name": string(start.get("name")), "arguments": ""}
            begun = {"id": string(start.get("id")) or call_id(), "type": "function", "function": function}
            return self._delta({"tool_calls": [{"index": block.number, **begun}]})
        return self._added(block, "text", start.get("text")) + self._added(block, "thinking", start.get("thinking"))

    def _block_delta(self, event: dict[str, Any]) -> bytes:
        block, delta = self._blocks.get(_index(event)), event.get("delta")
        if block is None or not isinstance(delta, dict):
            return b""
        match delta.get("type"):
            case "text_delta":
                return self._added(block, "text", delta.get("text"))
            case "thinking_delta":
                return self._added(block, "thinking", delta.get("thinking"))
            case "signature_delta":
                block.signature.append(string(delta.get("signature")))
            case "input_json_delta":
                return self._arguments(block, string(delta.get("partial_json")))
            case "citations_delta" if isinstance(delta.get("citation"), dict):
                return self._delta({"citations": [delta["citation"]]})
        return b""

    def _added(self, block: _Block, kind: str, text: Any) -> bytes:
        if not text or not isinstance(text, str):
            return b""
        if kind == "text":
            return self._delta({"content": text})
        block.thoughts.append(text)
        return self._delta({"reasoning_content": text})

    def _arguments(self, block: _Block, arguments: str) -> bytes:
        if not arguments:
            return b""
        block.has_arguments = True
        if block.is_answer:
            return self._delta({"content": arguments})
        if block.number is None:  # a tool that the vendor runs
            return b""
        return self._delta({"tool_calls": [{"index": block.number, "function": {"arguments": arguments}}]})

    def _block_stop(self, event: dict[str, Any]) -> bytes:
        block = self._blocks.pop(_index(event), None)
        if block is None:
            return b""
        if is_thought(block.start):
            return self._delta({"thinking_blocks": [kept_thought(block.thought())]})
        if not block.has_arguments:
            return self._arguments(block, block.whole_arguments())
        return b""

    def _message_delta(self, event: dict[str, Any]) -> bytes:
        delta = event.get("delta")
        if isinstance(delta, dict) and isinstance(delta.get("stop_reason"), str):
            self._ending = delta
        self.usage = self._counts.add(event.get("usage"))
        return b""

    def _message_stop(self, event: dict[str, Any]) -> bytes:
        if not self._ending:
            return b""  # it has not said why it ended, so it may be cut off
        self.finished = True
        finish = finish_reason(self._ending.get("stop_reason"), has_calls=self._calls > 0)
        refusal = refusal_of(self._ending)
        stop = self._ending.get("stop_sequence")
        fields = {"stop_reason": stop} if isinstance(stop, str) else {}
        counted = usage_of(self.usage) if self.usage is not None else None
        last = self._delta({"refusal": refusal} if refusal else {}, finish, **fields)
        return last + self._writer.done(self.usage, counted)


class _Block:
    """One block that has begun."""

    __slots__ = ("has_arguments", "is_answer", "number", "signature", "start", "thoughts")

    def __init__(self, start: dict[str, Any]) -> None:
        self.start = start
        self.number: int | None = None
        """Of a call, among those of the answer."""
        self.is_answer = False
        self.has_arguments = False
        self.thoughts: list[str] = []
        self.signature = [string(start.get("signature"))]

    def thought(self) -> dict[str, Any]:
        """A block of thinking, whole."""
        return {**self.start, "thinking": "".join(self.thoughts), "signature": "".join(self.signature)}

    def whole_arguments(self) -> str:
        """The arguments of a call whose input has come at its start, or not at all."""
        return arguments_of(self.start) if self.start.get("type") == "tool_use" else ""


def _index(event: dict[str, Any]) -> Any:
    index = event.get("index")
    return index if isinstance(index, int | str) else 0
