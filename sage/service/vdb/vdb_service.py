"""A vector database as a service: our own retrieval engine, or ChromaDB."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage.errors import InvalidRequest, NotFound, Unavailable
from sage.kernels.runtime.old_names import takes_old_names
from sage.kernels.runtime.service.base_service_task import BaseServiceTask, ServiceFactory
from sage.service.upstream.factories import made_factory
from sage.service.upstream.vdb import OLD_OPTION_HINTS, OLD_OPTIONS, OldVectorMethods, metric_of_index

if TYPE_CHECKING:
    from sage.middleware.retrieval.types.documents import StoredDocument
    from sage.service.vdb.backends import CollectionDefaults, VectorBackend

DEFAULT_TENANT = "default"
_METRICS = {"cosine": "cosine", "dot": "dot", "ip": "dot", "euclidean": "euclidean", "l2": "euclidean"}
_BACKENDS = ("retrieval", "chroma")
_MAX_DIMENSION = 8192
_MAX_PAGE = 1000
_MAX_SHARDS = 1024


class VDBService(OldVectorMethods, BaseServiceTask):
    """Named collections of items ``{id?, vector?, metadata?, text?}`` in each tenant. ``backend``: ``retrieval`` (in
    memory, or durable in ``persist_directory``) or ``chroma`` (embedded in ``persist_directory``, or the server at
    ``url``; extra 'chroma').

    Vectors come with the items, or from ``embedder`` (``none``; ``auto``, ``local``, or the name of one of ``models``;
    a callable ``(list[str]) -> (n, dim) float32``, known by ``embedder_name`` or by where it was written; or an
    embedder). A collection is made by the first items that are
    added to it, with the service's ``dimension`` (``None``: that of its first vector), ``distance_metric`` (``cosine``,
    ``dot`` or ``ip``, ``euclidean`` or ``l2``) and embedder, and keeps to them.

    ``shards`` spreads each new collection over so many shards in ``persist_directory``, for more documents than one
    machine holds; they are Ray actors where the service is one, else threads.

    ``score_threshold`` is the least relevance of results, 0 to 1, for searches that name none. ``vectors`` says from
    where our own engine reads the exact vectors of new collections: ``stored``, its database, or ``mapped``, a file
    that is faster and takes their size once more.

    ``where`` is the filter of :mod:`sage.middleware.retrieval.filters.language`. Of scores, higher is
    nearer: the cosine, the inner product, or the Euclidean distance made negative; in a hybrid search 0 to 1.
    """

    max_workers = 4

    def __init__(
        self,
        backend: str = "retrieval",
        collection_name: str = "default",
        dimension: int | None = None,
        persist_directory: str | None = None,
        distance_metric: str = "cosine",
        embedder: Any = "none",
        url: str | None = None,
        models: Any = None,
        shards: int = 0,
        embedder_name: str | None = None,
        score_threshold: float | None = None,
        vectors: str = "stored",
    ) -> None:
        _check_choice("backend", backend, _BACKENDS)
        _check_choice("vectors", vectors, ("stored", "mapped"))
        _check_choice("distance_metric", distance_metric, tuple(_METRICS))
        _check_dimension(dimension)
        _check_collection(collection_name)
        if url is not None and (backend != "chroma" or persist_directory is not None):
            raise InvalidRequest(
                "'url' is of a Chroma server, which keeps its own files: it goes with backend 'chroma' and without "
                "'persist_directory'",
                param="url",
            )
        if not (embedder is None or isinstance(embedder, str) or callable(embedder) or hasattr(embedder, "embed")):
            raise InvalidRequest("'embedder' must be a name, a callable, or None", param="embedder")
        _check_shards(shards, backend, persist_directory)
        self._kind = backend
        self._collection = collection_name
        self._dimension = dimension
        self._directory = persist_directory
        self._metric = _METRICS[distance_metric]
        self._embedder = embedder
        self._embedder_name = embedder_name
        self._url = url
        self._models = models
        self._shards = shards
        self._threshold = _checked_threshold(score_threshold)
        self._vectors = vectors
        self._backend: VectorBackend | None = None

    def _about(self) -> str:
        where = f" in '{self._directory}'" if self._directory else ""
        state = "running" if self._backend else "not running"
        return f"{self._kind}{where}, collection '{self._collection}', {state}"

    def setup(self) -> None:
        directory = None if self._directory is None else Path(self._directory).expanduser().absolute()
        if self._kind == "chroma":
            from sage.service.vdb.chroma.backend import ChromaBackend

            self._backend = ChromaBackend(directory, self._url, self._defaults())
        else:
            from sage.service.vdb.retrieval_backend import RetrievalBackend

            self._backend = RetrievalBackend(directory, self._defaults(), self._shards)

    def _defaults(self) -> CollectionDefaults:
        from sage.middleware.retrieval.embedding.registry import FUNCTION, ModelsByName
        from sage.middleware.settings.retrieval import Metric
        from sage.service.vdb.backends import CollectionDefaults

        named = self._embedder is None or isinstance(self._embedder, str)
        models = ModelsByName(None if named else self._embedder, self._models, self._embedder_name)
        spec = (self._embedder or "none") if named else FUNCTION
        embedder = models.embedder(spec)  # what is wrong is raised now
        if embedder is None:
            return CollectionDefaults(self._dimension, Metric(self._metric), "none", models, self._vectors)
        if embedder.dimension is not None and self._dimension not in (None, embedder.dimension):
            raise InvalidRequest(
                f"'dimension' is {self._dimension}, but the embedder '{embedder.name}' makes vectors of "
                f"{embedder.dimension}; leave it out, or take another embedder",
                param="dimension",
            )
        dimension = self._dimension or embedder.dimension
        return CollectionDefaults(dimension, Metric(self._metric), spec, models, self._vectors)

    def cleanup(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def health(self) -> Mapping[str, Any]:
        """Raises :class:`sage.errors.Unavailable` when its server does not answer."""
        return self._running.health()

    @property
    def _running(self) -> VectorBackend:
        if self._backend is None:
            raise Unavailable("the vector service is not running; use it as a context, or register it")
        return self._backend

    def _target(self, tenant: str, collection: str | None) -> tuple[str, str]:
        from sage.service.vdb.items import check_names

        name = self._collection if collection is None else collection
        check_names(tenant, name)
        return tenant, name

    def _check_where(self, where: Mapping[str, Any] | None) -> None:
        from sage.service.vdb.items import check_where

        check_where(where)

    def add(
        self, items: Sequence[Mapping[str, Any]], *, collection: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> list[str]:
        """Upserts, all or nothing (with ``shards``: on each shard); the ids. ``text`` may be left out when a
        vector is given."""
        from sage.service.vdb.items import check_items

        target, checked = self._target(tenant, collection), check_items(items)
        if checked:
            self._running.add(*target, checked)
        return [item.id for item in checked]

    @takes_old_names(
        query_vector="vector", query=lambda query: "text" if isinstance(query, str) else "vector", top_k="n_results",
        filters="where", metadata_filter="where", threshold="score_threshold",
        similarity_threshold="score_threshold",
    )  # fmt: skip
    def search(
        self,
        vector: Sequence[float] | None = None,
        n_results: int = 10,
        where: Mapping[str, Any] | None = None,
        *,
        text: str | None = None,
        mode: str | None = None,
        options: Mapping[str, Any] | None = None,
        score_threshold: float | None = None,
        collection: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> list[dict[str, Any]]:
        """``[{id, score, metadata, text, scores}]``, best first. ``mode``: hybrid, dense or bm25; ``None`` means by
        what is given. ``where`` acts before the best are chosen. ``score_threshold`` is the least relevance, 0 (nothing
        in common) to 1; ``None`` means that of the service. ``options``: further fields of
        :class:`sage.middleware.retrieval.types.search.Search` (syntax, fusion, alpha, exact, offset, rerank…)."""
        from sage.service.vdb.items import check_query

        target = self._target(tenant, collection)
        if score_threshold is None and "score_threshold" not in (options or {}):
            score_threshold = self._threshold
        if score_threshold is not None:
            options = {**(options or {}), "score_threshold": score_threshold}
        search = check_query(vector, text, mode, n_results, where, options, keywords=self._running.keywords)
        with self._empty(collection):
            return [result.shown() for result in self._running.search(*target, search)]
        return []

    def get(
        self, id: str, *, vector: bool = False, collection: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> dict[str, Any] | None:
        """``{id, metadata, text}``, and ``vector`` when asked for; ``None`` when there is no such item."""
        from sage.service.vdb.items import check_given_id

        target = self._target(tenant, collection)
        try:
            return _item(self._running.get(*target, check_given_id(id), vector), vector)
        except NotFound as exc:
            if exc.code == "item_not_found" or collection is None:
                return None
            raise

    def find(
        self,
        ids: Sequence[str],
        *,
        vector: bool = False,
        collection: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> list[dict[str, Any]]:
        """As :meth:`get`, for the ids that exist."""
        target = self._target(tenant, collection)
        try:
            items = self._running.find(*target, list(ids), vector)
        except NotFound:  # there is no collection
            return []
        return [_item(item, vector) for item in items]

    def groups(
        self,
        by: str,
        of: str,
        where: Mapping[str, Any] | None = None,
        *,
        collection: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> dict[str, tuple[int, float, float]]:
        """The items by the text of their metadata ``by``: ``(how many, lowest, highest)`` of the number in their
        metadata ``of``. From the index, without reading an item. Raises :class:`sage.errors.Unsupported` with Chroma
        and with shards."""
        target = self._target(tenant, collection)
        self._check_where(where)
        with self._empty(collection):
            return dict(self._running.groups(*target, by, of, where))
        return {}

    def list_by(
        self,
        field: str,
        where: Mapping[str, Any] | None = None,
        *,
        limit: int = 100,
        after: float | None = None,
        descending: bool = False,
        collection: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> list[dict[str, Any]]:
        """The first items in the order of the number in their metadata ``field``; with ``after``, those beyond it.
        Raises as :meth:`groups`."""
        from sage.middleware.retrieval.columns import NumberOrder

        target = self._target(tenant, collection)
        _check_page(limit)
        self._check_where(where)
        with self._empty(collection):
            items = self._running.page_by(*target, NumberOrder(field, after, descending), limit, where)
            return [_item(item, False) for item in items]
        return []

    def list_items(
        self,
        where: Mapping[str, Any] | None = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
        vectors: bool = False,
        collection: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> dict[str, Any]:
        """``{items, cursor}``, in the order in which they came (to our own engine, what is changed comes anew);
        ``cursor`` is None at the end."""
        target = self._target(tenant, collection)
        _check_page(limit)
        self._check_where(where)
        with self._empty(collection):
            page, cursor_after = self._running.page(*target, where, limit, cursor, vectors)
            return {"items": [_item(item, vectors) for item in page], "cursor": cursor_after}
        return {"items": [], "cursor": None}

    def update(
        self,
        id: str,
        *,
        vector: Sequence[float] | None = None,
        metadata: Mapping[str, Any] | None = None,
        text: str | None = None,
        collection: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> None:
        """Changes what is given of one item (metadata as a whole; where there is an embedder, a new text has a new
        vector). Raises :class:`sage.errors.NotFound`."""
        from sage.service.vdb.items import check_given_id, check_revision

        target = self._target(tenant, collection)
        self._running.update(*target, check_given_id(id), check_revision(vector, metadata, text))

    def delete(
        self,
        ids: str | Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        *,
        collection: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> int:
        """Deletes by id, or ids, or by filter; how many there were of them."""
        from sage.service.vdb.items import check_ids

        target = self._target(tenant, collection)
        if (ids is None) == (where is None):
            raise InvalidRequest("give either 'ids' or 'where'", param="ids")
        if where is not None and not where:
            raise InvalidRequest("an empty 'where' would delete every item; drop the collection instead", param="where")
        self._check_where(where)
        checked = None if ids is None else check_ids([ids] if isinstance(ids, str) else ids)
        with self._empty(collection):
            return self._running.delete(*target, checked, where)
        return 0

    def purge(self, *, collection: str | None = None, tenant: str = DEFAULT_TENANT) -> None:
        """After it no byte of what was deleted or replaced is left in any file."""
        target = self._target(tenant, collection)
        with self._empty(collection):
            self._running.purge(*target)

    def count(
        self, where: Mapping[str, Any] | None = None, *, collection: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> int:
        """How many items the collection has, or of them match ``where``."""
        target = self._target(tenant, collection)
        self._check_where(where)
        with self._empty(collection):
            return self._running.count(*target, where)
        return 0

    @contextmanager
    def _empty(self, collection: str | None) -> Iterator[None]:
        """The service's own collection is empty before the first items make it; another one is not there."""
        try:
            yield
        except NotFound as exc:
            if collection is not None or exc.code != "collection_not_found":
                raise

    def revision(self, *, collection: str | None = None, tenant: str = DEFAULT_TENANT) -> tuple[str, int]:
        """``(collection, sequence)``: an id that another collection of the same name does not have, and a number that
        grows by one with each item that any process adds or removes (an item that is replaced is removed and added);
        with shards, by one at least. Raises :class:`sage.errors.Unsupported` with Chroma."""
        return self._running.revision(*self._target(tenant, collection))

    def collections(self, *, tenant: str = DEFAULT_TENANT) -> list[str]:
        """In order."""
        from sage.service.vdb.items import check_tenant

        check_tenant(tenant)
        return self._running.collections(tenant)

    def drop(self, collection: str, *, tenant: str = DEFAULT_TENANT) -> None:
        """Deletes a collection with all that is in it. Raises :class:`sage.errors.NotFound`."""
        self._running.drop(*self._target(tenant, collection))

    def clear(self, *, collection: str | None = None, tenant: str = DEFAULT_TENANT) -> int:
        """Deletes all items of a collection; how many there were. The next items make it anew."""
        target = self._target(tenant, collection)
        with self._empty(collection):
            count = self._running.count(*target, None)
            self._running.drop(*target)
            return count
        return 0

    def stats(self, *, collection: str | None = None, tenant: str = DEFAULT_TENANT) -> dict[str, Any]:
        """``{total_vectors, embedding_dimension, distance_metric, collection_name, backend, …}``, with what its host
        has counted. ``embedding_dimension`` is the one of new collections; ``None`` means the first vector's."""
        return {
            **self.get_statistics(),
            "total_vectors": self.count(collection=collection, tenant=tenant),
            "embedding_dimension": self._dimension,
            "distance_metric": self._metric,
            "collection_name": self._collection if collection is None else collection,
            "backend": self._kind,
        }


