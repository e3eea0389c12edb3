"""Ollama's requests as OpenAI's, and OpenAI's answers as Ollama's: pure translations for ``routers/ollama.py``.

Sources: Ollama's API reference (docs/api.md), the types of its Python SDK; OpenAI's API reference.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import orjson

from sage.errors import InvalidRequest, UpstreamFailed
from sage.middleware.providers.base import ModelCall, Operation, Usage
from sage.middleware.providers.wire.sse import payloads, read_usage

# Names in Ollama's `options` that are fields of a request in OpenAI's shape, or well known beside it.
_FIELDS = frozenset(
    {"temperature", "top_p", "seed", "stop", "presence_penalty", "frequency_penalty"}
    | {"top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n"}
)
# What these translations read themselves. How long a model stays is the gateway's to say, not a request's.
_READ = frozenset(
    {"messages", "prompt", "system", "images", "options", "format", "think", "keep_alive", "stream", "model", "models"}
    | {"raw", "suffix", "logprobs", "top_logprobs", "context", "template"}
)
# Vectors are always numbers here, whatever names of OpenAI's a request has.
_EMBED_READ = frozenset({"input", "truncate", "encoding_format"})
_MEDIA = {"/9j/": "jpeg", "R0lGOD": "gif", "UklGR": "webp"}
_DONE_REASONS = {"tool_calls": "stop", "function_call": "stop", "": "stop"}
_LOADS = frozenset({0, "0", "0s", "0m"})


def chat_body(asked: dict[str, Any]) -> dict[str, Any]:
    """The OpenAI chat that ``/api/chat`` asks for."""
    body = _common(asked)
    body["messages"] = _messages(asked.get("messages"))
    for field in ("logprobs", "top_logprobs"):
        if asked.get(field):
            body[field] = asked[field]
    return body


def generate_body(asked: dict[str, Any]) -> tuple[Operation, dict[str, Any]]:
    """``/api/generate`` is a chat of one question, or a text to go on with where it is ``raw`` or has a ``suffix``."""
    for field in ("context", "template"):
        if asked.get(field):
            raise InvalidRequest(f"'{field}' is not something that the gateway can do; leave it out", param=field)
    prompt, system, images = asked.get("prompt") or "", asked.get("system"), asked.get("images")
    body = _common(asked)
    if asked.get("raw") or asked.get("suffix"):
        for field, value in (("system", system), ("images", images)):
            if value:
                raise InvalidRequest(f"'{field}' goes with no 'raw' or 'suffix'; leave it out", param=field)
        body["prompt"] = prompt
        if asked.get("suffix"):
            body["suffix"] = asked["suffix"]
        if asked.get("logprobs"):
            body["logprobs"] = asked.get("top_logprobs") or 0
        return Operation.COMPLETIONS, body
    question: dict[str, Any] = {"role": "user", "content": prompt, "images": images}
    opening = [{"role": "system", "content": system}] if system else []
    body |= chat_body({"messages": [*opening, question], **{f: asked.get(f) for f in ("logprobs", "top_logprobs")}})
    return Operation.CHAT, body


def embed_body(asked: dict[str, Any], field: str) -> dict[str, Any]:
    """The embeddings that ``/api/embed`` (``input``) or ``/api/embeddings`` (``prompt``) asks for."""
    body = _common({name: value for name, value in asked.items() if name not in _EMBED_READ})
    body["input"] = asked.get(field)
    if asked.get("truncate") is False:  # cutting is what Ollama does anyway
        body["truncate"] = False
    return body


def wants_unload(keep_alive: Any) -> bool:
    """Whether a request without a question is one to unload; it is one to load otherwise."""
    return isinstance(keep_alive, str | int | float) and keep_alive in _LOADS


def _common(asked: dict[str, Any]) -> dict[str, Any]:
    """The fields that all requests share; those that are not known here go on unchanged."""
    body = {name: value for name, value in asked.items() if name not in _READ and value is not None}
    if body.get("tools") == []:  # the SDK always sends them, and OpenAI refuses none at all
        del body["tools"]
    options = asked.get("options") or {}
    if not isinstance(options, dict):
        raise InvalidRequest("'options' must be an object", param="options")
    others = {}
    for name, value in options.items():
        if name == "num_predict":
            if not isinstance(value, int) or isinstance(value, bool):
                raise InvalidRequest("'options.num_predict' must be a whole number", param="options.num_predict")
            if value > 0:  # else without a bound
                body["max_tokens"] = value
        elif name in _FIELDS:
            body[name] = value
        else:
            others[name] = value
    if others:
        body["options"] = others
    form, think = asked.get("format"), asked.get("think")
    if form == "json":
        body["response_format"] = {"type": "json_object"}
    elif isinstance(form, dict):
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": form}}
    elif form:
        raise InvalidRequest("'format' must be 'json' or a JSON schema", param="format")
    if think is not None:
        body["reasoning_effort"] = think if isinstance(think, str) else "medium" if think else "none"
    return body


def _messages(messages: Any) -> Any:
    """Ollama's messages with what OpenAI's need: parts for images, and ids that join tools' results to their calls."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return messages  # refused by who reads it
    waiting: list[tuple[str, str]] = []  # calls of tools without their result: (id, name)
    made = []
    for number, message in enumerate(messages):
        entry = {k: v for k, v in message.items() if k not in ("images", "thinking", "tool_calls", "tool_name")}
        images = message.get("images")
        if images:
            if not isinstance(images, list):
                where = f"messages[{number}].images"
                raise InvalidRequest(f"'{where}' must be a list of images in base64", param=where)
            parts = [{"type": "text", "text": message["content"]}] if message.get("content") else []
            entry["content"] = [*parts, *(_image(image, f"messages[{number}].images") for image in images)]
        if message.get("thinking"):
            entry["reasoning_content"] = message["thinking"]
        if message.get("tool_calls"):
            entry["tool_calls"] = _calls(message["tool_calls"], number)
            waiting += [(call["id"], call["function"]["name"]) for call in entry["tool_calls"]]
        if message.get("role") == "tool":
            identity = entry.get("tool_call_id") or _answered(waiting, message.get("tool_name"))
            entry["tool_call_id"] = identity
            waiting = [call for call in waiting if call[0] != identity]
        made.append(entry)
    return made


