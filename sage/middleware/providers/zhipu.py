"""Zhipu (Z.ai, BigModel): OpenAI's wire with fields and limits of its own, at ``/api/paas/v4``.

Sources: Zhipu's API reference (chat completions, embeddings, rerank, error codes; docs.bigmodel.cn and docs.z.ai), and
its SDKs ``zai-sdk`` and ``zhipuai``, whose requests ours are equal to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from jose import jwt
from multidict import CIMultiDict

from sage.errors import InvalidRequest, SageError, Unsupported, UpstreamFailed
from sage.middleware.providers.base import Endpoint, ModelCall, Operation, Relay, UpstreamModel, UpstreamRequest
from sage.middleware.providers.openai import OpenAIProvider
from sage.middleware.providers.vendor import HINTS, has_effect
from sage.middleware.providers.wire import single_call
from sage.middleware.providers.wire.errors import status_of_error, upstream_error
from sage.middleware.providers.wire.json_values import objects
from sage.middleware.providers.wire.messages import content_of, reasoning_of
from sage.middleware.providers.wire.pictures import is_base64_picture
from sage.middleware.providers.wire.tool_calls import with_arguments_text
from sage.middleware.settings.providers import RemoteProvider

RENEW_AFTER = 180.0
"""Seconds for which a signed token is used; it is valid for half a minute longer."""
_VALID = RENEW_AFTER + 30.0

# Fields that have the same name and meaning at the vendor, and the vendor's own.
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
# Fields of a chat that are translated.
_TRANSLATED = frozenset(
    {"messages", "max_completion_tokens", "temperature", "top_p", "stop", "response_format", "tools", "tool_choice"}
)
_TOOLS = ("function", "web_search", "retrieval")
_PARTS = ("image_url", "video_url", "file_url", "input_audio")
_MESSAGE = ("name", "tool_calls", "tool_call_id", "reasoning_content")
_FINISHES = {"sensitive": "content_filter", "model_context_window_exceeded": "length"}


class SignedHeaders(CIMultiDict[str]):
    """The headers for a key ``id.secret``, with a token that is signed again every three minutes, as in the SDK."""

    def __init__(self, headers: Mapping[str, str], key: str, clock: Callable[[], float] = time.time) -> None:
        super().__init__(headers)
        self._id, _, self._secret = key.partition(".")
        self._clock = clock
        self._signed = 0.0
        self.tokens: tuple[str, ...] = ()
        """The last two tokens."""
        self.renew()

    def renew(self) -> None:
        """Signs a new token if the current one is old."""
        now = self._clock()
        if 0.0 <= now - self._signed < RENEW_AFTER:  # a negative age means that the clock was set back
            return
        at = int(now * 1000)
        claims = {"api_key": self._id, "exp": at + int(_VALID * 1000), "timestamp": at}
        token = str(jwt.encode(claims, self._secret, algorithm="HS256", headers={"sign_type": "SIGN"}))
        self._signed = now
        self.tokens = (token, *self.tokens[:1])
        self["Authorization"] = f"Bearer {token}"


class ZhipuProvider(OpenAIProvider):
    """Zhipu's API. A key is sent as it is, or, if it has the form ``id.secret``, as a signed token."""

    def __init__(self, name: str, settings: RemoteProvider) -> None:
        super().__init__(name, settings)
        halves = [half for key in settings.keys for half in key.split(".") if len(half) >= 8]
        self._secrets = sorted({*self._secrets, *halves}, key=len, reverse=True)

    def _with_key(self, key: str) -> Mapping[str, str]:
        halves = key.split(".")
        return SignedHeaders(self._headers, key) if len(halves) == 2 and all(halves) else super()._with_key(key)

    @staticmethod
    def _has_responses(settings: RemoteProvider) -> bool:
        return False

    def models_url(self) -> str | None:
        return None  # the vendor's API has no documented list of models

    def make_error(self, status: int, body: Any, headers: Mapping[str, str]) -> SageError:
        signed = [e.headers for e in self.endpoints if isinstance(e.headers, SignedHeaders)]
        tokens = [token for sent in signed for token in sent.tokens]
        return upstream_error(self.name, status, body, headers, [*tokens, *self._secrets])

    def encode(self, call: ModelCall, target: UpstreamModel, endpoint: Endpoint) -> UpstreamRequest:
        self._check_denied(call.body)
        call = single_call.without_limit(call)
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
        return self._post(endpoint.url(f"/{call.operation}"), endpoint, body)

    def relay(self, call: ModelCall) -> Relay:
        return single_call.first_only(call, super().relay(call))

    def _passed(
        self, call: ModelCall, target: UpstreamModel, translated: frozenset[str] = frozenset()
    ) -> dict[str, Any]:
        """The fields that are passed on as they are. The caller translates those in ``translated``."""
        passed, body = _PASSED[call.operation], {}
        for field, value in call.body.items():
            if field in passed:
                if value is not None:
                    body[field] = value
            elif field not in translated and field not in HINTS and value is not None and has_effect(field, value):
                self._cannot(target, field)
        return body

    def _chat(self, call: ModelCall, target: UpstreamModel) -> dict[str, Any]:
        request = call.body
        body = self._passed(call, target, _TRANSLATED)
        body["messages"] = [self._message(target, i, message) for i, message in enumerate(request["messages"])]
        if call.stream:
            body["stream"] = True
        if call.not_to_think and "reasoning_effort" not in body:
            body.setdefault("thinking", {"type": "disabled"})
        if request.get("max_completion_tokens") is not None:
            body["max_tokens"] = request["max_completion_tokens"]
        self._sampling(body, target, request)
        self._tools(body, target, request)
        return body

    def _sampling(self, body: dict[str, Any], target: UpstreamModel, request: Mapping[str, Any]) -> None:
        temperature, top_p = request.get("temperature"), request.get("top_p")
        if temperature == 0:
            body["do_sample"] = False  # its word for this: some of its models do not take 0 itself
        elif isinstance(temperature, int | float) and temperature > 1:
            self._cannot(target, "temperature", " above 1")
        elif temperature is not None:
            body["temperature"] = temperature
        if top_p is not None:
            body["top_p"] = 0.01 if top_p == 0 else top_p  # the smallest value that it takes
        stop = request.get("stop")
        if stop:
            stops = stop if isinstance(stop, list) else [stop]
            if len(stops) > 1:
                self._cannot(target, "stop", " with more than one text")
            body["stop"] = stops[:1]
        response_format = request.get("response_format")
        kind = response_format.get("type") if isinstance(response_format, dict) else response_format
        if kind == "json_schema":
            self._cannot(target, "response_format", " with a json_schema (json_object it can)")
            body["response_format"] = {"type": "json_object"}
        elif response_format is not None:
            body["response_format"] = response_format

    def _tools(self, body: dict[str, Any], target: UpstreamModel, request: Mapping[str, Any]) -> None:
        choice = request.get("tool_choice")
        if choice == "none":
            return  # the vendor has no such choice, but without tools none is called
        listed, tools = request.get("tools") or [], []
        if not isinstance(listed, list):
            raise InvalidRequest("'tools' must be a list", param="tools")
        for tool in listed:
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
        content = content_of(message)
        if isinstance(content, list):
            content = self._content(target, f"messages[{index}].content", content)
        # Other fields are those of answers that clients send back (refusal, annotations, audio): left out.
        fields = {field: message[field] for field in _MESSAGE if message.get(field) is not None}
        if isinstance(fields.get("tool_calls"), list):
            fields["tool_calls"] = [with_arguments_text(call) for call in fields["tool_calls"]]
        if role == "assistant" and (reasoning := reasoning_of(message)):
            fields["reasoning_content"] = reasoning
        return {"role": role, "content": content, **fields}

    def _content(self, target: UpstreamModel, where: str, parts: list[dict[str, Any]]) -> Any:
        """The parts as the vendor takes them, or one text if all are texts: not all its models take parts."""
        sent = []
        for index, part in enumerate(parts):
            kind = part.get("type")
            if kind in ("text", "refusal"):
                sent.append({"type": "text", "text": part.get(kind) or ""})
            elif kind == "image_url":
                sent.append({"type": "image_url", "image_url": {"url": _image_url(part)}})
            elif kind in _PARTS:
                sent.append(part)
            else:
                self._cannot(target, f"{where}[{index}]", f" (a part of the type '{kind}')")
        if all(part["type"] == "text" for part in sent):
            return "\n".join(str(part["text"]) for part in sent)
        return sent

    def _embeddings(self, call: ModelCall, target: UpstreamModel) -> dict[str, Any]:
        texts = call.body["input"]
        if not isinstance(texts, str) and not all(isinstance(text, str) for text in texts):
            raise Unsupported(
                f"'input' must be text or a list of texts: {self._described} takes no tokens",
                param="input",
            )
        base64 = call.body.get("encoding_format") == "base64"  # which is made of the vendor's numbers
        translated = frozenset({"input", "encoding_format"}) if base64 else frozenset({"input"})
        return {"input": texts, **self._passed(call, target, translated)}

    def _object(self, call: ModelCall, body: bytes) -> dict[str, Any]:
        answer = super()._object(call, body)
        if answer.get("success") is False:  # an error of the vendor's proxy, which has the status 200
            raise self._stream_error(answer)
        return answer

    def _adjust(self, call: ModelCall, answer: dict[str, Any]) -> None:
        if call.operation is Operation.CHAT:
            answer.setdefault("object", "chat.completion")
            for choice in answer["choices"]:
                choice["message"].setdefault("role", "assistant")
                calls = choice["message"].get("tool_calls")
                if isinstance(calls, list) and len(objects(calls)) < len(calls):
                    raise self._malformed(call)
                self._adjust_finish(choice)
            single_call.keep_first(call, answer)

    def _transform(self, call: ModelCall) -> Callable[[dict[str, Any]], None]:
        def adjust(chunk: dict[str, Any]) -> None:
            chunk.setdefault("object", "chat.completion.chunk")
            chunk.setdefault("model", call.model)
            try:
                for choice in chunk.get("choices") or ():
                    if "message" not in choice:
                        choice.setdefault("delta", {})
                    self._adjust_finish(choice)
            except (AttributeError, TypeError) as exc:
                raise self._malformed(call) from exc

        return adjust

    def _adjust_finish(self, choice: dict[str, Any]) -> None:
        """Gives ``choice`` OpenAI's ``finish_reason``."""
        finish = choice.get("finish_reason")
        if finish == "network_error":
            raise UpstreamFailed(f"the provider '{self.name}' failed in the middle of its answer (network_error)")
        if isinstance(finish, str) and finish in _FINISHES:
            choice["finish_reason"] = _FINISHES[finish]

    def _stream_error(self, error: Any) -> SageError:
        detail = error if isinstance(error, dict) else {"message": str(error)}
        status = _status(detail.get("code"))
        return self.make_error(status_of_error(detail) if status == 502 else status, {"error": detail}, {})


def _image_url(part: Mapping[str, Any]) -> Any:
    """The URL of an image. Of a ``data:`` URL only the base64, as the vendor's SDK sends it, if it is some: an address
    there must not become one."""
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str) or not url.startswith("data:image/"):
        return url
    data = url.split("base64,", 1)[-1]
    return data if is_base64_picture(data) else url


def _status(code: Any) -> int:
    """The status that the vendor documents for a business code; for errors that come without a status."""
    number = int(code) if isinstance(code, int | str) and str(code).isdecimal() else 0
    if 400 <= number <= 599:
        return number
    if 1302 <= number < 1400:
        return 429  # too many requests, or the quota is used up
    if 1000 <= number < 1200 or number == 1220:
        return 401  # our key or account
    if number in (1211, 1221, 1222):
        return 404
    return 400 if 1210 <= number < 1230 or number in (1231, 1261, 1300, 1301) else 502
