"""OpenAI, and any server that is compatible with it: the caller's wire is the upstream's wire.

The parsed body is serialised again with the model's name changed and every unknown field in place. The caller's own
bytes are never sent: a duplicate key in them could carry a second model past the check.

Source: OpenAI's API reference (chat/completions, completions, embeddings, errors).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import orjson

from sage.errors import SageError
from sage.middleware.providers.base import (
    RELAYED,
    Endpoint,
    ModelCall,
    Operation,
    Relay,
    UpstreamModel,
    UpstreamRequest,
    Usage,
)
from sage.middleware.providers.openai_fields import DOCUMENTED, MESSAGE
from sage.middleware.providers.vendor import Vendor
from sage.middleware.providers.wire.errors import error_of_choices, reported_error
from sage.middleware.providers.wire.normal import NormalRelay, is_plain_chat, normalise_choices, normalise_texts
from sage.middleware.providers.wire.passing import PassingRelay
from sage.middleware.providers.wire.responses import PATH, WIRE, ResponsesRelay, read_response
from sage.middleware.providers.wire.sse import EventRelay, read_usage
from sage.middleware.providers.wire.vectors import normalise_embeddings
from sage.middleware.settings.kinds import KINDS
from sage.middleware.settings.providers import OpenAISettings, RemoteProvider

_OBJECTS = frozenset({dict})
_CHAT = Operation.CHAT  # to look up a member of an enum costs a call on Python 3.11
_SHAPE = {
    Operation.CHAT: "choices",
    Operation.COMPLETIONS: "choices",
    Operation.EMBEDDINGS: "data",
    Operation.RERANK: "results",
    Operation.SCORE: "data",
    Operation.MODERATIONS: "results",
}

_THINKS = re.compile(r"o[1-9]|gpt-(?:[5-9]|oss)")
"""How the names of OpenAI's models begin that think, and take ``reasoning_effort``."""
_MOST_MODELS = 1000
"""Of which it is remembered that their server refuses a field."""