def _answered(waiting: list[tuple[str, str]], name: Any) -> str:
    """The id of the first call that waits for the result of that tool, or of any."""
    fits = [identity for identity, called in waiting if called == name] or [identity for identity, _ in waiting]
    return fits[0] if fits else f"call_{name or 'unknown'}"


def _image(data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, str):
        raise InvalidRequest(f"'{where}' must hold images in base64", param=where)
    media = next((kind for head, kind in _MEDIA.items() if data.startswith(head)), "png")
    return {"type": "image_url", "image_url": {"url": f"data:image/{media};base64,{data}"}}


def _calls(calls: Any, number: int) -> list[dict[str, Any]]:
    made = []
    for index, call in enumerate(calls if isinstance(calls, list) else [calls]):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            where = f"messages[{number}].tool_calls[{index}]"
            raise InvalidRequest(f"'{where}' must be an object with a 'function' that has a 'name'", param=where)
        arguments = orjson.dumps(function.get("arguments") or {}).decode()
        identity = call.get("id") or f"call_{number}_{index}"
        made.append(
            {"id": identity, "type": "function", "function": {"name": function["name"], "arguments": arguments}}
        )
    return made


class Reply:
    """One answer in Ollama's shape: whole, or line by line as its stream comes."""

    def __init__(self, call: ModelCall, *, chat: bool) -> None:
        """``chat``: ``/api/chat`` was asked, not ``/api/generate``."""
        self._model = call.model
        self._is_text = call.operation is Operation.COMPLETIONS
        self._chat = chat
        self._begun = time.perf_counter_ns()
        self._lines = 0
        self._finish: str | None = None
        self._usage: Usage | None = None
        self._calls: dict[int, dict[str, str]] = {}

    def whole(self, body: bytes) -> bytes:
        """The answer to a request that is no stream."""
        answer = orjson.loads(body)
        choice = next(iter(_objects(answer.get("choices"))), {})
        self._usage, self._finish = read_usage(answer.get("usage")), choice.get("finish_reason")
        said = choice if self._is_text else _object(choice.get("message"))
        for index, call in enumerate(_objects(said.get("tool_calls"))):
            self._add_call({**call, "index": index})
        return orjson.dumps({**self._line(*_said(said), choice.get("logprobs"), self._take_calls()), **self._last()})

    def translate(self, events: bytes) -> bytes:
        """The lines that ``events`` of an OpenAI stream make; the first ones make at least one."""
        lines = []
        for chunk in payloads(events):
            if not isinstance(chunk, dict):
                continue
            self._usage = read_usage(chunk.get("usage")) or self._usage
            for choice in _objects(chunk.get("choices"))[:1]:
                self._finish = choice.get("finish_reason") or self._finish
                said = choice if self._is_text else _object(choice.get("delta"))
                for call in _objects(said.get("tool_calls")):
                    self._add_call(call)
                text, thinking = _said(said)
                if text or thinking or choice.get("logprobs"):
                    lines.append(self._line(text, thinking, choice.get("logprobs"), []))
        if not lines and not self._lines:
            lines.append(self._line("", "", None, []))
        self._lines += len(lines)
        return b"".join(orjson.dumps(line) + b"\n" for line in lines)

    def end(self) -> bytes:
        """The last lines: the calls of tools, which Ollama gives out whole, and the counts."""
        calls = self._take_calls()
        lines = [self._line("", "", None, calls)] if calls else []
        lines.append({**self._line("", "", None, []), **self._last()})
        return b"".join(orjson.dumps(line) + b"\n" for line in lines)

    def _add_call(self, call: dict[str, Any]) -> None:
        function, index = _object(call.get("function")), call.get("index")
        held = self._calls.setdefault(index if isinstance(index, int) else 0, {"id": "", "name": "", "arguments": ""})
        held["id"] = _text(call.get("id")) or held["id"]
        held["name"] += _text(function.get("name"))
        held["arguments"] += _text(function.get("arguments"))

    def _take_calls(self) -> list[dict[str, Any]]:
        """The calls that have come, whose arguments are an object in Ollama's wire."""
        made = []
        for index, call in sorted(self._calls.items()):
            try:
                arguments = orjson.loads(call["arguments"] or b"{}")
            except orjson.JSONDecodeError:
                arguments = None
            if not isinstance(arguments, dict):
                raise UpstreamFailed(
                    f"the model called '{call['name']}' with arguments that are no JSON object",
                    code="upstream_nonsense",
                )
            function = {"index": index, "name": call["name"], "arguments": arguments}
            made.append({"id": call["id"], "function": function})
        return made

    def _line(self, text: str, thinking: str, logprobs: Any, calls: list[dict[str, Any]]) -> dict[str, Any]:
        line: dict[str, Any] = {"model": self._model, "created_at": now()}
        extra: dict[str, Any] = {"thinking": thinking} if thinking else {}
        if self._chat:
            extra |= {"tool_calls": calls} if calls else {}
            line["message"] = {"role": "assistant", "content": text, **extra}
        else:
            line |= {"response": text, **extra}
        tokens = _tokens(logprobs)
        if tokens:
            line["logprobs"] = tokens
        line["done"] = False
        return line

    def _last(self) -> dict[str, Any]:
        last = {
            "done": True,
            "done_reason": _DONE_REASONS.get(_text(self._finish), self._finish),
            "total_duration": time.perf_counter_ns() - self._begun,
        }
        if self._usage is not None:
            last |= {"prompt_eval_count": self._usage.prompt_tokens, "eval_count": self._usage.completion_tokens}
        return last


