"""Ollama's requests as OpenAI's, and OpenAI's answers as Ollama's: pure functions.

Sources: Ollama's API reference (docs/api.md), the types of its Python SDK; OpenAI's API reference.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import orjson

from sage.errors import InvalidRequest, UpstreamFailed
from sage.middleware.providers.base import ModelCall, Operation, Usage
from sage.middleware.providers.wire.json_values import objects, string
from sage.middleware.providers.wire.messages import DeltaReader, finish_of, read_message
from sage.middleware.providers.wire.pictures import is_base64_picture
from sage.middleware.providers.wire.sse import payloads, read_usage
from sage.middleware.providers.wire.tool_calls import ToolCall, arguments_object, arguments_text

# Names in Ollama's `options` that are fields of a request in OpenAI's shape, or common additions to it.
_FIELDS = frozenset(
    {"temperature", "top_p", "seed", "stop", "presence_penalty", "frequency_penalty"}
    | {"top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n"}
    | {"mirostat", "mirostat_eta", "mirostat_tau"}
)
# Fields that are translated here. `keep_alive` is dropped: the gateway decides how long a model stays.
_READ = frozenset(
    {"messages", "prompt", "system", "images", "options", "format", "think", "keep_alive", "stream", "model", "models"}
    | {"raw", "suffix", "logprobs", "top_logprobs", "context", "template"}
)
# Vectors are always numbers here, also if a request has OpenAI's `encoding_format`.
_EMBED_READ = frozenset({"input", "truncate", "encoding_format"})
_MEDIA = {"/9j/": "jpeg", "R0lGOD": "gif", "UklGR": "webp"}
_DONE_REASONS = {"tool_calls": "stop", "function_call": "stop", "": "stop"}
_LINE_ENDS = ((b"\xe2\x80\xa8", rb"\u2028"), (b"\xe2\x80\xa9", rb"\u2029"), (b"\xc2\x85", rb"\u0085"))
_UNLOAD = frozenset({0, "0", "0s", "0m"})


def chat_body(request: dict[str, Any]) -> dict[str, Any]:
    """A request for ``/api/chat`` as OpenAI's chat."""
    body = _common(request)
    body["messages"] = _messages(request.get("messages"))
    for field in ("logprobs", "top_logprobs"):
        if request.get(field):
            body[field] = request[field]
    return body


def generate_body(request: dict[str, Any]) -> tuple[Operation, dict[str, Any]]:
    """A request for ``/api/generate`` as a chat; as a completion if it is ``raw`` or has a ``suffix``."""
    for field in ("context", "template"):
        if request.get(field):
            raise InvalidRequest(f"'{field}' is not supported by the gateway; leave it out", param=field)
    prompt, system, images = request.get("prompt") or "", request.get("system"), request.get("images")
    body = _common(request)
    if request.get("raw") or request.get("suffix"):
        for field, value in (("system", system), ("images", images)):
            if value:
                raise InvalidRequest(f"'{field}' cannot be combined with 'raw' or 'suffix'; leave it out", param=field)
        body["prompt"] = prompt
        if request.get("suffix"):
            body["suffix"] = request["suffix"]
        if request.get("logprobs"):
            body["logprobs"] = request.get("top_logprobs") or 0
        return Operation.COMPLETIONS, body
    question: dict[str, Any] = {"role": "user", "content": prompt, "images": images}
    opening = [{"role": "system", "content": system}] if system else []
    body |= chat_body({"messages": [*opening, question], **{f: request.get(f) for f in ("logprobs", "top_logprobs")}})
    return Operation.CHAT, body


def embed_body(request: dict[str, Any], field: str) -> dict[str, Any]:
    """A request for ``/api/embed`` (``field`` is ``input``) or ``/api/embeddings`` (``prompt``) as OpenAI's."""
    body = _common({name: value for name, value in request.items() if name not in _EMBED_READ})
    body["input"] = request.get(field)
    return body


def hints(request: dict[str, Any]) -> dict[str, Any] | None:
    """What ``request`` asks only of vendors that have such a thing (:attr:`ModelCall.hints`).

    All options but those that change what the model says are about its loading, as ``num_ctx`` is, or of old versions.
    """
    found: dict[str, Any] = {}
    options = request.get("options")
    if options:
        loading = {
            name: value
            for name, value in options.items()
            if name not in _FIELDS and name != "num_predict" and isinstance(value, int | float)
        }
        if loading:
            found["options"] = loading
    if request.get("think") is False:
        found["reasoning_effort"] = "none"
    if request.get("truncate") is False:  # Ollama cuts texts by default, most vendors never do
        found["truncate"] = False
    return found or None


