"""Makes OpenAI's answers of Ollama's: single ones, and streams of newline-delimited JSON as server-sent events.

Sources: Ollama's API reference (docs/api.md), the types of its Python SDK; OpenAI's API reference.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sage.errors import SageError, UpstreamFailed
from sage.middleware.providers.base import ModelCall, Usage
from sage.middleware.providers.wire.chunks import completion_id, usage_object
from sage.middleware.providers.wire.errors import reported_error
from sage.middleware.providers.wire.json_values import objects, string
from sage.middleware.providers.wire.sse import count
from sage.middleware.providers.wire.tool_calls import arguments_text, call_id
from sage.middleware.providers.wire.translated_stream import TranslatedStream
from sage.middleware.providers.wire.vectors import normalise_embeddings

# `done_reason` → `finish_reason`. Without one (servers before 0.1.37) the model has ended by itself.
_FINISHES = {"stop": "stop", "length": "length", "content_filter": "content_filter", "tool_calls": "tool_calls"}
_NO_FINISH = ("load", "unload")  # the model was loaded or unloaded, and did not answer
Answer = tuple[dict[str, Any], Usage | None]


def chat_answer(model: str, answer: dict[str, Any]) -> Answer | None:
    """A ``chat.completion``; ``None`` if ``answer`` is not a complete one."""
    message = answer.get("message")
    finish = _finish(answer)
    if message is None and answer.get("done") and answer.get("done_reason"):
        message = {}  # it has ended without one, as in a stream
    if not isinstance(message, dict) or finish is None:
        return None
    content = string(message.get("content")) or (None if finish == "content_filter" else "")
    translated: dict[str, Any] = {"role": "assistant", "content": content}
    if string(message.get("thinking")):
        translated["reasoning_content"] = message["thinking"]
    calls = tool_calls(message.get("tool_calls"))
    if calls is None:
        return None
    if calls:
        translated["content"] = translated["content"] or None
        translated["tool_calls"] = calls
        finish = "tool_calls"
    choice = {"index": 0, "message": translated, "logprobs": _logprobs(answer), "finish_reason": finish}
    return _completion("chat.completion", completion_id(), model, choice, answer)


def text_answer(model: str, answer: dict[str, Any]) -> Answer | None:
    """A ``text_completion``; ``None`` if ``answer`` is not a complete one."""
    finish = _finish(answer)
    if not isinstance(answer.get("response"), str) or finish is None:
        return None
    choice = {
        "index": 0,
        "text": answer["response"],
        "logprobs": _text_logprobs(answer, 0),
        "finish_reason": finish,
    }
    if string(answer.get("thinking")):
        choice["reasoning_content"] = answer["thinking"]
    return _completion("text_completion", completion_id("cmpl"), model, choice, answer)


def _completion(kind: str, identity: str, model: str, choice: dict[str, Any], answer: dict[str, Any]) -> Answer:
    usage = _usage(answer)
    completion = {"id": identity, "object": kind, "created": int(time.time()), "model": model, "choices": [choice]}
    if usage is not None:
        completion["usage"] = usage_object(usage)
    return completion, usage


def embeddings_answer(call: ModelCall, answer: dict[str, Any]) -> Answer | None:
    """OpenAI's list of embeddings, as ``call`` asks for them; ``None`` unless there is one for each text."""
    texts, vectors = call.body["input"], answer.get("embeddings")
    if not isinstance(vectors, list) or len(vectors) != (len(texts) if isinstance(texts, list) else 1):
        return None
    if not all(isinstance(vector, list) and all(isinstance(n, int | float) for n in vector) for vector in vectors):
        return None
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    normalise_embeddings(call, data, answer.get("model"), call.body.get("dimensions"))
    tokens = answer.get("prompt_eval_count")
    usage = Usage(prompt_tokens=count(tokens)) if tokens is not None else None
    translated: dict[str, Any] = {"object": "list", "data": data, "model": call.model}
    if usage is not None:
        translated["usage"] = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}
    return translated, usage


def tool_calls(calls: Any, first: int = 0, *, indexed: bool = False) -> list[dict[str, Any]] | None:
    """OpenAI's tool calls, with new ids where Ollama gave none; ``None`` if ``calls`` are not tool calls.

    With ``indexed`` they have numbers from ``first``, as in the chunks of a stream.
    """
    translated = []
    for number, call in enumerate(calls if isinstance(calls, list) else [calls] if calls else (), first):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return None
        text = arguments_text(function.get("arguments"), empty="{}")
        identity = call.get("id")
        entry: dict[str, Any] = {"index": number} if indexed else {}
        entry["id"] = identity if isinstance(identity, str) and identity else call_id()
        entry |= {"type": "function", "function": {"name": function["name"], "arguments": text}}
        translated.append(entry)
    return translated