def embedding_answer(model: str, body: bytes, begun: int) -> dict[str, Any]:
    """The answer of ``/api/embed``; ``begun`` in nanoseconds of ``time.perf_counter_ns``."""
    answer = orjson.loads(body)
    found = sorted(
        _objects(answer.get("data")), key=lambda item: item["index"] if type(item.get("index")) is int else 0
    )
    vectors = [item.get("embedding") for item in found]
    if not vectors or not all(isinstance(vector, list) for vector in vectors):
        raise UpstreamFailed("the upstream sent no vectors of numbers", code="upstream_nonsense")
    usage = read_usage(answer.get("usage"))
    made = {"model": model, "embeddings": vectors, "total_duration": time.perf_counter_ns() - begun}
    return made if usage is None else {**made, "prompt_eval_count": usage.prompt_tokens}


def now() -> str:
    """The time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _said(said: dict[str, Any]) -> tuple[str, str]:
    """Text and thinking of a message, a delta or a choice of ``completions``."""
    text = said.get("content") if "content" in said else said.get("text")
    if isinstance(text, list):  # parts, as some servers send it
        text = "".join(_text(part.get("text")) for part in _objects(text))
    return _text(text), _text(said.get("reasoning_content")) or _text(said.get("reasoning"))


def _tokens(logprobs: Any) -> list[dict[str, Any]]:
    """Ollama's log probabilities, from either of OpenAI's shapes."""
    told = _object(logprobs)
    if isinstance(told.get("content"), list):
        return [
            _token(token) | {"top_logprobs": [_token(t) for t in _objects(token.get("top_logprobs"))]}
            for token in _objects(told["content"])
        ]
    tokens, numbers, tops = (told.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    if not isinstance(tokens, list) or not isinstance(numbers, list):
        return []
    tops = tops if isinstance(tops, list) else [None] * len(tokens)
    return [
        _token({"token": token, "logprob": number})
        | {"top_logprobs": [_token({"token": text, "logprob": p}) for text, p in _object(top).items()]}
        for token, number, top in zip(tokens, numbers, tops, strict=False)
    ]


def _token(token: dict[str, Any]) -> dict[str, Any]:
    number = token.get("logprob")
    return {"token": _text(token.get("token")), "logprob": number if isinstance(number, int | float) else 0.0}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
