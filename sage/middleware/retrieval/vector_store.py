"""A collection as a Python object, without a gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from sage.errors import InvalidRequest, NotFound, SageError
from sage.middleware.retrieval.collection import Collection
from sage.middleware.retrieval.collections import checked_options, new_store
from sage.middleware.retrieval.embedding.protocols import EmbedFunction, Models
from sage.middleware.retrieval.embedding.registry import FUNCTION, ModelsByName
from sage.middleware.retrieval.store.store import DocumentStore
from sage.middleware.retrieval.text.query_syntax import Syntax
from sage.middleware.retrieval.types.documents import StoredDocument, check_vector
from sage.middleware.retrieval.types.search import Fusion, Mode, Search, SearchResult
from sage.middleware.settings.retrieval import CollectionOptions, RetrievalLimits

_Choice = TypeVar("_Choice", bound=StrEnum)
_ANY = 2**31


class VectorStore:
    """Documents in memory, or durable at ``path`` (a directory, made when it is missing).

    ``embedder`` is one of: ``"auto"``, the local one for the language of the first documents (extras ``embed`` and
    ``embed-multilingual``), where none is installed keywords only;
    ``None``, keywords, and vectors that you bring; a callable ``(list[str]) -> (n, dim) float32``, known by
    ``embedder_name`` or by where it was written (``module.name``, of which a script's ``module`` is ``__main__``):
    callables of one name must make the same vectors, whoever opens the store; another name of
    :mod:`sage.middleware.retrieval.embedding.builtin`; or the name of a model (``provider/model``), which is looked up
    in ``models``: by default those of the configuration, else those of a service (``LLMService().search_models``). A
    store at ``path`` keeps the embedder that it was made with. ``options`` are those of :class:`CollectionOptions`, for
    a new store.

    Safe to call from several threads; several processes may open one ``path``. Close it, or use it as a context.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        embedder: str | EmbedFunction | None = "auto",
        embedder_name: str | None = None,
        models: Models | None = None,
        limits: RetrievalLimits | None = None,
        **options: Any,
    ) -> None:
        self._limits = limits or RetrievalLimits(max_documents=_ANY)
        by_name = ModelsByName(embedder if callable(embedder) else None, models, embedder_name)
        spec = FUNCTION if callable(embedder) else "none" if embedder is None else embedder
        wanted = checked_options({**options, "embedder": spec})
        directory = None if path is None else Path(path).expanduser().absolute()
        self._directory = directory
        name = "memory" if directory is None else directory.name
        self._collection = Collection(name, partial(store_at, directory, name, wanted, by_name), by_name, self._limits)
        self._collection.describe()  # raises now what is wrong

    @property
    def collection(self) -> Collection:
        """The same documents as the object that a gateway works with."""
        return self._collection

    def __repr__(self) -> str:
        where = "in memory" if self._directory is None else f"at '{self._directory}'"
        try:
            outline = self._collection.outline()
        except SageError:
            return f"<VectorStore {where}: closed>"
        return f"<VectorStore {where}: documents: {outline['documents']}, embedder: {outline['embedder'] or 'none'}>"

    def __len__(self) -> int:
        return int(self._collection.describe()["documents"])

    def add_documents(
        self,
        texts: Sequence[str],
        ids: Sequence[str] | None = None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        vectors: Sequence[Sequence[float]] | NDArray[np.floating[Any]] | None = None,
    ) -> list[str]:
        """Adds documents, or replaces those with the same id; returns their ids. Any number, all or nothing: when one
        is refused (:class:`InvalidRequest`), none is added. They are durable when this returns."""
        if isinstance(texts, str):
            raise InvalidRequest("'texts' must be a list of texts, not one text", param="texts")
        columns: dict[str, Sequence[Any]] = {"text": list(texts)}
        optional: tuple[tuple[str, Any], ...] = (("id", ids), ("metadata", metadatas), ("vector", vectors))
        for key, column in optional:
            if column is not None:
                if len(column) != len(texts):
                    raise InvalidRequest(f"there are {len(texts)} texts, but {len(column)} {key}s", param=f"{key}s")
                columns[key] = column
        documents = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return self._collection.add(documents).ids if documents else []

    def search(
        self,
        query: str = "",
        top_k: int = 10,
        mode: str | Mode = Mode.HYBRID,
        filter: Mapping[str, Any] | None = None,
        *,
        vector: Sequence[float] | NDArray[np.floating[Any]] | None = None,
        offset: int = 0,
        syntax: str | Syntax = Syntax.AUTO,
        fusion: str | Fusion = Fusion.MINMAX,
        alpha: float | None = None,
        exact: bool = False,
        rerank: str | None = None,
        explain: bool = False,
        highlight: bool = False,
        score_threshold: float | None = None,
        cosine_range: tuple[float, float] | None = None,
    ) -> list[SearchResult]:
        """The best documents first; higher scores are better. :class:`Search` explains the arguments."""
        query_vector = check_vector(vector, "search", self._limits, param="vector")
        search = Search(
            query=query,
            vector=query_vector,
            syntax=_one_of(Syntax, syntax, "syntax"),
            mode=_one_of(Mode, mode, "mode"),
            top_k=top_k,
            offset=offset,
            filter=filter,
            fusion=_one_of(Fusion, fusion, "fusion"),
            alpha=alpha,
            exact=exact,
            rerank=rerank,
            explain=explain,
            highlight=highlight,
            score_threshold=score_threshold,
            cosine_range=cosine_range,
        )
        return self._collection.search(search).results

    async def aadd_documents(
        self,
        texts: Sequence[str],
        ids: Sequence[str] | None = None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        vectors: Sequence[Sequence[float]] | NDArray[np.floating[Any]] | None = None,
    ) -> list[str]:
        """As :meth:`add_documents`, on another thread, so that the event loop goes on. What a cancelled call has begun
        is done all the same."""
        return await asyncio.to_thread(self.add_documents, texts, ids, metadatas, vectors)

    async def asearch(
        self,
        query: str = "",
        top_k: int = 10,
        mode: str | Mode = Mode.HYBRID,
        filter: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> list[SearchResult]:
        """As :meth:`search`, with the same ``options``, on another thread, so that the event loop goes on."""
        return await asyncio.to_thread(self.search, query, top_k, mode, filter, **options)

    def delete(self, ids: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None) -> int:
        """Deletes by id or by filter; returns how many documents were deleted."""
        return self._collection.delete(ids, filter)

    def get(self, id: str) -> StoredDocument:
        """Raises :class:`sage.errors.NotFound`."""
        return self._collection.get(id, vector=True)

    def optimize(self) -> None:
        """Rebuilds the index into its fastest form; returns when that is done. This also happens in the background."""
        self._collection.optimize()

    def purge(self, seconds: float = 30.0) -> None:
        """Removes every byte of what was deleted or replaced: see :meth:`Collection.purge`."""
        self._collection.purge(seconds)

    def close(self) -> None:
        """Ends its threads and closes its files. May be called again."""
        self._collection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def store_at(directory: Path | None, name: str, options: CollectionOptions, models: ModelsByName) -> DocumentStore:
    """The store in ``directory``, or a new one with ``options``; ``None`` means in memory."""
    if directory is not None:
        try:
            return DocumentStore.open(directory)
        except NotFound:
            pass  # a new one
    return new_store(directory, name, options, models)


def _one_of(kind: type[_Choice], value: str, param: str) -> _Choice:
    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(choice.value for choice in kind)
        raise InvalidRequest(f"'{value}' is no {param}; there are: {choices}", param=param) from None
