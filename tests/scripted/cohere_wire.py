"""Cohere's wire (API v2) for the scripted upstream: a server that echoes, and refuses what Cohere's own types refuse.

    up.handler = cohere_like

Every request is read by the types of Cohere's SDK, with their validation switched on and no unknown field let through.
"""

from __future__ import annotations

import base64
import inspect
import json
import struct
from typing import Any

import pydantic
from cohere import (
    AssistantMessageResponse,
    ChatMessageV2,
    CitationOptions,
    EmbedInput,
    ResponseFormatV2,
    Thinking,
    ToolV2,
)
from cohere.v2.client import V2Client
from cohere.v2.types.v2chat_request_documents_item import V2ChatRequestDocumentsItem
from upstream import Received, Script, reply, stream

KEY = "co-key-0123456789"
_TYPES: dict[str, Any] = {
    "messages": list[ChatMessageV2],
    "tools": list[ToolV2],
    "documents": list[V2ChatRequestDocumentsItem],
    "citation_options": CitationOptions,
    "response_format": ResponseFormatV2,
    "thinking": Thinking,
    "inputs": list[EmbedInput],
    "texts": list[str],
    "images": list[str],
    "stop_sequences": list[str],
    "embedding_types": list[str],
    "input_type": str,
    "tool_choice": str,
    "max_tokens": int,
    "query": str,
    "top_n": int,
}
_METHODS = {"/v2/chat": V2Client.chat, "/v2/embed": V2Client.embed, "/v2/rerank": V2Client.rerank}


def fault(path: str, body: dict[str, Any]) -> str | None:
    """What is wrong with a request, in the eyes of Cohere's SDK."""
    parameters = inspect.signature(_METHODS[path]).parameters
    needed = {name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty} - {"self"}
    if missing := needed - set(body):
        return f"missing {sorted(missing)}"
    if unknown := set(body) - set(parameters) - {"stream"}:
        return f"unknown {sorted(unknown)}"
    for name, value in body.items():
        if name in _TYPES:
            try:
                parsed = pydantic.TypeAdapter(_TYPES[name]).validate_python(value, strict=True)
            except pydantic.ValidationError as exc:
                return f"{name}: {exc}"
            if extra := extras(parsed):
                return f"unknown {sorted(extra)} in {name}"
    if body.get("tool_choice", "NONE") not in ("REQUIRED", "NONE"):
        return "tool_choice"
    for message in body.get("messages", ()):
        if message.get("tool_calls") and isinstance(message.get("content"), str) and message["content"]:
            return "text content is not allowed when tool_calls are provided"
    return None


def extras(value: Any) -> set[str]:
    """Fields that the SDK's types do not know, at any depth."""
    if isinstance(value, list):
        return set().union(*(extras(item) for item in value))
    if not isinstance(value, pydantic.BaseModel):
        return set()
    inner = [extras(getattr(value, name)) for name in type(value).model_fields]
    return set(value.model_extra or ()).union(*inner)


def cohere_like(request: Received) -> Script:
    """What Cohere would answer: chat that echoes, vectors of three numbers, ranks by common words."""
    if request.headers.get("authorization") != f"Bearer {KEY}":
        return reply({"message": "invalid api token"}, status=401)
    path, body = request.path.partition("?")[0], request.body if isinstance(request.body, dict) else {}
    if path == "/v1/models":
        return reply({"models": [{"name": name, "endpoints": ["chat"]} for name in ("command-a", "embed-v4.0")]})
    if path == "/v1/tokenize":
        tokens = [ord(letter) for letter in body["text"]]
        return reply({"tokens": tokens, "token_strings": list(body["text"]), "meta": {"api_version": {"version": "1"}}})
    if path == "/v1/detokenize":
        return reply({"text": "".join(map(chr, body["tokens"]))})
    if path not in _METHODS:
        return reply({"message": "not found"}, status=404)
    if wrong := fault(path, body):
        return reply({"id": "e1", "message": f"invalid request: {wrong}"}, status=422)
    if path == "/v2/embed":
        return reply(_embeddings(body))
    if path == "/v2/rerank":
        return reply(_ranking(body))
    text = _last_text(body)
    counted = usage(len(text.split()) + 1, len(text.split()))
    if body.get("stream"):
        return chat_stream(*text_events(*(word + " " for word in text.split(" "))), end(counted=counted))
    return reply(chat_answer(text, counted=counted))


