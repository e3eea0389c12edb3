"""Cohere's API, version 2: chat, embeddings with their input types, rerank; the tokenizer is in version 1.

Source: Cohere's API reference (chat, embed, rerank, tokenize, models).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
from sage.middleware.providers.cohere.chat import chat_answer, chat_request, read_usage, usage_of
from sage.middleware.providers.cohere.stream import CohereRelay
from sage.middleware.providers.vendor import HINTS, Vendor
from sage.middleware.providers.wire import single_call
from sage.middleware.providers.wire.chunks import usage_object
from sage.middleware.providers.wire.errors import reported_error
from sage.middleware.providers.wire.json_values import objects
from sage.middleware.providers.wire.vectors import encoded, normalise_embeddings, of_length
from sage.middleware.settings.providers import RemoteProvider

_PATHS = {
    Operation.CHAT: "v2/chat",
    Operation.EMBEDDINGS: "v2/embed",
    Operation.RERANK: "v2/rerank",
    Operation.TOKENIZE: "v1/tokenize",
    Operation.DETOKENIZE: "v1/detokenize",
}
_EMBED_FIELDS = frozenset({"input_type", "truncate", "output_dimension", "embedding_types", "max_tokens"})


class CohereProvider(Vendor):
    """Cohere, or a server of its wire."""

    tokenizes: frozenset[TokenForm] = frozenset({"prompt"})

    def __init__(self, name: str, settings: RemoteProvider) -> None:
        super().__init__(name, settings)
        self._open(self._address(settings).removesuffix("/v1").removesuffix("/v2"), settings)

    def models_url(self) -> str | None:
        return self.endpoints[0].url("/v1/models?page_size=1000")

    def model_names(self, body: Any) -> frozenset[str]:
        models = body.get("models") if isinstance(body, dict) else None
        names = (model.get("name") for model in objects(models))
        return frozenset(name for name in names if isinstance(name, str))

    def encode(self, call: ModelCall, target: UpstreamModel, endpoint: Endpoint) -> UpstreamRequest:
        if call.operation not in _PATHS:
            raise self._no_such_operation(call)
        self._check_denied(call.body)
        body = self._body(single_call.without_limit(call), target)
        return self._post(endpoint.url(f"/{_PATHS[call.operation]}"), endpoint, body)

    def _body(self, call: ModelCall, target: UpstreamModel) -> dict[str, Any]:
        native = call.native
        if native is not None and native.kind == self.kind:
            self._check_denied(native.body)
            return {**native.body, "model": target.model}
        match call.operation:
            case Operation.CHAT:
                return chat_request(
                    {"reasoning_effort": "none", **call.body} if call.not_to_think else call.body,
                    target.model,
                    call.stream,
                    lambda field, why="": self._cannot(target, field, why),
                )
            case Operation.EMBEDDINGS:
                return self._embed(call, target)
            case Operation.TOKENIZE | Operation.DETOKENIZE:
                return self._tokens(call, target)
        return {**call.body, "model": target.model, "documents": [_text(item) for item in call.body["documents"]]}

    def _embed(self, call: ModelCall, target: UpstreamModel) -> dict[str, Any]:
        body = call.body
        items = [body["input"]] if isinstance(body["input"], str) else body["input"]
        if not all(isinstance(item, str | dict) for item in items):
            raise self._unsupported_input(call, "input", "takes texts and images, and no tokens")
        sent: dict[str, Any] = {"model": target.model, "input_type": "search_document"}
        if all(isinstance(item, str) for item in items):
            sent["texts"] = items
        else:
            sent["inputs"] = [_embed_input(item) for item in items]
            if all(isinstance(item, dict) and item.get("type") == "image_url" for item in items):
                sent["input_type"] = "image"
        sent["embedding_types"] = ["base64" if body.get("encoding_format") == "base64" else "float"]
        if body.get("encoding_format") not in (None, "float", "base64"):
            self._cannot(target, "encoding_format", " (it has float and base64)")
        if body.get("dimensions") is not None:
            sent["output_dimension"] = body["dimensions"]
        if call.hints is not None and call.hints.get("truncate") is False:
            sent["truncate"] = "NONE"
        for field, value in body.items():
            if field in _EMBED_FIELDS and value is not None:
                sent[field] = value
            elif field not in HINTS | {"input", "encoding_format", "dimensions", "models"} and value is not None:
                self._cannot(target, field)
        return sent

    def _tokens(self, call: ModelCall, target: UpstreamModel) -> dict[str, Any]:
        """Of vLLM's tokenizer routes. Cohere's take texts, and do not add a token at the beginning."""
        body = call.body
        if call.operation is Operation.DETOKENIZE:
            passed = {"tokens"}
            sent = {"model": target.model, "tokens": body["tokens"]}
        else:
            if not isinstance(body.get("prompt"), str):
                raise self._unsupported_input(call, "messages", "takes a 'prompt', and no messages")
            passed = {"prompt", "return_token_strs"}
            if body.get("add_special_tokens") is False:
                passed.add("add_special_tokens")
            sent = {"model": target.model, "text": body["prompt"]}
        for field, value in body.items():
            if field not in passed | HINTS and value is not None:
                self._cannot(target, field)
        return sent

    def _unsupported_input(self, call: ModelCall, field: str, why: str) -> Unsupported:
        """The error for a field that cannot be left out, since it holds the input itself."""
        return Unsupported(
            f"the {call.operation} of the provider '{self.name}' ({self.kind}) {why}; see '{field}'", param=field
        )

    def _decode(self, call: ModelCall, body: bytes) -> tuple[bytes, Usage | None]:
        answer = self._object(call, body)
        if isinstance(error := reported_error(answer), dict):
            raise self._stream_error(error)
        match call.operation:
            case Operation.CHAT:
                decoded = chat_answer(answer, call.model, self._fail)
            case Operation.EMBEDDINGS:
                decoded = _embeddings(call, answer)
            case Operation.RERANK:
                decoded = _ranking(call, answer)
            case Operation.TOKENIZE:
                decoded = _tokenized(call, answer)
            case _:
                decoded = ({"prompt": answer["text"]}, None) if isinstance(answer.get("text"), str) else None
        if decoded is None:
            raise self._malformed(call)
        single_call.keep_first(call, decoded[0])
        try:
            return orjson.dumps(decoded[0]), decoded[1]
        except orjson.JSONEncodeError as exc:
            raise self._malformed(call) from exc

    def relay(self, call: ModelCall) -> Relay:
        relay = CohereRelay(call.model, keep_usage=call.wants_usage, fail=self._fail, on_error=self._stream_error)
        return single_call.first_only(call, relay)

    def _fail(self, status: int, message: str) -> SageError:
        """The error for an answer that reports a failure though its HTTP status is 200."""
        return self.make_error(status, {"message": message}, {})


def _text(document: Any) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str):
        raise InvalidRequest("'documents' must hold texts", param="documents")
    return text


def _embed_input(item: str | dict[str, Any]) -> dict[str, Any]:
    """One of Cohere's ``inputs``, which becomes one vector."""
    if isinstance(item, str):
        return {"content": [{"type": "text", "text": item}]}
    return item if isinstance(item.get("content"), list) else {"content": [item]}


