"""Anthropic's wire for the scripted upstream: a server that echoes, and refuses what Anthropic refuses.

    up.handler = anthropic_like

Every request is read by the types of Anthropic's SDK, with no unknown field let through, and held to the rules of its
documentation that no type says. Every scripted answer and event is read by the SDK's types, too.
"""

from __future__ import annotations

import json
import re
from typing import Any, get_type_hints

import pydantic
from anthropic.types import (
    Message,
    MessageCountTokensParams,
    RawMessageStreamEvent,
    TextBlockParam,
    ToolChoiceParam,
    ToolUnionParam,
)
from anthropic.types.content_block_param import ContentBlockParam
from anthropic.types.message_create_params import MessageCreateParamsBase, MessageCreateParamsStreaming
from anthropic.types.output_config_param import OutputConfigParam
from anthropic.types.thinking_config_param import ThinkingConfigParam
from upstream import Received, Script, reply, stream

KEY = "sk-ant-key-0123456789"
MODELS = ("claude-sonnet-4-5", "claude-opus-4-8")
_STRICT = pydantic.ConfigDict(extra="forbid")
_BLOCK = pydantic.TypeAdapter[Any](ContentBlockParam, config=_STRICT)
_TYPES: dict[str, pydantic.TypeAdapter[Any]] = {
    "max_tokens": pydantic.TypeAdapter(int),
    "stop_sequences": pydantic.TypeAdapter(list[str]),
    "system": pydantic.TypeAdapter(str | list[TextBlockParam], config=_STRICT),
    "tools": pydantic.TypeAdapter(list[ToolUnionParam], config=_STRICT),
    "tool_choice": pydantic.TypeAdapter(ToolChoiceParam, config=_STRICT),
    "thinking": pydantic.TypeAdapter(ThinkingConfigParam, config=_STRICT),
    "output_config": pydantic.TypeAdapter(OutputConfigParam | None, config=_STRICT),
}
_FIELDS = {
    "/v1/messages": frozenset(get_type_hints(MessageCreateParamsStreaming)) - {"user_profile_id", "workspace_id"},
    "/v1/messages/count_tokens": frozenset(get_type_hints(MessageCountTokensParams)),
}
_SAMPLING = frozenset({"temperature", "top_p", "top_k"})
"""Of the version 2023-06-01; the SDK's types are those of a later one."""
_OF_ASSISTANT = frozenset({"text", "thinking", "redacted_thinking", "tool_use"})
_EVENT = pydantic.TypeAdapter[Any](RawMessageStreamEvent)
assert "max_tokens" in get_type_hints(MessageCreateParamsBase)


def fault(path: str, body: dict[str, Any], version: str) -> str | None:
    """What is wrong with a request, in the eyes of Anthropic's SDK and documentation."""
    fields = _FIELDS[path] | (_SAMPLING if version == "2023-06-01" else frozenset())
    if unknown := body.keys() - fields:
        return f"{sorted(unknown)[0]}: Extra inputs are not permitted"
    needed = {"model", "messages"} | ({"max_tokens"} if path == "/v1/messages" else set())
    if missing := needed - body.keys():
        return f"{sorted(missing)[0]}: Field required"
    for name, value in body.items():
        if name in _TYPES:
            try:
                _TYPES[name].validate_python(value, strict=True)
            except pydantic.ValidationError as exc:
                return f"{name}: {exc}"
    return _fault_of_messages(body["messages"]) or _fault_of_thinking(body)


def _fault_of_messages(messages: list[dict[str, Any]]) -> str | None:
    called: set[str] = set()
    for number, message in enumerate(messages):
        where, content = f"messages.{number}", message["content"]
        if message.keys() != {"role", "content"} or message["role"] not in ("user", "assistant"):
            return f"{where}: role and content"
        if number == 0 and message["role"] != "user":
            return f"{where}: first message must use the user role"
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not blocks:
            return f"{where}: must have non-empty content"
        for block in blocks:
            if wrong := _fault_of_block(block):
                return f"{where}: {wrong}"
            if message["role"] == "assistant" and block["type"] not in _OF_ASSISTANT:
                return f"{where}: {block['type']} in an assistant message"
        results = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
        if results != called:
            return f"{where}: `tool_use` ids were found without `tool_result` blocks"
        called = {block["id"] for block in blocks if block["type"] == "tool_use"}
    last = messages[-1]["content"]
    if messages[-1]["role"] == "assistant" and isinstance(last, str) and last != last.rstrip():
        return "messages: final assistant content cannot end with trailing whitespace"
    return None


def _fault_of_block(block: dict[str, Any]) -> str | None:
    try:
        _BLOCK.validate_python(block)
    except pydantic.ValidationError as exc:
        return str(exc)
    if block["type"] == "text" and not block["text"].strip():
        return "text content blocks must contain non-whitespace text"
    if block["type"] == "tool_use" and not re.fullmatch(r"[a-zA-Z0-9_-]+", block["id"]):
        return "tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
    inner = block.get("content")
    return next(filter(None, map(_fault_of_block, inner)), None) if isinstance(inner, list) else None


