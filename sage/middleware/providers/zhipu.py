"""Zhipu (Z.ai, BigModel): OpenAI's wire with fields and limits of its own, at ``/api/paas/v4``.

Sources: Zhipu's API reference (chat completions, embeddings, rerank, error codes; docs.bigmodel.cn and docs.z.ai), and
its SDKs ``zai-sdk`` and ``zhipuai``, whose requests ours are equal to.
"""

from __future__ import annotations

import struct
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from jose import jwt
from multidict import CIMultiDict

from sage.errors import InvalidRequest, SageError, Unsupported, UpstreamFailed
from sage.middleware.providers.base import Endpoint, ModelCall, Operation, UpstreamModel, UpstreamRequest
from sage.middleware.providers.openai import OpenAIProvider
from sage.middleware.providers.vendor import HINTS, has_effect
from sage.middleware.providers.wire.errors import upstream_error
from sage.middleware.settings.providers import RemoteProvider

RENEW_AFTER = 180.0
"""Seconds that a signed token is used for; it is good for half a minute longer."""
_VALID = RENEW_AFTER + 30.0

# Fields that the vendor has under the same name, with the same meaning or as its own.
_PASSED: Mapping[Operation, frozenset[str]] = {
    Operation.CHAT: frozenset(
        {
            "max_tokens",
            "seed",
            "thinking",
            "reasoning_effort",
            "do_sample",
            "tool_stream",
            "user_id",
            "sensitive_word_check",
            "watermark_enabled",
            "meta",
            "extra",
        }
    ),
    Operation.EMBEDDINGS: frozenset({"dimensions", "user_id", "sensitive_word_check"}),
    Operation.RERANK: frozenset({"query", "documents", "top_n", "return_raw_scores", "user_id"}),
}
# Fields of a chat that are put into its words.
_TRANSLATED = frozenset(
    {"messages", "max_completion_tokens", "temperature", "top_p", "stop", "response_format", "tools", "tool_choice"}
)
_TOOLS = ("function", "web_search", "retrieval")
_PARTS = ("image_url", "video_url", "file_url", "input_audio")
_MESSAGE = ("name", "tool_calls", "tool_call_id", "reasoning_content")
# What reading an answer raises that is not of the shape it should have.
_MALFORMED = (AttributeError, KeyError, TypeError, OverflowError, struct.error)
_FINISHES = {"sensitive": "content_filter", "model_context_window_exceeded": "length"}


class SignedHeaders(CIMultiDict[str]):
    """The headers for a key ``id.secret``, with a token that is signed anew every three minutes, as the SDK does it."""

    def __init__(self, headers: Mapping[str, str], key: str, clock: Callable[[], float] = time.time) -> None:
        super().__init__(headers)
        self._id, _, self._secret = key.partition(".")
        self._clock = clock
        self._signed = 0.0
        self.tokens: tuple[str, ...] = ()
        """The last two."""
        self.renew()

    def renew(self) -> None:
        """Sees to it that the token is good now."""
        now = self._clock()
        if 0.0 <= now - self._signed < RENEW_AFTER:  # also signed anew when the clock was set back
            return
        at = int(now * 1000)
        claims = {"api_key": self._id, "exp": at + int(_VALID * 1000), "timestamp": at}
        token = str(jwt.encode(claims, self._secret, algorithm="HS256", headers={"sign_type": "SIGN"}))
        self._signed = now
        self.tokens = (token, *self.tokens[:1])
        self["Authorization"] = f"Bearer {token}"


