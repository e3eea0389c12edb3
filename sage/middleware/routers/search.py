"""``/search`` and ``/search/batch``: the best documents of a collection for a query."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.gateway.collections.collections import CollectionGateway
from sage.middleware.gateway.collections.requests import SearchRequest, parse_search
from sage.middleware.routers.http.asgi import Receive, Scope, Send, caller_of_request, note, read_json, send_json
from sage.middleware.routers.http.bodies import SEARCH_BODY
from sage.middleware.routers.http.hot_route import HotRoute

if TYPE_CHECKING:
    from sage.middleware.retrieval.types.search import SearchAnswer


class FoundDocument(BaseModel):
    """One document found. Of `score`, higher is better; `scores` are those of the legs `dense` and `bm25` (null: that
    leg has none for this document), and `rerank` after reranking. `explanation` and `highlights` come when asked for.
    """

    id: str
    score: float
    text: str
    metadata: dict[str, Any]
    scores: dict[str, float | None]
    explanation: dict[str, Any] | None = None
    highlights: list[str] | None = None


class SearchReply(BaseModel):
    """The best first. `total`: how many documents match in all; in dense and hybrid searches that is every document
    with a vector that the filter lets through. `warnings` say what was left out, such as an embedder that did not
    answer."""

    results: list[FoundDocument]
    total: int
    took_ms: float
    warnings: list[str] | None = None


class BatchRequest(BaseModel):
    """Several searches at once; those of one collection see one state of it."""

    model_config = ConfigDict(extra="forbid")

    searches: list[SearchRequest] = Field(examples=[[{"query": "document"}, {"query": "文档", "mode": "bm25"}]])


class BatchReply(BaseModel):
    """One answer a search, in their order; `took_ms` is of all together."""

    answers: list[SearchReply]


class SearchEndpoint:
    """The ASGI endpoint of ``/search``."""

    def __init__(self, collections: CollectionGateway) -> None:
        self._collections = collections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        search = parse_search(await read_json(receive, scope))
        note(scope, collection=search.collection)
        started = time.perf_counter()
        answer = (await self._collections.search(caller_of_request(scope), [search]))[0]
        await send_json(send, orjson.dumps(_reply(answer, started)), [])


class BatchEndpoint:
    """The ASGI endpoint of ``/search/batch``."""

    def __init__(self, collections: CollectionGateway) -> None:
        self._collections = collections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        searches = self._parse(await read_json(receive, scope, vectors=True))
        started = time.perf_counter()
        answers = await self._collections.search(caller_of_request(scope), searches)
        await send_json(send, orjson.dumps({"answers": [_reply(answer, started) for answer in answers]}), [])

    def _parse(self, body: dict[str, Any]) -> list[SearchRequest]:
        searches, most = body.get("searches"), self._collections.limits.max_searches
        unknown = next((name for name in body if name != "searches"), None)
        if unknown is not None:
            raise InvalidRequest(f"unknown field '{unknown}'; a batch has 'searches'", param=unknown)
        if not isinstance(searches, list) or not searches:
            raise InvalidRequest('\'searches\' must be a list such as [{"query": "…"}]', param="searches")
        if len(searches) > most:
            raise InvalidRequest(
                f"'searches' holds {len(searches)}; one request may hold {most} (retrieval.limits.max_searches)",
                param="searches",
            )
        return [parse_search(search, f"searches[{index}]") for index, search in enumerate(searches)]


def _reply(answer: SearchAnswer, started: float) -> dict[str, Any]:
    reply: dict[str, Any] = {
        "results": [result.shown() for result in answer.results],
        "total": answer.total,
        "took_ms": round((time.perf_counter() - started) * 1000, 3),
    }
    if answer.warnings:
        reply["warnings"] = answer.warnings
    return reply


ROUTES = (
    HotRoute(
        path="/search",
        name="search",
        scope=Permission.SEARCH,
        tag="Search",
        summary="The best documents for a query",
        request=SearchRequest,
        answer=SearchReply,
        endpoint=lambda gateway: SearchEndpoint(gateway.collections),
        max_body=SEARCH_BODY,
    ),
    HotRoute(
        path="/search/batch",
        name="search_batch",
        scope=Permission.SEARCH,
        tag="Search",
        summary="Several searches at once",
        request=BatchRequest,
        answer=BatchReply,
        endpoint=lambda gateway: BatchEndpoint(gateway.collections),
    ),
)
