"""``/v1/rerank`` and ``/v2/rerank``: documents in the order of how well they answer a query, in Cohere's shape.

Source: Cohere's API reference, *Rerank* (v2); ``return_documents`` and documents that are objects are from its v1.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from sage.errors import UpstreamFailed
from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.gateway import admission
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.routers.http.asgi import Receive, Scope, Send, note, read_json, take_flag, take_model
from sage.middleware.routers.http.hot_route import HotRoute
from sage.middleware.routers.http.respond import respond


class RerankRequest(BaseModel):
    """A query, and the documents to put in order. Fields that are not listed go on to the provider unchanged."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(examples=["rerank-v3.5"])
    query: str = Field(examples=["What is the capital of France?"])
    documents: list[str | dict[str, Any]] = Field(
        description="Texts, or objects with a `text`.", examples=[["Bread is made of flour.", "Paris is in France."]]
    )
    top_n: int | None = Field(None, description="How many of the best to answer with; left out, all.")
    return_documents: bool | None = Field(None, description="Whether each result carries its document.")
    max_tokens_per_doc: int | None = None
    models: list[str] | None = Field(None, description="Names of models that may answer instead, in this order.")


class RerankResult(BaseModel):
    """One document: its `index` in the request and its score; higher is better."""

    model_config = ConfigDict(extra="allow")

    index: int
    relevance_score: float
    document: dict[str, Any] | None = None


class RerankAnswer(BaseModel):
    """The documents, the best first. ``meta`` and ``usage`` are the provider's."""

    model_config = ConfigDict(extra="allow")

    id: str
    model: str
    results: list[RerankResult]
    meta: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None


class Rerank:
    """The ASGI endpoint of both paths.

    Upstreams are sent plain texts. Results get their documents here, so that this does not depend on the provider.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_json(receive, scope)
        call, finish = parse_rerank(body)
        note(scope, model=call.model)
        await respond(self._gateway, call, scope, receive, send, lambda answer: finish(answer.body))


def parse_rerank(body: dict[str, Any]) -> tuple[ModelCall, Callable[[bytes], bytes]]:
    """``(call, finish)``; ``finish`` makes our answer of the provider's. Raises :class:`InvalidRequest`."""
    model = take_model(body)
    fallbacks = admission.fallbacks(body)
    with_documents = take_flag(body, "return_documents")
    body.pop("return_documents", None)
    admission.check_rerank(body)
    documents = body["documents"]
    # Cohere's v2 and most others take texts alone.
    body["documents"] = [item if isinstance(item, str) else item["text"] for item in documents]
    call = ModelCall(Operation.RERANK, body, model, fallbacks=fallbacks)
    return call, FinishRerank(call, documents, with_documents)


class FinishRerank:
    """Makes our answer of a provider's: sorted, no longer than requested, with documents or without."""

    def __init__(self, call: ModelCall, documents: list[str | dict[str, Any]], with_documents: bool) -> None:
        self._call = call
        self._documents = documents
        self._with_documents = with_documents

    def __call__(self, answer: bytes) -> bytes:
        upstream: dict[str, Any] = orjson.loads(answer)
        ranked = upstream.get("results")
        results = [self._result(item) for item in (ranked if isinstance(ranked, list) else [None])]
        results.sort(key=_score, reverse=True)
        reply = {"id": upstream.get("id") or f"rerank-{secrets.token_hex(12)}", "model": self._call.model}
        reply["results"] = results[: self._call.body.get("top_n")]
        reply.update({name: upstream[name] for name in ("meta", "usage") if isinstance(upstream.get(name), dict)})
        return orjson.dumps(reply)

    def _result(self, item: Any) -> dict[str, Any]:
        index, score = (item.get("index"), item.get("relevance_score")) if isinstance(item, dict) else (None, None)
        if not isinstance(index, int) or not isinstance(score, int | float) or not 0 <= index < len(self._documents):
            raise UpstreamFailed(
                f"model '{self._call.model}' answered with something that is not an order of the documents",
                code="upstream_nonsense",
            )
        result = {name: value for name, value in item.items() if name != "document"}
        if self._with_documents:
            document = self._documents[index]
            result["document"] = {"text": document} if isinstance(document, str) else document
        return result


def _score(result: dict[str, Any]) -> float:
    return float(result["relevance_score"])


_hot_route = partial(
    HotRoute,
    scope=Permission.GENERATE,
    tag="Cohere",
    summary="Documents in the order of a query",
    request=RerankRequest,
    answer=RerankAnswer,
    endpoint=Rerank,
)
ROUTES = (
    _hot_route(path="/v1/rerank", name="rerank"),
    _hot_route(path="/v2/rerank", name="cohere_rerank"),
)
