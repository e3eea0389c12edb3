"""Models of the registry as embedders and rerankers of collections.

Collections work on threads, the gateway on its event loop: a call is handed over to the loop and waited for. It goes
the way of any other (admission, choice of a deployment, retries, metrics), in the name of the collection's tenant.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sage.errors import DeadlineExceeded, InvalidRequest, Unavailable, UpstreamFailed
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.dispatch.deployment import PublicModel
from sage.middleware.gateway.collections.on_behalf import in_whose_name
from sage.middleware.gateway.collections.vectors import read_scores, read_vectors
from sage.middleware.gateway.model_caller import ModelCaller, RunningGateway
from sage.middleware.gateway.watch import Watch
from sage.middleware.hub.sources import is_source
from sage.middleware.providers.base import ModelCall, Native, Operation
from sage.middleware.retrieval.embedding.builtin import builtin_embedder, is_builtin
from sage.middleware.retrieval.embedding.hub.models import hub_embedder, hub_reranker
from sage.middleware.retrieval.embedding.protocols import Embedder, Reranker
from sage.middleware.retrieval.embedding.query_cache import QueryCache

T = TypeVar("T")

_BATCH = 64
"""Texts in one call: what every vendor takes (Zhipu's bound; Cohere takes 96)."""
_BATCH_BYTES = 256 * 1024
_IN_FLIGHT = 4
_RESOLVE_WITHIN = 30.0
_SLACK = 5.0  # for the loop to end a call whose time is over, before it is given up
_MAX_EMBEDDERS = 256


class RegistryModels:
    """The :class:`~sage.middleware.retrieval.embedding.protocols.Models` of collections, by name.

    Built-in embedders need no registry (:func:`~sage.middleware.retrieval.embedding.builtin.is_builtin`), nor do those
    of a hub; any other name is a model's or ``provider/model``. ``timeout`` bounds one upstream call, in seconds, with
    what comes before it (a local model that has to be loaded). ``directory`` is where models of a hub (``hf:…``) are;
    ``None`` means that there are none.
    """

    def __init__(
        self,
        running_gateway: RunningGateway,
        tenant: str = "local",
        timeout: float = 300.0,
        directory: Path | None = None,
    ) -> None:
        self._running_gateway = running_gateway
        self._timeout = timeout
        self._directory = directory
        self._principal = Principal(f"collections of {tenant}", tenant, frozenset({Scope.GENERATE}))
        self._lock = threading.Lock()
        self._embedders: dict[tuple[str, str], RegistryEmbedder] = {}

    def of(self, tenant: str) -> RegistryModels:
        """The same for the collections of another tenant."""
        return RegistryModels(self._running_gateway, tenant, self._timeout, self._directory)

    def embedder(self, name: str) -> Embedder | None:
        """Raises :class:`NotFound` for a name that is none, :class:`MissingExtra` for a local one not installed, and
        :class:`InvalidRequest` on the gateway's own event loop."""
        if is_builtin(name):
            return builtin_embedder(name)
        if self._directory is not None and is_source(name):
            return hub_embedder(self._directory, name)
        exact = _exact_name(name, self._resolved(name))
        with self._lock:
            while len(self._embedders) > _MAX_EMBEDDERS:
                del self._embedders[next(iter(self._embedders))]
            return self._embedders.setdefault((name, exact), RegistryEmbedder(self, name, exact))

    def reranker(self, name: str) -> Reranker:
        """Raises as :meth:`embedder` does; a model of a hub has to be pulled before."""
        if self._directory is not None and is_source(name):
            return hub_reranker(self._directory, name, fetch=False)
        self._resolved(name)
        return RegistryReranker(self, name)

    @property
    def tenant(self) -> str:
        """In whose name models are asked now."""
        return in_whose_name(self._principal).tenant

    def ask(self, calls: Sequence[ModelCall]) -> list[bytes]:
        """The upstream's answers, in the order of ``calls``; a few run at a time, and all end when one fails.

        Raises what the call raised, :class:`DeadlineExceeded` when one took longer than the timeout, and
        :class:`UpstreamFailed` when a fallback answered, which is another model.
        """
        rounds, principal = -(-len(calls) // _IN_FLIGHT), in_whose_name(self._principal)
        return self._run(lambda gateway: self._ask_all(gateway, principal, calls), self._timeout * rounds + _SLACK)

    def _resolved(self, name: str) -> PublicModel:
        gateway, _ = self._running_gateway()
        return gateway.registry.get(name) or self._run(lambda gateway: gateway.registry.resolve(name), _RESOLVE_WITHIN)

    async def _ask_all(self, gateway: ModelCaller, principal: Principal, calls: Sequence[ModelCall]) -> list[bytes]:
        turn = asyncio.Semaphore(_IN_FLIGHT)

        async def ask(call: ModelCall) -> bytes:
            async with turn:
                return await self._ask(gateway, principal, call)

        tasks = [asyncio.ensure_future(ask(call)) for call in calls]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, gateway: ModelCaller, principal: Principal, call: ModelCall) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._answer(gateway, principal, call)
        except TimeoutError:
            raise DeadlineExceeded(
                f"model '{call.model}' did not answer a collection within {self._timeout:g} s"
            ) from None

    async def _answer(self, gateway: ModelCaller, principal: Principal, call: ModelCall) -> bytes:
        call.request_id = principal.request_id
        with Watch(call, gateway.deadlines):
            async with gateway.call(principal, call) as answer:
                model = gateway.registry.get(call.model)
                if model is not None and answer.deployment not in [deployment.name for deployment in model.deployments]:
                    raise UpstreamFailed(
                        f"model '{call.model}' was answered for by its fallback {answer.deployment}, whose vectors and "
                        "scores are not comparable with its own; try again later",
                        code="fallback_answered",
                    )
                return answer.body

    def _run(self, work: Callable[[ModelCaller], Coroutine[Any, Any, T]], within: float) -> T:
        """The result of ``work`` on the gateway's loop, for any other thread."""
        gateway, loop = self._running_gateway()
        if _runs_here(loop):
            raise InvalidRequest("a collection blocks: on the gateway's own event loop it would wait for itself")
        coroutine = work(gateway)
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError:  # the loop was closed meanwhile
            coroutine.close()
            raise _stopped() from None
        try:
            return future.result(within)
        except concurrent.futures.CancelledError:
            raise _stopped() from None
        except TimeoutError:
            raise DeadlineExceeded(f"the gateway did not answer a collection within {within:g} s") from None
        finally:
            future.cancel()


class RegistryEmbedder:
    """A model of the registry that embeds; an :class:`~sage.middleware.retrieval.embedding.protocols.Embedder`.

    ``name`` is the model's, with that of the model behind it where they differ (``notes@bge-m3``): so a public name
    that is pointed at another model makes vectors of another name.
    """

    languages: frozenset[str] | None = None

    def __init__(self, models: RegistryModels, model: str, name: str) -> None:
        self._models = models
        self._model = model
        self.name = name
        self.dimension: int | None = None
        self._queries = QueryCache()

    def embed(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        """Raises :class:`UpstreamFailed` for an answer that is not one vector of finite numbers for each text, all of
        the same dimension as before; and what the call raises."""
        if not query:
            return self._embed(texts, query)
        return self._queries.embed(texts, lambda missing: self._embed(missing, query), self._models.tenant)

    def _embed(self, texts: Sequence[str], query: bool) -> NDArray[np.float32]:
        if not texts:
            return np.empty((0, self.dimension or 0), np.float32)
        batches = list(_batches(texts))
        answers = self._models.ask([self._call(batch, query) for batch in batches])
        parts = [read_vectors(answer, len(batch), self._model) for answer, batch in zip(answers, batches, strict=True)]
        dimension = self.dimension or parts[0].shape[1]
        for part in parts:
            if part.shape[1] != dimension:
                raise UpstreamFailed(
                    f"model '{self._model}' answered with vectors of {part.shape[1]} dimensions, and of {dimension} "
                    "before",
                    code="upstream_nonsense",
                )
        self.dimension = dimension
        return np.concatenate(parts)

    def _call(self, texts: list[str], query: bool) -> ModelCall:
        call = ModelCall(Operation.EMBEDDINGS, {"model": self._model, "input": texts}, self._model)
        # Only Cohere tells queries from documents; sent to providers of that kind alone.
        purpose = "search_query" if query else "search_document"
        call.native = Native("cohere", {"texts": texts, "input_type": purpose, "embedding_types": ["float"]})
        return call


class RegistryReranker:
    """A model of the registry that reranks; a :class:`~sage.middleware.retrieval.embedding.protocols.Reranker`."""

    def __init__(self, models: RegistryModels, model: str) -> None:
        self._models = models
        self._model = model

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """Raises :class:`UpstreamFailed` for an answer that is not one finite score for each text; and what the call
        raises."""
        if not texts:
            return []
        batches = list(_batches(texts))
        answers = self._models.ask([self._call(query, batch) for batch in batches])
        scores: list[float] = []
        for answer, batch in zip(answers, batches, strict=True):
            scores += read_scores(answer, len(batch), self._model)
        return scores

    def _call(self, query: str, texts: list[str]) -> ModelCall:
        body = {"model": self._model, "query": query, "documents": texts, "top_n": len(texts)}
        return ModelCall(Operation.RERANK, body, self._model)


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        length = len(text.encode())
        if batch and (len(batch) == _BATCH or size + length > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += length
    if batch:
        yield batch


def _exact_name(name: str, model: PublicModel) -> str:
    """The exact name of the embedder. Raises :class:`Unavailable` when no deployment says which model it is."""
    behind = sorted({deployment.model for deployment in model.deployments})
    if not behind:
        reason = "; ".join(model.faults) or "it has no deployment"
        raise Unavailable(f"model '{name}' cannot serve: {reason}", param="embedder", code="model_unavailable")
    if len(behind) > 1:
        raise InvalidRequest(
            f"behind '{name}' are several models ({', '.join(behind)}), whose vectors are not comparable; name one of "
            "them as provider/model",
            param="embedder",
        )
    return name if name.endswith(behind[0]) else f"{name}@{behind[0]}"


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _stopped() -> Unavailable:
    return Unavailable("the gateway was stopped while a collection waited for a model")
