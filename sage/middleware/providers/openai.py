"""Any OpenAI-compatible server: the caller's wire is the upstream's wire.

The parsed body is written again with the model's name changed and every unknown field kept; never the caller's own
bytes, in which a doubled key could carry a second model past the check.

Source: OpenAI's API reference (chat/completions, completions, embeddings, errors).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from multidict import CIMultiDict

from sage.errors import InvalidRequest, SageError, UpstreamFailed
from sage.middleware.providers.base import Call, Endpoint, EngineSpec, Operation, Relay, UpstreamRequest, Usage
from sage.middleware.providers.events import EventRelay, read_usage
from sage.middleware.providers.refusals import refusal
from sage.middleware.settings import ProviderCommon, RemoteProvider

DEFAULT_URLS = {"openai": "https://api.openai.com/v1"}
# Every header that is sent, so that the client adds none: compression would hold back the chunks of a stream.
WIRE_HEADERS = {
    "User-Agent": "sage-middleware",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
}
# Fields that run code or templates upstream, or redirect the call: never passed on, whoever asks.
DENIED = frozenset(
    {
        "api_base",
        "api_key",
        "base_url",
        "chat_template",
        "extra_headers",
        "logits_processors",
        "lora",
        "lora_request",
        "mm_processor_kwargs",
        "media_io_kwargs",
        "kv_transfer_params",
        "priority",
        "prompt_embeds",
        "request_id",
        "id_slot",
        "slot_id",
    }
)
_SHAPE = {Operation.CHAT: "choices", Operation.COMPLETIONS: "choices", Operation.EMBEDDINGS: "data"}


class OpenAIProvider:
    """One OpenAI-compatible server and its key."""

    kind = "openai"

    def __init__(self, name: str, settings: RemoteProvider) -> None:
        self._keep(name, settings)
        base_url = (settings.base_url or DEFAULT_URLS[settings.kind]).rstrip("/")
        headers = self._headers
        if settings.api_key is not None:
            key = settings.api_key.get_secret_value()
            headers["Authorization"] = f"Bearer {key}"
            self._secrets.append(key)
        self._endpoint: Endpoint | None = Endpoint(self._api_root(base_url), headers)

    def _keep(self, name: str, settings: ProviderCommon) -> None:
        self.name = name
        self.timeouts = settings.timeouts
        self.max_concurrency = settings.max_concurrency
        self.retries = settings.retries
        self._headers = CIMultiDict(WIRE_HEADERS)
        self._headers.update({name: value.get_secret_value() for name, value in settings.headers.items()})
        # Longer ones first: one may hold another. Short values of headers are no secrets but words.
        self._secrets = sorted((value for value in self._headers.values() if len(value) >= 8), key=len, reverse=True)
        self._secrets = [secret for secret in self._secrets if secret not in WIRE_HEADERS.values()]
        self._denied = DENIED | frozenset(settings.deny_fields)

    def _api_root(self, base_url: str) -> str:
        return base_url

    def endpoint(self) -> Endpoint | None:
        return self._endpoint

    def engine(self, model: str) -> EngineSpec | None:
        return None

    def known_models(self) -> tuple[str, ...]:
        return ()

    def complaints(self) -> list[tuple[str, str]]:
        return []

    def missing(self, model: str) -> str | None:
        return None

    def encode(self, call: Call, model: str, endpoint: Endpoint) -> UpstreamRequest:
        body = call.body
        if not self._denied.isdisjoint(body):
            field = sorted(self._denied.intersection(body))[0]
            raise InvalidRequest(
                f"'{field}' is never passed on to the provider '{self.name}'; leave it out",
                param=field,
                code="field_not_allowed",
            )
        body = {**body, "model": model}
        if call.stream:
            options = body.get("stream_options")
            body["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
        url = f"{endpoint.base_url}/{call.operation}"
        try:
            data = orjson.dumps(body)
        except orjson.JSONEncodeError as exc:
            raise InvalidRequest(f"the body cannot be passed on: {exc}") from exc
        return UpstreamRequest(self.name, "POST", url, endpoint.headers, data, self.timeouts)

    def decode(self, call: Call, body: bytes) -> tuple[bytes, Usage | None]:
        answer = _object(body)
        if answer is not None and answer.get("error") is not None:
            raise self._stream_error(answer["error"])
        if answer is None or not _is_answer(call.operation, answer):
            raise self._nonsense(call)
        usage = read_usage(answer.get("usage"))
        self._mend(call, answer)
        if answer.get("model") == call.model:
            return body, usage
        answer["model"] = call.model
        try:
            return orjson.dumps(answer), usage
        except orjson.JSONEncodeError as exc:
            raise self._nonsense(call) from exc

    def _nonsense(self, call: Call) -> UpstreamFailed:
        return UpstreamFailed(
            f"the provider '{self.name}' answered with something that is no answer to {call.operation}",
            code="upstream_nonsense",
        )

    def _mend(self, call: Call, answer: dict[str, Any]) -> None:
        """Where a vendor that speaks this wire differs in its answers."""

    def relay(self, call: Call) -> Relay:
        return EventRelay(
            call.model,
            keep_usage=call.wants_usage,
            on_error=self._stream_error,
            choices=call.answers,
            transform=self._transform(call),
        )

    def _transform(self, call: Call) -> Callable[[dict[str, Any]], None] | None:
        """As :meth:`_mend`, for each chunk of a stream: it costs parsing every one of them."""
        return None

    def _stream_error(self, error: Any) -> SageError:
        """An error that came inside a 200: its ``code`` is the status where it is a number."""
        detail = error if isinstance(error, dict) else {"message": str(error)}
        code = detail.get("code")
        status = code if isinstance(code, int) and 400 <= code <= 599 else 502
        return self.refuse(status, {"error": detail}, {})

    def refuse(self, status: int, body: Any, headers: Mapping[str, str]) -> SageError:
        return refusal(self.name, status, body, headers, self._secrets)


def _is_answer(operation: Operation, answer: dict[str, Any]) -> bool:
    items = answer.get(_SHAPE[operation])
    if not isinstance(items, list):
        return False
    for item in items:  # no generator: this is on every request's way
        if not isinstance(item, dict) or (operation is Operation.CHAT and not isinstance(item.get("message"), dict)):
            return False
    return True


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return answer if isinstance(answer, dict) else None