class ZhipuProvider(OpenAIProvider):
    """Zhipu's API, with its keys: as they are, or as signed tokens where they have two halves."""

    def __init__(self, name: str, settings: RemoteProvider) -> None:
        super().__init__(name, settings)
        halves = [half for key in settings.keys for half in key.split(".") if len(half) >= 8]
        self._secrets = sorted({*self._secrets, *halves}, key=len, reverse=True)

    def _with_key(self, key: str) -> Mapping[str, str]:
        halves = key.split(".")
        return SignedHeaders(self._headers, key) if len(halves) == 2 and all(halves) else super()._with_key(key)

    def models_url(self) -> str | None:
        return None  # the vendor documents no list of models

    def make_error(self, status: int, body: Any, headers: Mapping[str, str]) -> SageError:
        sent = (endpoint.headers for endpoint in self.endpoints)
        tokens = [token for each in sent if isinstance(each, SignedHeaders) for token in each.tokens]
        return upstream_error(self.name, status, body, headers, [*tokens, *self._secrets])

    def encode(self, call: ModelCall, target: UpstreamModel, endpoint: Endpoint) -> UpstreamRequest:
        self._check_denied(call.body)
        match call.operation:
            case Operation.CHAT:
                body = self._chat(call, target)
            case Operation.EMBEDDINGS:
                body = self._embeddings(call, target)
            case Operation.RERANK:
                body = self._passed(call, target)
            case _:
                raise self._no_such_operation(call)
        body["model"] = target.model
        if isinstance(endpoint.headers, SignedHeaders):
            endpoint.headers.renew()
        return self._post(f"{endpoint.base_url}/{call.operation}", endpoint, body)

    def _passed(
        self, call: ModelCall, target: UpstreamModel, translated: frozenset[str] = frozenset()
    ) -> dict[str, Any]:
        """The fields that go on as they are; those in ``translated`` are seen to elsewhere."""
        passed, body = _PASSED[call.operation], {}
        for field, value in call.body.items():
            if field in passed:
                if value is not None:
                    body[field] = value
            elif field not in translated and field not in HINTS and value is not None and has_effect(field, value):
                self._cannot(target, field)
        return body

    def _chat(self, call: ModelCall, target: UpstreamModel) -> dict[str, Any]:
        asked = call.body
        body = self._passed(call, target, _TRANSLATED)
        body["messages"] = [self._message(target, i, message) for i, message in enumerate(asked["messages"])]
        if call.stream:
            body["stream"] = True
        if asked.get("max_completion_tokens") is not None:
            body["max_tokens"] = asked["max_completion_tokens"]
        self._sampling(body, target, asked)
        self._tools(body, target, asked)
        return body

    def _sampling(self, body: dict[str, Any], target: UpstreamModel, asked: Mapping[str, Any]) -> None:
        temperature, top_p = asked.get("temperature"), asked.get("top_p")
        if temperature == 0:
            body["do_sample"] = False  # its way to say so: 0 itself is outside of what all its models take
        elif isinstance(temperature, int | float) and temperature > 1:
            self._cannot(target, "temperature", " above 1")
        elif temperature is not None:
            body["temperature"] = temperature
        if top_p is not None:
            body["top_p"] = 0.01 if top_p == 0 else top_p  # the least that it takes
        stop = asked.get("stop")
        if stop:
            stops = stop if isinstance(stop, list) else [stop]
            if len(stops) > 1:
                self._cannot(target, "stop", " with more than one text")
            body["stop"] = stops[:1]
        wanted = asked.get("response_format")
        kind = wanted.get("type") if isinstance(wanted, dict) else wanted
        if kind == "json_schema":
            self._cannot(target, "response_format", " with a json_schema (json_object it can)")
            body["response_format"] = {"type": "json_object"}
        elif wanted is not None:
            body["response_format"] = wanted

    def _tools(self, body: dict[str, Any], target: UpstreamModel, asked: Mapping[str, Any]) -> None:
        choice = asked.get("tool_choice")
        if choice == "none":
            return  # it has no such word, but without tools none is called
        given, tools = asked.get("tools") or [], []
        if not isinstance(given, list):
            raise InvalidRequest("'tools' must be a list", param="tools")
        for tool in given:
            kind = tool.get("type") if isinstance(tool, dict) else None
            if kind in _TOOLS:
                tools.append(tool)
            else:
                self._cannot(target, "tools", f" of the type '{kind}'")
        if tools:
            body["tools"] = tools
        if choice == "auto" and tools:
            body["tool_choice"] = choice
        elif choice not in (None, "auto"):
            self._cannot(target, "tool_choice", " other than 'auto' and 'none'")

    def _message(self, target: UpstreamModel, index: int, message: Mapping[str, Any]) -> dict[str, Any]:
        if message.get("function_call") is not None:
            self._cannot(target, f"messages[{index}].function_call", " (it has tool_calls)")
        role = "system" if message["role"] == "developer" else message["role"]
        content = message.get("content")
        if isinstance(content, list):
            content = self._content(target, f"messages[{index}].content", content)
        # Fields of answers that clients send back (refusal, annotations, audio) say nothing here.
        kept = {field: message[field] for field in _MESSAGE if message.get(field) is not None}
        return {"role": role, "content": content, **kept}

    def _content(self, target: UpstreamModel, where: str, parts: list[dict[str, Any]]) -> Any:
        """The parts as the vendor takes them; one text where there is nothing else, since not all its models take
        parts."""
        kept = []
        for index, part in enumerate(parts):
            kind = part.get("type")
            if kind in ("text", "refusal"):
                kept.append({"type": "text", "text": part.get(kind) or ""})
            elif kind == "image_url":
                kept.append({"type": "image_url", "image_url": {"url": _picture(part)}})
            elif kind in _PARTS:
                kept.append(part)
            else:
                self._cannot(target, f"{where}[{index}]", f" (a part of the type '{kind}')")
        if all(part["type"] == "text" for part in kept):
            return "\n".join(str(part["text"]) for part in kept)
        return kept

    def _embeddings(self, call: ModelCall, target: UpstreamModel) -> dict[str, Any]:
        given = call.body["input"]
        if not isinstance(given, str) and not all(isinstance(text, str) for text in given):
            raise Unsupported(
                f"'input' must be text or a list of texts: the provider '{self.name}' (zhipu) takes no tokens",
                param="input",
            )
        packed = call.body.get("encoding_format") == "base64"  # which is made here
        translated = frozenset({"input", "encoding_format"}) if packed else frozenset({"input"})
        return {"input": given, **self._passed(call, target, translated)}

    def _object(self, call: ModelCall, body: bytes) -> dict[str, Any]:
        answer = super()._object(call, body)
        if answer.get("success") is False:  # how what stands before its models refuses, with the status 200
            raise self._stream_error(answer)
        return answer

    def _adjust(self, call: ModelCall, answer: dict[str, Any]) -> None:
        try:
            if call.operation is Operation.CHAT:
                answer.setdefault("object", "chat.completion")
                for choice in answer["choices"]:
                    choice["message"].setdefault("role", "assistant")
                    self._adjust_choice(choice, choice["message"])
            elif call.operation is Operation.EMBEDDINGS and call.body.get("encoding_format") == "base64":
                for item in answer["data"]:
                    item["embedding"] = _packed(item["embedding"])
        except _MALFORMED as exc:
            raise self._malformed(call) from exc

    def _transform(self, call: ModelCall) -> Callable[[dict[str, Any]], None]:
        def mend(chunk: dict[str, Any]) -> None:
            chunk.setdefault("object", "chat.completion.chunk")
            chunk.setdefault("model", call.model)
            try:
                for choice in chunk.get("choices") or ():
                    self._adjust_choice(choice, choice.setdefault("delta", {}))
            except _MALFORMED as exc:
                raise self._malformed(call) from exc

        return mend

    def _adjust_choice(self, choice: dict[str, Any], said: Mapping[str, Any]) -> None:
        """OpenAI's words for how it ended, and calls of tools whose arguments are texts."""
        finish = choice.get("finish_reason")
        if finish == "network_error":
            raise UpstreamFailed(f"the provider '{self.name}' failed in the middle of its answer (network_error)")
        if finish in _FINISHES:
            choice["finish_reason"] = _FINISHES[finish]
        for index, asked in enumerate(said.get("tool_calls") or ()):
            function = asked.get("function")
            if isinstance(function, dict) and isinstance(function.get("arguments"), dict):
                function["arguments"] = orjson.dumps(function["arguments"]).decode()
            if "delta" in choice:
                asked.setdefault("index", index)

    def _stream_error(self, error: Any) -> SageError:
        detail = error if isinstance(error, dict) else {"message": str(error)}
        return self.make_error(_status(detail.get("code")), {"error": detail}, {})


def _picture(part: Mapping[str, Any]) -> Any:
    """The URL of an image; of a ``data:`` URL, the base64 alone, as the vendor's SDK sends it."""
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    return url.split("base64,", 1)[-1] if isinstance(url, str) and url.startswith("data:image/") else url


def _packed(vector: Any) -> str:
    """The numbers as OpenAI packs them: float32, little-endian, in base64."""
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _status(code: Any) -> int:
    """The status under which the vendor documents a business code, for errors that come without one."""
    number = int(code) if isinstance(code, int | str) and str(code).isdecimal() else 0
    if 400 <= number <= 599:
        return number
    if 1302 <= number < 1400:
        return 429  # too many requests, or a quota that is used up
    if 1000 <= number < 1200 or number == 1220:
        return 401  # our key or account
    if number in (1211, 1221, 1222):
        return 404
    return 400 if 1210 <= number < 1230 or number in (1231, 1261, 1300, 1301) else 502
