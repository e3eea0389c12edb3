"""An Ollama server in its own wire: OpenAI's requests become ``/api/chat``, ``/api/generate``, ``/api/embed``.

Sources: Ollama's API reference (docs/api.md), the types of its Python SDK, and its own OpenAI compatibility, which
knows fewer fields than its wire has.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson

from sage.errors import InvalidRequest
from sage.middleware.providers.base import Endpoint, ModelCall, Operation, Relay, UpstreamModel, UpstreamRequest, Usage
from sage.middleware.providers.ollama.host import OllamaHost, spellings
from sage.middleware.providers.ollama.responses import (
    OllamaRelay,
    chat_answer,
    embeddings_answer,
    text_answer,
)
from sage.middleware.providers.vendor import HINTS, Vendor
from sage.middleware.providers.wire import single_call
from sage.middleware.providers.wire.errors import reported_error
from sage.middleware.providers.wire.json_values import objects
from sage.middleware.providers.wire.messages import content_of, reasoning_of
from sage.middleware.providers.wire.pictures import is_base64_picture
from sage.middleware.providers.wire.tool_calls import arguments_object
from sage.middleware.settings.providers import OllamaSettings

DEFAULT_URL = "http://127.0.0.1:11434"
_PATHS = {
    Operation.CHAT: "/api/chat",
    Operation.COMPLETIONS: "/api/generate",
    Operation.EMBEDDINGS: "/api/embed",
}
# Names of OpenAI's and of other servers → names in Ollama's `options`.
_OPTION_NAMES = {
    "max_tokens": "num_predict",
    "max_completion_tokens": "num_predict",
    "repetition_penalty": "repeat_penalty",
}
# Ollama's options under their own names (api/types.go: Options, Runner).
_OPTIONS = frozenset(
    {
        "draft_num_predict",
        "frequency_penalty",
        "main_gpu",
        "min_p",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "num_batch",
        "num_ctx",
        "num_gpu",
        "num_keep",
        "num_predict",
        "num_thread",
        "penalize_newline",
        "presence_penalty",
        "repeat_last_n",
        "repeat_penalty",
        "seed",
        "temperature",
        "tfs_z",
        "top_k",
        "top_p",
        "typical_p",
        "use_mlock",
        "use_mmap",
    }
)
# The configuration decides how long a model stays in memory; a template would run upstream.
_DENIED = frozenset({"keep_alive", "template"})
# Ollama's own fields, which are passed on as they are.
_NATIVE = {
    Operation.CHAT: frozenset({"format", "think"}),
    Operation.COMPLETIONS: frozenset({"format", "think", "suffix", "system", "context", "images", "raw"}),
    Operation.EMBEDDINGS: frozenset({"truncate", "dimensions"}),
}
# Values that ask for what Ollama does anyway.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "parallel_tool_calls": (True,),
    "tool_choice": ("auto", "none"),
    "modalities": (["text"],),
    "encoding_format": ("float", "base64"),
}
_TRANSLATED = {
    Operation.CHAT: frozenset(
        {"messages", "tools", "response_format", "reasoning_effort", "reasoning", "logprobs", "top_logprobs"}
    ),
    Operation.COMPLETIONS: frozenset({"prompt", "response_format", "reasoning_effort", "logprobs"}),
    Operation.EMBEDDINGS: frozenset({"input"}),
}
_MESSAGE_KEYS = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "tool_name", "refusal", "annotations"}
    | {"reasoning_content", "reasoning", "thinking"}
)
_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}


class OllamaProvider(Vendor):
    """One Ollama server. Its ``base_url`` is the server's root, with or without ``/v1`` or ``/api``."""

    def __init__(self, name: str, settings: OllamaSettings) -> None:
        super().__init__(name, settings)
        root = (settings.root or DEFAULT_URL).rstrip("/")
        self._open(root.removesuffix("/v1").removesuffix("/api").rstrip("/"), settings)
        self._denied |= _DENIED
        self.host = OllamaHost(name, self.endpoints[0], settings, self.make_error)

    def models_url(self) -> str | None:
        return self.endpoints[0].url("/api/tags")

    def model_names(self, body: Any) -> frozenset[str]:
        """The names in ``/api/tags``; a name with the tag ``latest`` is there without it, too."""
        entries = body.get("models") if isinstance(body, dict) else None
        names = (entry.get("name") or entry.get("model") for entry in objects(entries))
        return frozenset(spelling for name in names if isinstance(name, str) for spelling in spellings(name))

    def encode(self, call: ModelCall, target: UpstreamModel, endpoint: Endpoint) -> UpstreamRequest:
        path = _PATHS.get(call.operation)
        if path is None:
            raise self._no_such_operation(call)
        call = single_call.without_limit(call)
        if call.hints is not None:
            call = _with_hints(call, call.hints)
        body, options = call.body, call.body.get("options")
        self._check_denied(body)
        if options is not None and not isinstance(options, dict):
            raise InvalidRequest("'options' must be an object", param="options")
        self._check_denied(options or {})
        wire: dict[str, Any] = {"model": target.model}
        if call.operation is Operation.CHAT:
            self._chat(wire, body, target)
        elif call.operation is Operation.COMPLETIONS:
            self._completion(wire, body, target)
        else:
            wire["input"] = self._input(body, target)
        self._fields(wire, call, target)
        if call.operation is not Operation.EMBEDDINGS:
            wire["stream"] = call.stream
        if target.pin:
            wire["keep_alive"] = -1
        elif target.keep_alive is not None:
            wire["keep_alive"] = target.keep_alive
        return self._post(endpoint.url(path), endpoint, wire)

    def _decode(self, call: ModelCall, body: bytes) -> tuple[bytes, Usage | None]:
        answer = self._object(call, body)
        if (error := reported_error(answer)) is not None:
            raise self._stream_error(error)
        decoded: tuple[dict[str, Any], Usage | None] | None
        if call.operation is Operation.CHAT:
            decoded = chat_answer(call.model, answer)
        elif call.operation is Operation.COMPLETIONS:
            decoded = text_answer(call.model, answer)
        else:
            decoded = embeddings_answer(call, answer)
        if decoded is None:
            raise self._malformed(call)
        single_call.keep_first(call, decoded[0])
        return orjson.dumps(decoded[0]), decoded[1]

    def relay(self, call: ModelCall) -> Relay:
        relay = OllamaRelay(
            call.model,
            keep_usage=call.wants_usage,
            chat=call.operation is Operation.CHAT,
            on_error=self._stream_error,
        )
        return single_call.first_only(call, relay)

    # The fields of a request

    def _fields(self, wire: dict[str, Any], call: ModelCall, target: UpstreamModel) -> None:
        """Adds every field that has no translation of its own: it is an option, one of Ollama's own, or refused."""
        options: dict[str, Any] = {}
        native, translated = _NATIVE[call.operation], _TRANSLATED[call.operation]
        for field, value in call.body.items():
            if field in HINTS or field in translated or field == "options" or _asks_nothing(field, value):
                continue
            if field == "stop":
                options |= {"stop": stops} if (stops := _stops(value)) else {}
            elif (option := _OPTION_NAMES.get(field, field)) in _OPTIONS:
                options[option] = value
            elif field in native:
                wire.setdefault(field, value)
            else:
                self._cannot(target, field)
        options |= call.body.get("options") or {}
        if call.token_bound is not None:
            options["num_predict"] = call.token_bound
        if options:
            wire["options"] = options

    def _chat(self, wire: dict[str, Any], body: Mapping[str, Any], target: UpstreamModel) -> None:
        wire["messages"] = self._messages(body["messages"], target)
        tools = self._tools(body.get("tools"), target)
        if tools and body.get("tool_choice") != "none":
            wire["tools"] = tools
        self._add_format(wire, body, target)
        if body.get("logprobs"):
            wire["logprobs"] = True
            if body.get("top_logprobs"):
                wire["top_logprobs"] = body["top_logprobs"]

    def _completion(self, wire: dict[str, Any], body: Mapping[str, Any], target: UpstreamModel) -> None:
        """A text to continue, without the model's template, unless the request has fields that need the template."""
        prompt = body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1:
            prompt = prompt[0]
        if not isinstance(prompt, str):
            self._refuse(target, "prompt", ": it takes one text, neither tokens nor several texts")
        if not prompt:
            self._refuse(target, "prompt", ": an empty one only loads the model")
        wire["prompt"] = prompt
        if not any(body.get(field) for field in ("suffix", "system", "context", "images")):
            wire["raw"] = body.get("raw") is not False
        self._add_format(wire, body, target)
        count = body.get("logprobs")
        if isinstance(count, int) and count is not False:
            wire["logprobs"] = True
            if count is not True and count > 0:
                wire["top_logprobs"] = count

    def _add_format(self, wire: dict[str, Any], body: Mapping[str, Any], target: UpstreamModel) -> None:
        """Adds ``format`` and ``think``."""
        answer_format = self._format(body.get("response_format"), target)
        if answer_format is not None:
            wire["format"] = answer_format
        reasoning = body.get("reasoning")
        effort = body.get("reasoning_effort") or (reasoning.get("effort") if isinstance(reasoning, dict) else None)
        if effort is not None and body.get("think") is None:
            if not isinstance(effort, str) or (effort != "none" and effort not in _EFFORTS):
                raise InvalidRequest(
                    f"'reasoning_effort' is none of none, {', '.join(_EFFORTS)}", param="reasoning_effort"
                )
            # gpt-oss takes levels only, no booleans; Ollama refuses levels for every other model.
            level = _EFFORTS.get(effort, False)
            wire["think"] = level if "gpt-oss" in target.model else level is not False

    def _format(self, response_format: Any, target: UpstreamModel) -> Any:
        if response_format is None:
            return None
        kind = response_format.get("type") if isinstance(response_format, dict) else None
        if kind == "text":
            return None
        if kind == "json_object":
            return "json"
        if kind == "json_schema":
            schema = response_format.get("json_schema")
            schema = schema.get("schema") if isinstance(schema, dict) else None
            if not isinstance(schema, dict):
                raise InvalidRequest(
                    "'response_format.json_schema.schema' must be a JSON schema",
                    param="response_format.json_schema.schema",
                )
            return schema
        self._cannot(target, "response_format", f" of the type '{kind}'")
        return None

    def _tools(self, tools: Any, target: UpstreamModel) -> list[dict[str, Any]]:
        sent = []
        for index, tool in enumerate(_list(tools, "tools")):
            function = tool.get("function") if isinstance(tool, dict) else None
            if not isinstance(function, dict) or tool.get("type", "function") != "function":
                self._cannot(target, f"tools[{index}]", ": it has tools of the type 'function' alone")
                continue
            if function.get("strict"):
                self._cannot(target, f"tools[{index}].function.strict")
            sent.append({"type": "function", "function": {k: v for k, v in function.items() if k != "strict"}})
        return sent

    def _input(self, body: Mapping[str, Any], target: UpstreamModel) -> Any:
        if body.get("encoding_format") not in (None, "float", "base64"):
            raise InvalidRequest("'encoding_format' must be 'float' or 'base64'", param="encoding_format")
        texts = body.get("input")
        if not all(isinstance(text, str) for text in (texts if isinstance(texts, list) else [texts])):
            self._refuse(target, "input", ": it embeds texts, not tokens or media")
        return texts

    def _refuse(self, target: UpstreamModel, field: str, why: str) -> None:
        """Raises for a value that cannot be left out either, since it is the input itself."""
        self._cannot(replace(target, drop_unsupported=False), field, why)

    # Messages

    def _messages(self, messages: list[dict[str, Any]], target: UpstreamModel) -> list[dict[str, Any]]:
        names: dict[str, str] = {}  # the id of a tool call → the name of the tool
        return [self._message(message, f"messages[{i}]", names, target) for i, message in enumerate(messages)]

    def _message(
        self, message: dict[str, Any], where: str, names: dict[str, str], target: UpstreamModel
    ) -> dict[str, Any]:
        for key, value in message.items():
            if key not in _MESSAGE_KEYS and not _asks_nothing(key, value):
                self._cannot(target, f"{where}.{key}")
        role = message["role"]
        text, images = self._content(content_of(message), f"{where}.content", target)
        sent: dict[str, Any] = {"role": "system" if role == "developer" else role, "content": text}
        if images:
            sent["images"] = images
        if role == "assistant" and (thinking := reasoning_of(message)):
            sent["thinking"] = thinking
        calls = [
            _tool_call(call, f"{where}.tool_calls[{index}]", names)
            for index, call in enumerate(_list(message.get("tool_calls"), f"{where}.tool_calls"))
        ]
        if calls:
            sent["tool_calls"] = calls
        if role == "tool":
            call_id = message.get("tool_call_id")
            name = message.get("tool_name") or message.get("name") or names.get(str(call_id))
            sent |= {"tool_name": name} if name else {}
            sent |= {"tool_call_id": call_id} if isinstance(call_id, str) else {}
        return sent

    def _content(self, content: Any, where: str, target: UpstreamModel) -> tuple[str, list[str]]:
        """The text of a message, and its images in base64."""
        if not isinstance(content, list):
            return content or "", []
        texts, images = [], []
        for index, part in enumerate(content):
            kind, path = part.get("type"), f"{where}[{index}]"
            if kind in ("text", "refusal") and isinstance(part.get(kind), str):
                texts.append(part[kind])
            elif kind == "image_url":
                image = part.get("image_url")
                data = _image(image.get("url") if isinstance(image, dict) else image, path)
                if data is not None:
                    images.append(data)
                else:
                    self._cannot(target, f"{path}.image_url", ": it takes images as data: URLs, not by address")
            else:
                self._cannot(target, path, f": it has no parts of the type '{kind}'")
        return "\n".join(texts), images