def _last_text(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def usage(used: int, generated: int) -> dict[str, Any]:
    """Cohere bills fewer tokens than it uses."""
    return {
        "billed_units": {"input_tokens": used - 1, "output_tokens": generated},
        "tokens": {"input_tokens": used, "output_tokens": generated},
    }


def chat_answer(
    text: str | None = None, *, finish: str = "COMPLETE", counted: Any = None, **fields: Any
) -> dict[str, Any]:
    """A whole answer; ``fields`` are of the message, ``logprobs`` of the answer."""
    top = {"logprobs": fields.pop("logprobs")} if "logprobs" in fields else {}
    message = {"role": "assistant", **fields}
    if text is not None:
        message.setdefault("content", [{"type": "text", "text": text}])
    read = pydantic.TypeAdapter(AssistantMessageResponse).validate_python(message)
    assert not extras(read), "the script is not Cohere's wire"
    return {"id": "c14c80c3", "finish_reason": finish, "message": message, "usage": counted or usage(4, 3), **top}


def event(kind: str, message: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    delta = {} if message is None else {"delta": {"message": message}}
    return {"type": kind, **fields, **delta}


def start() -> dict[str, Any]:
    message = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    return event("message-start", message, id="29f14a5a")


def text_events(*pieces: str, index: int = 0, kind: str = "text") -> list[dict[str, Any]]:
    """One content block."""
    deltas = [event("content-delta", {"content": {kind: piece}}, index=index) for piece in pieces]
    begin = event("content-start", {"content": {"type": kind, kind: ""}}, index=index)
    return [begin, *deltas, event("content-end", index=index)]


def called(index: int, name: str, *arguments: str) -> list[dict[str, Any]]:
    """One tool call, with its arguments in pieces."""
    call = {"id": f"{name}_{index}", "type": "function", "function": {"name": name, "arguments": ""}}
    deltas = [
        event("tool-call-delta", {"tool_calls": {"function": {"arguments": piece}}}, index=index) for piece in arguments
    ]
    return [event("tool-call-start", {"tool_calls": call}, index=index), *deltas, event("tool-call-end", index=index)]


def end(finish: str = "COMPLETE", *, counted: Any = None, **fields: Any) -> dict[str, Any]:
    delta = {"finish_reason": finish, "usage": counted or usage(4, 3), **fields}
    return {"type": "message-end", "delta": delta}


def chat_stream(*events: dict[str, Any], **options: Any) -> Script:
    """A stream of these events, after the first that every one has."""
    encoded = [
        f"event: {item.get('type', 'error')}\ndata: {json.dumps(item)}\n\n".encode() for item in (start(), *events)
    ]
    return stream(encoded, **options)


def _embeddings(body: dict[str, Any]) -> dict[str, Any]:
    """The length of the text, its place, and 1; an image has length -1."""
    vectors = []
    for index, item in enumerate(body.get("texts") or body.get("images") or body.get("inputs")):
        text = (
            item if "texts" in body else "".join(p.get("text", "") for p in item["content"]) if "inputs" in body else ""
        )
        vectors.append([float(len(text)) if text else -1.0, float(index), 1.0][: body.get("output_dimension", 3)])
    by_type: dict[str, Any] = {}
    for kind in body.get("embedding_types", ["float"]):
        if kind == "base64":
            by_type[kind] = [base64.b64encode(struct.pack(f"<{len(v)}f", *v)).decode() for v in vectors]
        else:
            by_type[kind] = vectors if kind == "float" else [[int(number) for number in v] for v in vectors]
    meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 5 * len(vectors)}}
    return {"id": "e5", "embeddings": by_type, "texts": body.get("texts", []), "meta": meta}


def _ranking(body: dict[str, Any]) -> dict[str, Any]:
    """The share of the query's words that a document has."""
    words = set(body["query"].lower().split())
    scores = [len(words & set(text.lower().split())) / len(words) for text in body["documents"]]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.get("top_n")]
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return {"id": "r1", "results": [{"index": i, "relevance_score": scores[i]} for i in order], "meta": meta}
