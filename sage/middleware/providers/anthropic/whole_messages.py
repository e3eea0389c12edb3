"""Whole messages as streams of Anthropic's events, and back: for a server that sends the one where the other was asked.

Source: Anthropic's API reference, *Streaming messages*.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from sage.middleware.providers.wire import lenient_json
from sage.middleware.providers.wire.json_values import objects, string
from sage.middleware.providers.wire.sse import payloads

_DELTAS = {"text": "text_delta", "thinking": "thinking_delta", "signature": "signature_delta"}
"""The texts of a block that come in deltas, in their order."""


def message_events(message: dict[str, Any]) -> bytes:
    """The events that say what ``message`` says."""
    return b"".join(b"event: %b\ndata: %b\n\n" % (each["type"].encode(), orjson.dumps(each)) for each in _of(message))


def _of(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    started = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
    yield {"type": "message_start", "message": started}
    for index, block in enumerate(objects(message.get("content"))):
        yield from _block_events(index, block)
    ending = {name: message.get(name) for name in ("stop_reason", "stop_sequence", "stop_details", "container")}
    usage = message.get("usage")
    yield {"type": "message_delta", "delta": ending, "usage": usage if isinstance(usage, dict) else {}}
    yield {"type": "message_stop"}


def _block_events(index: int, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    deltas = [{"type": kind, name: block[name]} for name, kind in _DELTAS.items() if block.get(name) and name in block]
    started = {**block, **{name: "" for name in _DELTAS if name in block}}
    if block.get("type") == "tool_use":
        started["input"] = {}
        deltas.append({"type": "input_json_delta", "partial_json": orjson.dumps(block.get("input") or {}).decode()})
    deltas += [{"type": "citations_delta", "citation": cited} for cited in objects(started.pop("citations", None))]
    yield {"type": "content_block_start", "index": index, "content_block": started}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def gathered_message(events: bytes) -> dict[str, Any]:
    """The message that ``events`` say, which are those of a whole stream."""
    message: dict[str, Any] = {}
    blocks: dict[Any, dict[str, Any]] = {}
    arguments: dict[Any, list[str]] = {}
    for event in objects(payloads(events)):
        index, delta = str(event.get("index")), event.get("delta")
        match event.get("type"):
            case "message_start" if isinstance(event.get("message"), dict):
                message = event["message"]
            case "content_block_start" if isinstance(event.get("content_block"), dict):
                blocks[index] = event["content_block"]
            case "content_block_delta" if index in blocks and isinstance(delta, dict):
                _add(blocks[index], arguments.setdefault(index, []), delta)
            case "message_delta":
                _end(message, delta, event.get("usage"))
    for index, pieces in arguments.items():
        if pieces:
            blocks[index]["input"] = _arguments("".join(pieces))
    return {**message, "content": list(blocks.values())}


def _add(block: dict[str, Any], arguments: list[str], delta: dict[str, Any]) -> None:
    for name, kind in _DELTAS.items():
        if delta.get("type") == kind:
            block[name] = string(block.get(name)) + string(delta.get(name))
    if delta.get("type") == "input_json_delta":
        arguments.append(string(delta.get("partial_json")))
    elif delta.get("type") == "citations_delta" and isinstance(delta.get("citation"), dict):
        block["citations"] = [*objects(block.get("citations")), delta["citation"]]


def _end(message: dict[str, Any], delta: Any, usage: Any) -> None:
    if isinstance(delta, dict):
        message.update(delta)
    if isinstance(usage, dict):
        before = message.get("usage")
        counts = {name: count for name, count in usage.items() if count is not None}
        message["usage"] = {**(before if isinstance(before, dict) else {}), **counts}


def _arguments(text: str) -> Any:
    try:
        return lenient_json.read(text)
    except ValueError:
        return {}
