"""Google's Gemini API: chat, embeddings, and counts of tokens.

Source: Google's API reference (generativelanguage.googleapis.com, v1beta).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import orjson

from sage.errors import InvalidRequest, SageError, Unsupported
from sage.middleware.providers.base import (
    Endpoint,
    ModelCall,
    Operation,
    Relay,
    TokenForm,
    UpstreamModel,
    UpstreamRequest,
    Usage,
)
from sage.middleware.providers.gemini.answer import chat_answer
from sage.middleware.providers.gemini.embeddings import embed_request, embeddings
from sage.middleware.providers.gemini.models import facts_of, resource
from sage.middleware.providers.gemini.request import generate_request
from sage.middleware.providers.gemini.stream import GeminiRelay
from sage.middleware.providers.vendor import Vendor
from sage.middleware.providers.wire import single_call
from sage.middleware.providers.wire.errors import first_error, reported_error
from sage.middleware.providers.wire.json_values import objects
from sage.middleware.providers.wire.sse import count
from sage.middleware.settings.providers import RemoteProvider

_COUNTED = frozenset({"contents", "systemInstruction", "tools", "toolConfig"})


class GeminiProvider(Vendor):
    """Google's Gemini API, or a server of its wire."""

    reads_marks = True
    tokenizes: frozenset[TokenForm] = frozenset({"messages", "prompt"})

    def __init__(self, name: str, settings: RemoteProvider) -> None:
        super().__init__(name, settings)
        address = self._address(settings)
        self._open(address if "/v1" in address else f"{address}/v1beta", settings)

    def _with_key(self, key: str) -> Mapping[str, str]:
        headers = self._headers.copy()
        headers["x-goog-api-key"] = key
        return headers

    def models_url(self) -> str | None:
        return self.endpoints[0].url("/models?pageSize=1000")

    def model_names(self, body: Any) -> frozenset[str]:
        models = body.get("models") if isinstance(body, dict) else None
        names = (model.get("name") for model in objects(models))
        return frozenset(name.removeprefix("models/") for name in names if isinstance(name, str))

    def encode(self, call: ModelCall, target: UpstreamModel, endpoint: Endpoint) -> UpstreamRequest:
        self._check_denied(call.body)
        call = single_call.without_limit(call)
        match call.operation:
            case Operation.CHAT:
                method = "streamGenerateContent?alt=sse" if call.stream else "generateContent"
                sent = self._chat(call, target)
            case Operation.EMBEDDINGS:
                method, sent = "batchEmbedContents", self._embed(call, target)
            case Operation.TOKENIZE:
                method, sent = "countTokens", self._counted_request(call, target)
            case _:
                raise self._no_such_operation(call)
        return self._post(endpoint.url(f"/{_path(target.model)}:{method}"), endpoint, sent)

    def _chat(self, call: ModelCall, target: UpstreamModel) -> dict[str, Any]:
        facts, body = facts_of(target.model), call.body
        effort = call.hints.get("reasoning_effort") if call.hints is not None else None
        if effort is not None and facts.control != "none" and (effort != "none" or facts.can_stop):
            body = {"reasoning_effort": effort, **body}
        return generate_request(body, facts, lambda field, why: self._cannot(target, field, why))

    def _embed(self, call: ModelCall, target: UpstreamModel) -> dict[str, Any]:
        texts = call.body["input"]
        if not isinstance(texts, str) and not all(isinstance(text, str) for text in texts):
            raise Unsupported(
                f"'input' must be text or a list of texts: {self._described} takes no tokens", param="input"
            )
        return embed_request(call, target.model, lambda field, why: self._cannot(target, field, why))

    def _counted_request(self, call: ModelCall, target: UpstreamModel) -> dict[str, Any]:
        """Of the tokens of a chat, or of a ``prompt``."""
        body = call.body
        if "messages" not in body:
            prompt = body.get("prompt")
            if not isinstance(prompt, str) or not prompt:
                raise InvalidRequest("'prompt' must be text", param="prompt")
            return {"contents": [{"role": "user", "parts": [{"text": prompt}]}]}
        sent = self._chat(call, target)
        counted = {field: value for field, value in sent.items() if field in _COUNTED}
        return {"generateContentRequest": {"model": resource(target.model), **counted}}

    def _decode(self, call: ModelCall, body: bytes) -> tuple[bytes, Usage | None]:
        answer = self._object(call, body)
        if (error := reported_error(answer)) is not None:
            raise self._stream_error(error)
        decoded: tuple[dict[str, Any], Usage | None] | None
        match call.operation:
            case Operation.CHAT:
                decoded = chat_answer(answer, call.model)
            case Operation.EMBEDDINGS:
                decoded = embeddings(call, answer)
            case _:
                decoded = _counted(answer)
        if decoded is None:
            raise self._malformed(call)
        single_call.keep_first(call, decoded[0])
        try:
            return orjson.dumps(decoded[0]), decoded[1]
        except orjson.JSONEncodeError as exc:
            raise self._malformed(call) from exc

    def relay(self, call: ModelCall) -> Relay:
        relay = GeminiRelay(
            call.model, keep_usage=call.wants_usage, candidates=call.answers, on_error=self._stream_error
        )
        return single_call.first_only(call, relay)

    def make_error(self, status: int, body: Any, headers: Mapping[str, str]) -> SageError:
        # A wrong key is a 400 at Google. It is ours, as everywhere, and another may do.
        return super().make_error(401 if status == 400 and _is_about_key(body) else status, body, headers)


def _path(model: str) -> str:
    """The model in a URL. A name that the caller chose cannot lead elsewhere."""
    collection, _, name = resource(model).partition("/")
    return f"{collection}/{quote(name, safe='')}"


def _is_about_key(body: Any) -> bool:
    first = first_error(body)
    error = first.get("error") if isinstance(first, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    return any(detail.get("reason") == "API_KEY_INVALID" for detail in objects(details))


def _counted(answer: Mapping[str, Any]) -> tuple[dict[str, Any], None] | None:
    """vLLM's answer. Google gives the number of tokens, and not which they are."""
    if not isinstance(answer.get("totalTokens"), int):
        return None
    return {"count": count(answer["totalTokens"]), "max_model_len": None, "tokens": []}, None
