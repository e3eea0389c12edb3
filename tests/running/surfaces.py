"""One question at each surface of a gateway, and what its client makes of the answer: the same few facts everywhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from running_gateway import Running

CHATS = ("/v1/chat/completions", "/api/chat", "/api/generate", "/v2/chat", "/v1/messages", "/generate")
SURFACES = (*CHATS, "/v1/completions", "/api/generate raw")


@dataclass
class Told:
    """What a client was told: the text, and whether the answer ended well."""

    text: str
    finish: str | None
    ended: bool
    error: str | None
    """The code of the error, or its message where the surface has no codes; ``None`` means none."""
    raw: str


def ask(running: Running, surface: str, model: str = "bench", *, stream: bool = True, **fields: Any) -> Told:
    """Asks at ``surface``; ``/api/generate raw`` is a completion, ``/v1/completions`` too."""
    path, _, raw = surface.partition(" ")
    body: dict[str, Any] = {"model": model, "stream": stream, **fields}
    if path == "/v1/messages":
        body.setdefault("max_tokens", 100)
    if path in ("/v1/chat/completions", "/api/chat", "/v2/chat", "/v1/messages"):
        body["messages"] = [{"role": "user", "content": "hello"}]
    else:
        body["prompt"] = "hello"
    if raw:
        body["raw"] = True
    answer = running.post(path, body)
    answer.encoding = "utf-8"
    if answer.status_code != 200:
        return Told("", None, False, answer.json().get("code") or answer.json()["error"]["code"], answer.text)
    if path.startswith("/api/"):
        return _ollama([json.loads(line) for line in answer.text.splitlines()], answer.text)
    if not stream:
        return _whole(path, answer.json(), answer.text)
    events = [part.partition("data:")[2].strip() for part in answer.text.split("\n\n") if "data:" in part]
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    if path == "/v2/chat":
        return _cohere(chunks, answer.text)
    if path == "/v1/messages":
        return _anthropic(chunks, answer.text)
    return _openai(chunks, bool(events) and events[-1] == "[DONE]", answer.text)


def _ollama(lines: list[Any], raw: str) -> Told:
    pieces = [line.get("message", {}).get("content") or line.get("response") or "" for line in lines]
    last = lines[-1]
    return Told("".join(pieces), last.get("done_reason"), bool(last.get("done")), last.get("code"), raw)


def _cohere(events: list[Any], raw: str) -> Told:
    texts = [e["delta"]["message"]["content"].get("text") or "" for e in events if e["type"] == "content-delta"]
    last = events[-1]["delta"] if events[-1]["type"] == "message-end" else {}
    finish = last.get("finish_reason")
    return Told("".join(texts), finish, finish not in (None, "ERROR"), last.get("error"), raw)


def _anthropic(events: list[Any], raw: str) -> Told:
    texts = [e["delta"].get("text") or "" for e in events if e["type"] == "content_block_delta"]
    finish = next((e["delta"]["stop_reason"] for e in events if e["type"] == "message_delta"), None)
    last = events[-1] if events else {"type": None}
    error = last["error"]["code"] if last["type"] == "error" else None
    return Told("".join(texts), finish, last["type"] == "message_stop", error, raw)


def _openai(chunks: list[Any], done: bool, raw: str) -> Told:
    """Of ``/v1/…`` and ``/generate``."""
    texts, finish, error = [], None, None
    for chunk in chunks:
        error = chunk["error"]["code"] if chunk.get("error") else error
        for choice in [chunk] if "text" in chunk else chunk.get("choices") or ():
            texts.append(choice.get("text") or (choice.get("delta") or {}).get("content") or "")
            finish = choice.get("finish_reason") or finish
    return Told("".join(texts), finish, done, error, raw)


def _whole(path: str, answer: dict[str, Any], raw: str) -> Told:
    if path == "/v2/chat":
        text = "".join(block.get("text") or "" for block in answer["message"]["content"])
        return Told(text, answer["finish_reason"], True, None, raw)
    if path == "/v1/messages":
        text = "".join(block.get("text") or "" for block in answer["content"])
        return Told(text, answer["stop_reason"], True, None, raw)
    choice = answer if path == "/generate" else answer["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return Told(text, choice["finish_reason"], True, None, raw)
