"""Anthropic's API: chats for every surface, and its own wire for callers who speak it.

Source: Anthropic's API reference (messages, count tokens, models, errors, versions, beta headers).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import orjson

from sage.errors import InvalidRequest, SageError
from sage.middleware.providers.anthropic.answer import chat_answer
from sage.middleware.providers.anthropic.models import facts_of
from sage.middleware.providers.anthropic.native import NativeRelay, native_answer, native_request
from sage.middleware.providers.anthropic.request import COUNTED, messages_request
from sage.middleware.providers.anthropic.stream import AnthropicRelay
from sage.middleware.providers.anthropic.tools import answers_by_tool
from sage.middleware.providers.anthropic.whole_messages import gathered_message
from sage.middleware.providers.base import (
    Endpoint,
    ModelCall,
    Native,
    Operation,
    Relay,
    TokenForm,
    UpstreamModel,
    UpstreamRequest,
    Usage,
)
from sage.middleware.providers.vendor import Vendor
from sage.middleware.providers.wire.errors import reported_error
from sage.middleware.providers.wire.json_values import string
from sage.middleware.providers.wire.sse import count
from sage.middleware.settings.providers import AnthropicSettings

VERSION = "2023-06-01"
"""Of the API. The later one, 2026-10-21, has no ``temperature``, and other servers of this wire do not know it."""
_PATHS = {Operation.CHAT: "/v1/messages", Operation.TOKENIZE: "/v1/messages/count_tokens"}
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_MOST_BETAS = 32


class AnthropicProvider(Vendor):
    """Anthropic, or a server of its wire."""

    native_answers = frozenset({"anthropic"})
    reads_marks = True
    tokenizes: frozenset[TokenForm] = frozenset({"messages", "prompt"})

    def __init__(self, name: str, settings: AnthropicSettings) -> None:
        token = settings.auth_token
        self._token = token.get_secret_value() if token is not None else None
        self._max_tokens = settings.max_tokens
        self._betas = settings.betas
        super().__init__(name, settings)
        self._headers.setdefault("anthropic-version", VERSION)
        self._open(self._address(settings).removesuffix("/v1"), settings)

    def _with_key(self, key: str) -> Mapping[str, str]:
        if key == self._token:
            return super()._with_key(key)
        headers = self._headers.copy()
        headers["x-api-key"] = key
        return headers

    def models_url(self) -> str | None:
        return self.endpoints[0].url("/v1/models?limit=1000")

    def encode(self, call: ModelCall, target: UpstreamModel, endpoint: Endpoint) -> UpstreamRequest:
        if call.operation not in _PATHS:
            raise self._no_such_operation(call)
        self._check_denied(call.body)
        native = self._native(call)
        if native is None:
            sent = self._translated(call, target)
        else:
            self._check_denied(native.body)
            sent = {**native_request(native.body), "model": target.model}
        if call.operation is Operation.TOKENIZE:
            sent = {field: value for field, value in sent.items() if field in COUNTED}
        request = self._post(endpoint.url(_PATHS[call.operation]), endpoint, sent)
        if native is not None and native.headers:
            request.headers = self._native_headers(endpoint.headers, native.headers)
        return request

    def _native(self, call: ModelCall) -> Native | None:
        """The caller's request, where it is in this wire."""
        return call.native if call.native is not None and call.native.kind in self.native_answers else None

    def _native_headers(self, headers: Mapping[str, str], callers: Mapping[str, str]) -> Mapping[str, str]:
        """``headers`` with the version of the API that the caller's request is written for, and with those of its
        features in beta that are allowed here. Others are left out: the vendor refuses a field that needs them."""
        merged = self._headers.__class__(headers)
        version = callers.get("anthropic-version", "")
        if _DATE.fullmatch(version):
            merged["anthropic-version"] = version
        wanted = [beta.strip() for beta in callers.get("anthropic-beta", "").split(",")[:_MOST_BETAS]]
        allowed = [beta for beta in wanted if any(fnmatchcase(beta, pattern) for pattern in self._betas)]
        if allowed:
            configured = [merged["anthropic-beta"]] if "anthropic-beta" in merged else []
            merged["anthropic-beta"] = ",".join([*configured, *allowed])
        return merged

    def _translated(self, call: ModelCall, target: UpstreamModel) -> dict[str, Any]:
        facts, body = facts_of(target.model), call.body
        if "messages" not in body:
            body = _as_messages(body)
        effort = call.hints.get("reasoning_effort") if call.hints is not None else None
        if effort is not None and facts.thinking != "never" and (effort != "none" or facts.may_not_think):
            body = {"reasoning_effort": effort, **body}
        default = self._max_tokens or facts.max_tokens
        if call.token_bound is not None:
            default = min(default, call.token_bound)
        return messages_request(
            body, target.model, facts, lambda field, why: self._cannot(target, field, why), default, stream=call.stream
        )

    def _decode(self, call: ModelCall, body: bytes) -> tuple[bytes, Usage | None]:
        answer = self._object(call, body)
        if (error := reported_error(answer)) is not None:
            raise self._stream_error(error)
        decoded: tuple[dict[str, Any], Usage | None] | None
        if call.operation is Operation.TOKENIZE:
            decoded = _counted(answer)
        elif self._native(call) is not None:
            decoded = native_answer(answer, call.model)
        else:
            decoded = chat_answer(answer, call.model, by_tool=answers_by_tool(call.body))
        if decoded is None:
            raise self._malformed(call)
        try:
            return orjson.dumps(decoded[0]), decoded[1]
        except orjson.JSONEncodeError as exc:
            raise self._malformed(call) from exc

    def _gathered(self, call: ModelCall, body: bytes) -> tuple[bytes, Usage | None]:
        if self._native(call) is None:
            return super()._gathered(call, body)
        relay = NativeRelay(call.model, on_error=self._stream_error)
        events = relay.feed(body)
        if relay.error is None and not relay.finished:
            events += relay.close()
        if relay.error is not None:
            raise relay.error
        decoded = native_answer(gathered_message(events), call.model)
        if decoded is None:
            raise self._malformed(call)
        return orjson.dumps(decoded[0]), relay.usage

    def relay(self, call: ModelCall) -> Relay:
        if self._native(call) is not None:
            return NativeRelay(call.model, on_error=self._stream_error)
        return AnthropicRelay(
            call.model,
            keep_usage=call.wants_usage,
            by_tool=answers_by_tool(call.body),
            on_error=self._stream_error,
        )

    def make_error(self, status: int, body: Any, headers: Mapping[str, str]) -> SageError:
        error = super().make_error(status, body, headers)
        if error.code is None and isinstance(body, dict) and isinstance(body.get("error"), dict):
            error.code = _code(body["error"])
        return error


def _code(error: Mapping[str, Any]) -> str | None:
    """The vendor's code for an error more special than its type; ``None`` for most."""
    details = error.get("details")
    code = string(details.get("error_code")) if isinstance(details, dict) else ""
    return code if 0 < len(code) <= 100 else None


def _as_messages(body: Mapping[str, Any]) -> dict[str, Any]:
    """The chat of one message that stands for a ``prompt``, whose tokens are to be counted."""
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise InvalidRequest("'prompt' must be text", param="prompt")
    fields = {"prompt", "add_special_tokens", "return_token_strs"}
    rest = {field: value for field, value in body.items() if field not in fields}
    return {**rest, "messages": [{"role": "user", "content": prompt}]}


def _counted(answer: Mapping[str, Any]) -> tuple[dict[str, Any], None] | None:
    """vLLM's answer. Anthropic gives the number of tokens, and not which they are."""
    if not isinstance(answer.get("input_tokens"), int):
        return None
    return {"count": count(answer["input_tokens"]), "max_model_len": None, "tokens": []}, None