def wants_unload(keep_alive: Any) -> bool:
    """Whether a request without a question unloads the model; otherwise it loads it."""
    return isinstance(keep_alive, str | int | float) and keep_alive in _UNLOAD


def _common(request: dict[str, Any]) -> dict[str, Any]:
    """The fields that all requests share. Unknown ones go on unchanged."""
    body = {name: value for name, value in request.items() if name not in _READ and value is not None}
    if body.get("tools") == []:  # the SDK always sends a list, and OpenAI refuses an empty one
        del body["tools"]
    options = request.get("options") or {}
    if not isinstance(options, dict):
        raise InvalidRequest("'options' must be an object", param="options")
    for name, value in options.items():
        if value is None:  # as if it were not there, as at Ollama's server
            continue
        if name == "num_predict":
            if not isinstance(value, int) or isinstance(value, bool):
                raise InvalidRequest("'options.num_predict' must be a whole number", param="options.num_predict")
            if value > 0 or value in (-1, -2):  # the latter mean that there is no bound
                body["max_tokens"] = value
        elif name in _FIELDS:
            body[name] = value
    form, think = request.get("format"), request.get("think")
    if form == "json":
        body["response_format"] = {"type": "json_object"}
    elif isinstance(form, dict):
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": form}}
    elif form:
        raise InvalidRequest("'format' must be 'json' or a JSON schema", param="format")
    if think:
        body["reasoning_effort"] = think if isinstance(think, str) else "medium"
    return body


def _messages(messages: Any) -> Any:
    """Ollama's messages as OpenAI's: images as parts, and ids that join the results of tools to their calls."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return messages  # admission refuses it
    open_calls: list[tuple[str, str]] = []  # calls of tools without a result yet: (id, name)
    translated = []
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
            open_calls += [(call["id"], call["function"]["name"]) for call in entry["tool_calls"]]
        if message.get("role") == "tool":
            identity = entry.get("tool_call_id") or _answered_call(open_calls, message.get("tool_name"))
            entry["tool_call_id"] = identity
            open_calls = [call for call in open_calls if call[0] != identity]
        translated.append(entry)
    return translated


def _answered_call(open_calls: list[tuple[str, str]], name: Any) -> str:
    """The id of the first open call of the tool ``name``, or else of any tool."""
    ids = [identity for identity, tool in open_calls if tool == name] or [identity for identity, _ in open_calls]
    return ids[0] if ids else f"call_{name or 'unknown'}"


def _image(data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, str) or not is_base64_picture(data):
        raise InvalidRequest(f"'{where}' must hold images in base64", param=where)
    media = next((kind for head, kind in _MEDIA.items() if data.startswith(head)), "png")
    return {"type": "image_url", "image_url": {"url": f"data:image/{media};base64,{data}"}}


def _calls(calls: Any, number: int) -> list[dict[str, Any]]:
    translated = []
    for index, call in enumerate(calls if isinstance(calls, list) else [calls]):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            where = f"messages[{number}].tool_calls[{index}]"
            raise InvalidRequest(f"'{where}' must be an object with a 'function' that has a 'name'", param=where)
        arguments = arguments_text(function.get("arguments"), empty="{}")
        identity = call.get("id") or f"call_{number}_{index}"
        translated.append(
            {"id": identity, "type": "function", "function": {"name": function["name"], "arguments": arguments}}
        )
    return translated


class OllamaAnswer:
    """One answer in Ollama's shape: complete, or line by line as its stream comes."""

    def __init__(self, call: ModelCall, *, chat: bool) -> None:
        """``chat`` tells whether the request is for ``/api/chat``; otherwise it is for ``/api/generate``."""
        self._model = call.model
        self._is_text = call.operation is Operation.COMPLETIONS
        self._chat = chat
        self._started = time.perf_counter_ns()
        self._lines = 0
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._reader = DeltaReader()

    def body(self, upstream: bytes) -> bytes:
        """The answer to a request without a stream."""
        answer = orjson.loads(upstream)
        choice = next(iter(objects(answer.get("choices"))), {})
        self._usage, self._finish_reason = read_usage(answer.get("usage")), finish_of(choice)
        message = read_message(choice if self._is_text else choice.get("message"))
        line = self._line(message.shown, message.reasoning, choice.get("logprobs"), self._whole(message.calls))
        return orjson.dumps({**line, **self._finish_fields()})

    def translate(self, events: bytes) -> bytes:
        """The ``events`` of an OpenAI stream as lines; the first call returns at least one line."""
        lines = []
        for chunk in payloads(events):
            if not isinstance(chunk, dict):
                continue
            self._usage = read_usage(chunk.get("usage")) or self._usage
            for choice in objects(chunk.get("choices"))[:1]:
                if choice.get("finish_reason"):
                    self._finish_reason = finish_of(choice)
                delta = self._reader.read(choice if self._is_text else choice.get("delta"))
                text, thinking = delta.shown, delta.reasoning
                if text or thinking or choice.get("logprobs"):
                    lines.append(self._line(text, thinking, choice.get("logprobs"), []))
        if not lines and not self._lines:
            lines.append(self._line("", "", None, []))
        self._lines += len(lines)
        return b"".join(map(_json_line, lines))

    def end(self) -> bytes:
        """The last lines: the calls of tools, which Ollama never splits, and the counts."""
        calls = self._whole(self._reader.calls)
        lines = [self._line("", "", None, calls)] if calls else []
        lines.append({**self._line("", "", None, []), **self._finish_fields()})
        return b"".join(map(_json_line, lines))

    def _whole(self, calls: list[ToolCall]) -> list[ToolCall]:
        """``calls`` without what the limit of tokens has cut: Ollama tells only whole ones, and the reason the rest."""
        if self._finish_reason != "length":
            return calls
        return [call for call in calls if arguments_object(call.arguments) is not None]

    def _line(self, text: str, thinking: str, logprobs: Any, calls: list[ToolCall]) -> dict[str, Any]:
        line: dict[str, Any] = {"model": self._model, "created_at": now()}
        extra: dict[str, Any] = {"thinking": thinking} if thinking else {}
        extra |= {"tool_calls": [_tool_call(index, call) for index, call in enumerate(calls)]} if calls else {}
        if self._chat:
            line["message"] = {"role": "assistant", "content": text, **extra}
        else:
            line |= {"response": text, **extra}
        tokens = _tokens(logprobs) if logprobs else []
        if tokens:
            line["logprobs"] = tokens
        line["done"] = False
        return line

    def _finish_fields(self) -> dict[str, Any]:
        fields = {
            "done": True,
            "done_reason": _DONE_REASONS.get(string(self._finish_reason), self._finish_reason),
            "total_duration": time.perf_counter_ns() - self._started,
        }
        if self._usage is not None:
            fields |= {"prompt_eval_count": self._usage.prompt_tokens, "eval_count": self._usage.completion_tokens}
        return fields