def _fault_of_thinking(body: dict[str, Any]) -> str | None:
    model, thinking = body["model"], body.get("thinking") or {}
    adaptive_only = any(name in model for name in ("opus-4-8", "sonnet-5"))
    if adaptive_only and not _SAMPLING.isdisjoint(body):
        return "temperature is deprecated for this model"
    if adaptive_only and thinking.get("type") == "enabled":
        return '"thinking.type.enabled" is not supported for this model'
    if "4-5" in model and thinking.get("type") == "adaptive":
        return "adaptive thinking is not supported on this model"
    if thinking.get("type") == "enabled":
        if not 1024 <= thinking["budget_tokens"] < body["max_tokens"]:
            return "`max_tokens` must be greater than `thinking.budget_tokens`"
        if not _SAMPLING.isdisjoint(body):
            return "`temperature` may only be set to 1 when thinking is enabled"
        last = body["messages"][-2]["content"] if len(body["messages"]) > 1 else []
        kinds = [block["type"] for block in last] if isinstance(last, list) else []
        if "tool_use" in kinds and kinds[0] not in ("thinking", "redacted_thinking"):
            return "Expected `thinking` or `redacted_thinking`, but found `tool_use`"
    if thinking.get("type") in ("enabled", "adaptive") and body.get("tool_choice", {}).get("type") in ("any", "tool"):
        return "Thinking may not be enabled when tool_choice forces tool use."
    return None


def anthropic_like(request: Received) -> Script:
    """What Anthropic would answer: messages that echo, a token for each word, its list of models."""
    headers = request.headers
    if headers.get("x-api-key") != KEY and headers.get("authorization") != f"Bearer {KEY}":
        return failure(401, "authentication_error", "invalid x-api-key")
    version = headers.get("anthropic-version", "")
    if version not in ("2023-06-01", "2026-10-21"):
        return failure(400, "invalid_request_error", "anthropic-version: header is required")
    path, body = request.path.partition("?")[0], request.body if isinstance(request.body, dict) else {}
    if path == "/v1/models":
        entries = [{"type": "model", "id": name, "display_name": name} for name in MODELS]
        return reply({"data": entries, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]})
    if path not in _FIELDS:
        return failure(404, "not_found_error", "Not Found")
    if wrong := fault(path, body, version):
        return failure(400, "invalid_request_error", wrong)
    words = len(json.dumps(body["messages"]).split())
    if path == "/v1/messages/count_tokens":
        return reply({"input_tokens": words})
    text = _last_text(body)
    counted = usage(words, len(text.split()))
    if body.get("stream"):
        return events(*text_block(*(word + " " for word in text.split(" "))), *end(counted=counted))
    return reply(message({"type": "text", "text": text}, counted=counted, model=body["model"]))


def _last_text(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content) or "nothing"


def failure(status: int, kind: str, text: str, **headers: str) -> Script:
    """An error in Anthropic's envelope."""
    body = {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_011"}
    return reply(body, status=status, headers=headers)


def usage(question: int, answer: int, **more: Any) -> dict[str, Any]:
    return {"input_tokens": question, "output_tokens": answer, **more}


def message(*content: dict[str, Any], stop: str | None = "end_turn", counted: Any = None, **fields: Any) -> Any:
    """A whole message."""
    head = {"id": "msg_01", "type": "message", "role": "assistant", "model": "claude-x", "stop_sequence": None}
    whole = {**head, "content": list(content), "stop_reason": stop, "usage": counted or usage(4, 3), **fields}
    Message.model_validate(whole)
    return whole


def block(start: dict[str, Any], *deltas: dict[str, Any], index: int = 0) -> list[dict[str, Any]]:
    """One content block, from its start to its stop."""
    begin = {"type": "content_block_start", "index": index, "content_block": start}
    middle = [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
    return [begin, *middle, {"type": "content_block_stop", "index": index}]


def text_block(*pieces: str, index: int = 0) -> list[dict[str, Any]]:
    deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
    return block({"type": "text", "text": ""}, *deltas, index=index)


def tool_block(name: str, *pieces: str, index: int = 0, identity: str = "toolu_01") -> list[dict[str, Any]]:
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return block({"type": "tool_use", "id": identity, "name": name, "input": {}}, *deltas, index=index)


def thinking_block(*pieces: str, signature: str = "c2lnbg==", index: int = 0) -> list[dict[str, Any]]:
    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
    start = {"type": "thinking", "thinking": "", "signature": ""}
    return block(start, *deltas, {"type": "signature_delta", "signature": signature}, index=index)


def end(stop: str = "end_turn", *, counted: Any = None, **delta: Any) -> list[dict[str, Any]]:
    """The two events at the end."""
    told = {"stop_reason": stop, "stop_sequence": None, **delta}
    return [{"type": "message_delta", "delta": told, "usage": counted or usage(4, 3)}, {"type": "message_stop"}]


def start(counted: Any = None) -> dict[str, Any]:
    first = message(stop=None, counted=counted or usage(4, 1), model="claude-x")
    return {"type": "message_start", "message": first}


def encoded(item: dict[str, Any] | bytes) -> bytes:
    """An event as it goes over the wire; what is none of the SDK's is an error in the test, but for bytes."""
    if isinstance(item, bytes):
        return item
    if item["type"] not in ("ping", "error"):
        _EVENT.validate_python(item)
    return f"event: {item['type']}\ndata: {json.dumps(item)}\n\n".encode()


def events(*items: dict[str, Any] | bytes, counted: Any = None, **options: Any) -> Script:
    """A stream of these events, after the first that every one has."""
    return stream([encoded(item) for item in (start(counted), {"type": "ping"}, *items)], no_done=True, **options)


def one_byte(items: list[dict[str, Any]]) -> Script:
    """The same, each byte in a packet of its own."""
    data = b"".join(map(encoded, (start(), *items)))
    return stream([bytes([byte]) for byte in data], no_done=True)