class OpenAIProvider(Vendor):
    """One OpenAI-compatible server and its keys."""

    paths: Mapping[Operation, str] = {
        Operation.CHAT: "/chat/completions",
        Operation.COMPLETIONS: "/completions",
        Operation.EMBEDDINGS: "/embeddings",
        Operation.MODERATIONS: "/moderations",
        Operation.RERANK: "/rerank",  # Jina, vLLM and llama.cpp have it, with one shape
    }
    """The path of each operation below the base URL; the vendor cannot do what is not here."""
    relayed: Mapping[Operation, str] = {operation: f"/{operation}" for operation in RELAYED}
    """The same of the operations whose answers go on as they come."""
    _documented: Mapping[Operation, frozenset[str]] = DOCUMENTED
    """All fields that an operation of the vendor has: the others are left out for a model with ``drop_unsupported``.
    Without an entry, none are."""
    _aliases: Mapping[str, str] = {}
    """Names that other servers have for a field → the vendor's name."""
    _requests_usage = True
    """Whether a stream has to be asked for its usage (``stream_options``)."""
    _refuse_usage: frozenset[str] = frozenset()
    """Models whose server does not accept ``stream_options``, as it has shown."""
    _changes_answers = False
    """Whether :meth:`_adjust` changes answers. If not, an answer under the right name is passed on as it is."""
    _keeps_reasoning = True
    """Whether the server's own name for reasoning stays beside ``reasoning_content``."""

    def __init_subclass__(cls) -> None:
        cls._changes_answers = cls._adjust is not OpenAIProvider._adjust

    def __init__(self, name: str, settings: RemoteProvider) -> None:
        super().__init__(name, settings)
        self._ask_for_usage(settings)
        if self._has_responses(settings):
            self.native_answers = frozenset({WIRE})
        if isinstance(settings, OpenAISettings):
            self._add_account_headers(settings)
        self._open(self._api_root(self._address(settings)), settings)

    @staticmethod
    def _has_responses(settings: RemoteProvider) -> bool:
        """Whether the server has the route of responses: as the configuration says, else as the vendor's own does."""
        if settings.responses is not None:
            return settings.responses
        kind = KINDS[settings.kind]
        return kind.responses and (kind.default_url is None or settings.root in (None, kind.default_url))

    def _ask_for_usage(self, settings: RemoteProvider) -> None:
        """Asks for the usage of streams as the configuration says, if it does."""
        if settings.stream_options is not None:
            self._requests_usage = settings.stream_options

    def _add_account_headers(self, settings: OpenAISettings) -> None:
        """Names the organization and the project that OpenAI bills the requests to."""
        for header, value in (("OpenAI-Organization", settings.organization), ("OpenAI-Project", settings.project)):
            if value is not None:
                self._headers[header] = value.get_secret_value()
                self._secrets.append(value.get_secret_value())

    def _api_root(self, base_url: str) -> str:
        return base_url

    def encode(self, call: ModelCall, target: UpstreamModel, endpoint: Endpoint) -> UpstreamRequest:
        native = call.native
        if native is not None and native.kind in self.native_answers:
            self._check_denied(native.body)
            return self._post(endpoint.url(PATH), endpoint, {**native.body, "model": target.model})
        path = self.paths.get(call.operation)
        if path is None:
            return self._encode_relayed(call, target, endpoint)
        self._check_denied(call.body)
        body = {**call.body, "model": target.model}
        if self._aliases and not self._aliases.keys().isdisjoint(body):
            _rename(body, self._aliases)
        if target.drop_unsupported:
            self._drop(body, call.operation)
        if call.stream:
            if self._requests_usage and call.omitted is None and target.model not in self._refuse_usage:
                options = body.get("stream_options")
                body["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
            else:
                body.pop("stream_options", None)
        return self._post(endpoint.url(path), endpoint, body)

    def _encode_relayed(self, call: ModelCall, target: UpstreamModel, endpoint: Endpoint) -> UpstreamRequest:
        """The request for sounds or images, which is a JSON with the caller's fields, or the caller's form."""
        path = self.relayed.get(call.operation)
        if path is None:
            raise self._no_such_operation(call)
        self._check_denied(call.body)
        if call.form is not None:
            return self._post_form(endpoint.url(path), endpoint, call.form, target.model)
        return self._post(endpoint.url(path), endpoint, {**call.body, "model": target.model})

    def reads_effort(self, model: str) -> bool:
        return self.kind == "openai" and _THINKS.match(model) is not None

    def learn(self, model: str, omitted: str) -> None:
        if omitted == "stream_options" and len(self._refuse_usage) < _MOST_MODELS:
            self._refuse_usage |= {model}

    def _drop(self, body: dict[str, Any], operation: Operation) -> None:
        """Removes from ``body`` what the vendor does not have."""
        documented = self._documented.get(operation)
        if documented is None:
            return
        for field in [field for field in body if field not in documented]:
            del body[field]
        if "messages" in body:
            body["messages"] = [
                message if message.keys() <= MESSAGE else {key: message[key] for key in message if key in MESSAGE}
                for message in body["messages"]
            ]

    def _decode(self, call: ModelCall, body: bytes) -> tuple[bytes, Usage | None]:
        answer = self._object(call, body)
        if call.native is not None and call.native.kind in self.native_answers:
            usage = read_response(answer, call.model, self._stream_error)
            return orjson.dumps(answer), usage
        if "error" in answer and (error := reported_error(answer)) is not None:
            raise self._stream_error(error)
        changed = self._normalise(call, answer)
        if changed is None:
            raise self._no_answer(call, answer)
        usage = read_usage(answer.get("usage"))
        if self._changes_answers:
            self._adjust(call, answer)
        elif not changed and "model" in answer and answer["model"] == call.model:
            return body, usage
        answer["model"] = call.model
        try:
            return orjson.dumps(answer), usage
        except orjson.JSONEncodeError as exc:
            raise self._malformed(call) from exc

    def _no_answer(self, call: ModelCall, answer: dict[str, Any]) -> SageError:
        error = reported_error(answer)
        return self._malformed(call) if error is None else self._stream_error(error)

    def _normalise(self, call: ModelCall, answer: dict[str, Any]) -> bool | None:
        """Mends in place what SDKs of this wire cannot read; whether anything changed, ``None`` if it is no answer."""
        operation = call.operation
        if operation is _CHAT and is_plain_chat(answer.get("choices")):
            return False
        shape = _SHAPE.get(operation)
        if shape is None:
            return False
        items = answer.get(shape)
        if not isinstance(items, list):
            return None
        if not {*map(type, items)} <= _OBJECTS:
            return None
        if shape == "choices":
            if not items:
                return None
            if (error := error_of_choices(items)) is not None:
                raise self._stream_error(error)
        if operation is _CHAT:
            return normalise_choices(items, keep_reasoning=self._keeps_reasoning)
        if operation is Operation.EMBEDDINGS:
            return normalise_embeddings(call, items, answer.get("model"), self._requested_dimensions(call))
        return normalise_texts(items) if operation is Operation.COMPLETIONS else False

    def _requested_dimensions(self, call: ModelCall) -> Any:
        """The length of vectors that the upstream was asked for; ``None`` means none."""
        return call.body.get("dimensions")

    def _adjust(self, call: ModelCall, answer: dict[str, Any]) -> None:
        """Changes ``answer`` in place where a vendor of this wire differs from OpenAI."""

    def relay(self, call: ModelCall) -> Relay:
        if call.native is not None and call.native.kind in self.native_answers:
            return ResponsesRelay(call.model, self._stream_error)
        options: dict[str, Any] = {
            "keep_usage": call.wants_usage,
            "on_error": self._stream_error,
            "choices": call.answers,
            "transform": self._transform(call),
            "whole": partial(self._answer_as_stream, call),
            "logprobs": "logprobs" in call.body,
        }
        if call.operation is Operation.CHAT:
            return NormalRelay(call.model, keep_reasoning=self._keeps_reasoning, **options)
        if call.relayed:
            return PassingRelay(call, self._stream_error)
        return EventRelay(call.model, **options)

    def _transform(self, call: ModelCall) -> Callable[[dict[str, Any]], None] | None:
        """What :meth:`_adjust` is for answers, for the chunks of a stream. With one, every chunk has to be parsed."""
        return None


def _rename(body: dict[str, Any], aliases: Mapping[str, str]) -> None:
    """Gives the fields of ``body`` the vendor's names, unless it has them already."""
    for alias, name in aliases.items():
        if alias in body:
            value = body.pop(alias)
            body.setdefault(name, value)