def embedding_answer(model: str, body: bytes, started: int) -> dict[str, Any]:
    """OpenAI's embeddings as the answer of ``/api/embed``; ``started`` is a value of ``time.perf_counter_ns``."""
    answer = orjson.loads(body)
    vectors = [item.get("embedding") for item in objects(answer.get("data"))]
    if not vectors or not all(isinstance(vector, list) for vector in vectors):
        raise UpstreamFailed("the upstream sent no vectors of numbers", code="upstream_nonsense")
    usage = read_usage(answer.get("usage"))
    fields = {"model": model, "embeddings": vectors, "total_duration": time.perf_counter_ns() - started}
    return fields if usage is None else {**fields, "prompt_eval_count": usage.prompt_tokens}


def now() -> str:
    """The time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _json_line(line: dict[str, Any]) -> bytes:
    """``line`` as JSON, with those characters escaped at which the SDK's HTTP client ends a line."""
    data = orjson.dumps(line)
    if b"\xe2\x80" in data or b"\xc2\x85" in data:
        for character, escape in _LINE_ENDS:
            data = data.replace(character, escape)
    return data + b"\n"


def _tool_call(index: int, call: ToolCall) -> dict[str, Any]:
    """A call as Ollama has it: whole, with arguments that are an object."""
    arguments = arguments_object(call.arguments)
    if arguments is None:
        raise UpstreamFailed(
            f"the model called '{call.name}' with arguments that are not a JSON object", code="upstream_nonsense"
        )
    return {"id": call.id, "function": {"index": index, "name": call.name, "arguments": arguments}}


def _tokens(logprobs: Any) -> list[dict[str, Any]]:
    """Ollama's log probabilities, from either of OpenAI's shapes."""
    fields = _object(logprobs)
    chat = fields.get("content") or fields.get("refusal")
    if isinstance(chat, list):
        return [
            _token(token) | {"top_logprobs": [_token(t) for t in objects(token.get("top_logprobs"))]}
            for token in objects(chat)
        ]
    tokens, numbers, tops = (fields.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
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
    return {"token": string(token.get("token")), "logprob": number if isinstance(number, int | float) else 0.0}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