def create_vdb_service_factory(service_name: str | None = None, **options: Any) -> ServiceFactory:
    """For ``env.register_service("vdb_service", VDBService, create_vdb_service_factory(dimension=384, …))``: the
    keywords of :class:`VDBService`; what that class refuses is refused here. The options of upstream SAGE
    (``service_name``, ``embedding_dimension``, ``similarity_threshold``, ``index_type``, ``max_vectors``,
    ``faiss_config``) give a deprecation warning."""
    if "distance_metric" not in options and (metric := metric_of_index(options.get("index_type"))):
        options["distance_metric"] = metric
    return made_factory(VDBService, service_name, options, OLD_OPTIONS, OLD_OPTION_HINTS)


def _check_choice(name: str, given: Any, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise InvalidRequest(f"there is no {name} '{given}'; there are: {', '.join(choices)}", param=name)


def _check_page(limit: Any) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _MAX_PAGE:
        raise InvalidRequest(f"'limit' must be a whole number, 1 to {_MAX_PAGE}", param="limit")


def _check_collection(name: Any) -> None:
    from sage.service.vdb.items import check_names

    check_names(DEFAULT_TENANT, name)


def _check_shards(given: Any, backend: str, directory: str | None) -> None:
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= _MAX_SHARDS:
        raise InvalidRequest(f"'shards' must be a whole number, 0 (one store) to {_MAX_SHARDS}", param="shards")
    if given and (backend != "retrieval" or directory is None):
        raise InvalidRequest("'shards' go with backend 'retrieval' and a 'persist_directory'", param="shards")


def _checked_threshold(given: Any) -> float | None:
    if given is not None and (isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 1):
        raise InvalidRequest("'score_threshold' must be a number, 0 to 1", param="score_threshold")
    return given


def _check_dimension(given: Any) -> None:
    if given is not None and (
        isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= _MAX_DIMENSION
    ):
        raise InvalidRequest(f"'dimension' must be a whole number, 1 to {_MAX_DIMENSION}", param="dimension")


def _item(stored: StoredDocument, vector: bool) -> dict[str, Any]:
    item: dict[str, Any] = {"id": stored.id, "metadata": stored.metadata, "text": stored.text}
    if vector:
        item["vector"] = None if stored.vector is None else stored.vector.tolist()
    return item
