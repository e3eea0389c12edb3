"""Questions that a model makes queries of: ``rewrite_query`` of a search."""

from __future__ import annotations

import asyncio

import orjson

from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.vector_stores.requests import SearchStore
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.providers.wire.messages import read_message
from sage.middleware.settings.retrieval import MAX_QUERY

_INSTRUCTION = (
    "Rewrite the user's message as one query for a search in documents: the words that the wanted passage is likely to "
    "hold, in the message's language, without greetings and instructions. Answer with the query alone."
)
_MOST_TOKENS = 200


async def rewritten(gateway: Gateway, principal: Principal, request: SearchStore) -> list[str]:
    """The queries of ``request``, each as the model of the configuration rewrites it. Without such a model, or where
    it says nothing, they stay as they are. Raises what a call of the model raises."""
    model = gateway.retrieval.rewrite_model
    if model is None:
        return request.queries
    principal.require(Scope.GENERATE)
    return list(await asyncio.gather(*(_rewritten(gateway, principal, model, query) for query in request.queries)))


async def _rewritten(gateway: Gateway, principal: Principal, model: str, query: str) -> str:
    messages = [{"role": "system", "content": _INSTRUCTION}, {"role": "user", "content": query}]
    body = {"model": model, "messages": messages, "max_tokens": _MOST_TOKENS, "temperature": 0}
    async with gateway.call(principal, ModelCall(Operation.CHAT, body, model)) as answer:
        choices = orjson.loads(answer.body)["choices"]
    text = " ".join(read_message(choices[0].get("message")).text.split()) if choices else ""
    return text[:MAX_QUERY] or query