def _with_hints(call: ModelCall, hints: Mapping[str, Any]) -> ModelCall:
    """``call`` with its hints among its fields: Ollama has all of them."""
    options = {**hints.get("options", {}), **(call.body.get("options") or {})}
    return replace(call, body={**hints, **call.body, **({"options": options} if options else {})})


def _asks_nothing(field: str, value: Any) -> bool:
    if value is None or value in _NEUTRAL.get(field, ()):
        return True
    return (value is False and field not in ("parallel_tool_calls", "think", "raw", "truncate")) or value in (
        [],
        {},
        "",
    )


def _list(value: Any, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidRequest(f"'{where}' must be a list", param=where)
    return value


def _stops(value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise InvalidRequest("'stop' must be a text or a list of texts", param="stop")
    return [stop for stop in stops if stop]  # an empty text would end the answer before its first word


def _image(url: Any, where: str) -> str | None:
    """The base64 of a ``data:`` URL (RFC 2397); ``None`` for any other URL."""
    if not isinstance(url, str) or not url.startswith("data:"):
        return None
    head, comma, data = url.partition(",")
    if not comma:
        raise InvalidRequest(f"{where} is no data: URL: it has no comma", param=where)
    if not head.endswith(";base64"):
        return base64.b64encode(unquote_to_bytes(data)).decode()
    if "%" in data:
        data = unquote_to_bytes(data).decode("latin-1")
    if not is_base64_picture(data):
        raise InvalidRequest(f"{where} is no data: URL of an image in base64", param=where)
    return data


def _tool_call(call: Any, where: str, names: dict[str, str]) -> dict[str, Any]:
    """Ollama's tool call, whose arguments are an object, made of OpenAI's, whose arguments are JSON text."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"'{where}' must be an object with a 'function' that has a 'name'", param=where)
    arguments = arguments_object(function.get("arguments"))
    if arguments is None:
        where += ".function.arguments"
        raise InvalidRequest(f"'{where}' must hold an object, or one as JSON text", param=where)
    sent: dict[str, Any] = {"function": {"name": function["name"], "arguments": arguments}}
    if isinstance(call.get("id"), str):
        names[call["id"]] = function["name"]
        sent["id"] = call["id"]
    return sent