def _embeddings(call: ModelCall, answer: Mapping[str, Any]) -> tuple[dict[str, Any], Usage | None] | None:
    """OpenAI's list. Types of embeddings that OpenAI's wire does not have are in ``embeddings``, by type."""
    by_type = answer.get("embeddings")
    if not isinstance(by_type, dict):
        return None
    dimensions = call.body.get("dimensions") or call.body.get("output_dimension")
    lists = {
        kind: _of_length(call, kind, vectors, dimensions)
        for kind, vectors in by_type.items()
        if isinstance(vectors, list)
    }
    first = "base64" if call.body.get("encoding_format") == "base64" and "base64" in lists else "float"
    vectors = lists.get(first) or next(iter(lists.values()), None)
    items = call.body["input"]
    if vectors is None or len(vectors) != (1 if isinstance(items, str) else len(items)):
        return None
    meta = answer.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    counted = read_usage(meta)
    usage = counted or Usage()
    translated: dict[str, Any] = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)],
        "model": call.model,
        "usage": usage_of(meta, usage),
    }
    del translated["usage"]["completion_tokens"]
    normalise_embeddings(call, translated["data"], None, None)
    if set(lists) != {first}:
        translated["embeddings"] = lists
    return translated, counted


def _of_length(call: ModelCall, kind: str, vectors: list[Any], dimensions: Any) -> list[Any]:
    """``vectors`` with as many numbers as were asked for. Those of other types than float32 stay as they are."""
    if dimensions is None or kind not in ("float", "base64"):
        return vectors
    fitting = [of_length(vector, dimensions, call.model) for vector in vectors]
    return [encoded(vector, as_base64=kind == "base64", name=call.model) for vector in fitting]


def _ranking(call: ModelCall, answer: dict[str, Any]) -> tuple[dict[str, Any], Usage | None] | None:
    results = answer.get("results")
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        return None
    usage = read_usage(answer.get("meta"))
    answer["model"] = call.model
    if usage is not None:
        answer["usage"] = usage_object(usage)
    elif meta := _searches(answer.get("meta")):
        usage = Usage(reported=meta)
    return answer, usage


def _searches(meta: Any) -> dict[str, Any] | None:
    """``meta`` if it says how many searches are billed, which is all that a reranker counts."""
    billed = meta.get("billed_units") if isinstance(meta, dict) else None
    return meta if isinstance(billed, dict) and "search_units" in billed else None


def _tokenized(call: ModelCall, answer: Mapping[str, Any]) -> tuple[dict[str, Any], None] | None:
    tokens = answer.get("tokens")
    if not isinstance(tokens, list):
        return None
    translated = {"count": len(tokens), "max_model_len": None, "tokens": tokens}
    if call.body.get("return_token_strs"):
        translated["token_strs"] = answer.get("token_strings")
    return translated, None