class OllamaRelay(TranslatedStream):
    """The :class:`~sage.middleware.providers.base.Relay` of Ollama's streams."""

    def __init__(self, model: str, *, keep_usage: bool, chat: bool, on_error: Callable[[Any], SageError]) -> None:
        super().__init__(model, keep_usage=keep_usage, on_error=on_error, chat=chat)
        self._is_chat = chat
        self._started = False
        self._calls = 0
        self._characters = 0

    def _event(self, event: Any) -> bytes:
        if not isinstance(event, dict):
            raise UpstreamFailed("the upstream sent a line that is no object", code="upstream_nonsense")
        if (error := reported_error(event)) is not None:
            raise self._on_error(error)
        said = self._chat(event) if self._is_chat else self._text(event)
        return said + self._end(event) if event.get("done") else said

    def _chat(self, line: dict[str, Any]) -> bytes:
        message = line.get("message")
        if not isinstance(message, dict):
            if line.get("done"):
                return b""
            raise UpstreamFailed("the upstream sent a line without a message", code="upstream_nonsense")
        delta: dict[str, Any] = {} if self._started else {"content": ""}
        self._started = True
        if string(message.get("thinking")):
            delta["reasoning_content"] = message["thinking"]
        if string(message.get("content")):
            delta["content"] = message["content"]
        calls = tool_calls(message.get("tool_calls"), self._calls, indexed=True)
        if calls is None:
            raise UpstreamFailed("the upstream sent a call of a tool that has no name", code="upstream_nonsense")
        if calls:
            self._calls += len(calls)
            delta["tool_calls"] = calls
        logprobs = _logprobs(line)
        if logprobs is not None:
            return self._delta(delta, logprobs=logprobs)
        return self._delta(delta) if delta else b""

    def _text(self, line: dict[str, Any]) -> bytes:
        text = string(line.get("response"))
        logprobs = _text_logprobs(line, self._characters)
        self._characters += len(text)
        if not text and logprobs is None and self._started:
            return b""
        self._started = True
        return self._writer.text(text, logprobs=logprobs)

    def _end(self, line: dict[str, Any]) -> bytes:
        finish = _finish(line)
        if finish is None:
            raise UpstreamFailed(
                "the upstream loaded or unloaded the model in place of an answer", code="upstream_nonsense"
            )
        self.finished = True
        self.usage = _usage(line)
        if self._calls:
            finish = "tool_calls"
        last = self._delta({}, finish) if self._is_chat else self._writer.text("", finish)
        return last + self._writer.done(self.usage)


def _finish(answer: dict[str, Any]) -> str | None:
    """OpenAI's ``finish_reason``; ``None`` if the answer is not finished."""
    reason = string(answer.get("done_reason"))
    return None if reason in _NO_FINISH or answer.get("done") is False else _FINISHES.get(reason, "stop")


def _usage(answer: dict[str, Any]) -> Usage | None:
    """The token counts; Ollama leaves out a count of 0, and ``None`` means that it reported none."""
    prompt, completion = answer.get("prompt_eval_count"), answer.get("eval_count")
    return None if prompt is None and completion is None else Usage(count(prompt), count(completion))


def _logprobs(answer: dict[str, Any]) -> dict[str, Any] | None:
    tokens = objects(answer.get("logprobs"))
    if not tokens:
        return None
    content = [
        _token(token) | {"top_logprobs": [_token(t) for t in objects(token.get("top_logprobs"))]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def _token(token: dict[str, Any]) -> dict[str, Any]:
    text = string(token.get("token"))
    return {"token": text, "logprob": token.get("logprob"), "bytes": token.get("bytes") or list(text.encode())}


def _text_logprobs(answer: dict[str, Any], offset: int) -> dict[str, Any] | None:
    """The ``logprobs`` of OpenAI's ``completions``, after ``offset`` characters of text."""
    tokens = objects(answer.get("logprobs"))
    if not tokens:
        return None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(string(token.get("token")))
    tops = [{string(t.get("token")): t.get("logprob") for t in objects(token.get("top_logprobs"))} for token in tokens]
    return {
        "tokens": [string(token.get("token")) for token in tokens],
        "token_logprobs": [token.get("logprob") for token in tokens],
        "top_logprobs": tops if any(tops) else None,
        "text_offset": offsets,
    }
