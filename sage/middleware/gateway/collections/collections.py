"""The collections as callers reach them: each in their tenant, within their models, on threads, and counted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from sage.errors import Conflict, NotFound, SageError, Unavailable
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.gateway.collections.bounded_pool import BoundedPool
from sage.middleware.gateway.collections.model_access import require_embedder_access
from sage.middleware.gateway.collections.on_behalf import on_behalf_of
from sage.middleware.gateway.collections.reembedding import Reembedding, Reembeddings
from sage.middleware.gateway.collections.requests import SearchRequest
from sage.middleware.gateway.collections.searches import Searches
from sage.middleware.gateway.metrics import RetrievalMetrics
from sage.middleware.hub.snapshots import Snapshots, not_pulled
from sage.middleware.hub.sources import is_source, parse_source
from sage.middleware.settings.retrieval import Retrieval, RetrievalLimits
from sage.middleware.settings.services import ServicesSettings

if TYPE_CHECKING:  # what searches is loaded by the first search
    from sage.middleware.retrieval.collection import Collection
    from sage.middleware.retrieval.embedding.protocols import Models
    from sage.middleware.retrieval.types.documents import StoredDocument, Written
    from sage.middleware.retrieval.types.search import SearchAnswer
    from sage.service.vdb.sharded.collections import AnyCollection, TenantCollections

T = TypeVar("T")
_PAGE = 200  # documents
_SHARD_SECONDS = 60.0
"""That a shard has for an answer, at least."""


class CollectionGateway:
    """Every method that waits is for an event loop; those that block are for other threads.

    Names are those of the caller's own tenant: what another has is not there. Nothing is loaded or opened before the
    first call.
    """

    def __init__(
        self,
        root: Path,
        models_directory: Path,
        settings: Retrieval,
        models: Callable[[], Models],
        metrics: RetrievalMetrics,
        services: ServicesSettings,
    ) -> None:
        """``models`` is asked once, by the first call; ``services`` says where shards run. ``models_directory`` is
        where models of hubs are."""
        self.limits: RetrievalLimits = settings.limits
        self._root = root
        self._snapshots = Snapshots(models_directory)
        self._settings = settings
        self._models = models
        self._metrics = metrics
        self._services = services
        self._lock = threading.Lock()
        self._opened: TenantCollections | None = None
        self._closed = False
        self._reading = BoundedPool("searches", 8, 256)
        self._searches = Searches(self.open, self._reading, self.limits, metrics)
        self._writing = BoundedPool("writes", 16, 64)  # many at a time: they share commits
        self._working = BoundedPool("work on collections", 4, 4)
        self._copying = BoundedPool("snapshots", 4, 4)  # as slow as their readers
        self._embedding = BoundedPool("reembeddings", 4, 16)  # hours long: nothing else waits behind them
        self._reembeddings = Reembeddings(self._embedding)

    async def search(self, principal: Principal, searches: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """One answer a search; those of one collection on one state of it."""
        return await self._searches.run(principal, searches)

    async def add(
        self,
        principal: Principal,
        name: str,
        documents: Callable[[], Sequence[Mapping[str, Any]]],
        *,
        create: bool = True,
    ) -> Written:
        """Upserts what ``documents`` gives, which is called on a thread; a collection that is not there is made, unless
        ``create`` is false."""
        work = on_behalf_of(principal, partial(self._add, principal, name, documents, create))
        written = await self._writing.run(work, principal.tenant)
        self._metrics.written += len(written.ids)
        return written

    def _add(
        self, principal: Principal, name: str, parse: Callable[[], Sequence[Mapping[str, Any]]], create: bool
    ) -> Written:
        documents = parse()
        try:
            collection = self.open(principal, name)
        except NotFound:
            if not create:
                raise
            from sage.middleware.retrieval.types.documents import check_documents

            check_documents(documents, self.limits)
            self.check_new(principal, name)
            try:
                return self._collections().create_with(principal.tenant, name, documents)
            except Conflict as exc:
                if exc.code != "collection_exists":
                    raise
            collection = self.open(principal, name)  # another was first
        if any(isinstance(document, Mapping) and document.get("vector") is None for document in documents):
            require_embedder_access(principal, collection.options.embedder, "collection")
        return collection.add(documents)

    async def delete_documents(
        self, principal: Principal, name: str, ids: Sequence[str] | None, filter: Mapping[str, Any] | None
    ) -> int:
        """How many documents there were."""

        def delete() -> int:
            return self.open(principal, name).delete(ids, filter)

        deleted = await self._writing.run(delete, principal.tenant)
        self._metrics.deleted += deleted
        return deleted

    async def document(self, principal: Principal, name: str, id: str, *, vector: bool = False) -> StoredDocument:
        return await self._reading.run(lambda: self.open(principal, name).get(id, vector=vector), principal.tenant)

    async def page(
        self, principal: Principal, name: str, cursor: str | None, limit: int, filter: Mapping[str, Any] | None
    ) -> tuple[list[StoredDocument], str | None]:
        return await self._reading.run(lambda: self.open(principal, name).page(cursor, limit, filter), principal.tenant)

    async def change_metadata(
        self, principal: Principal, name: str, filter: Mapping[str, Any], change: Callable[[dict[str, Any]], Any]
    ) -> int:
        """Puts what ``change`` makes of it in place of the metadata of every document that passes; how many there are.
        Texts and vectors stay."""

        def work() -> int:
            from sage.middleware.retrieval.types.documents import check_metadata

            collection = self.open(principal, name)
            cursor, count = None, 0
            while True:
                page, cursor = collection.page(cursor, _PAGE, filter)
                for document in page:
                    metadata = check_metadata(change(document.metadata), f"document '{document.id}'", self.limits)
                    collection.update(document.id, metadata=metadata)
                    count += 1
                if cursor is None:
                    return count

        return await self._working.run(work, principal.tenant)

    async def describe(self, principal: Principal, name: str) -> dict[str, Any]:
        """One collection, as ``GET /collections/{name}`` shows it."""
        return await self._reading.run(lambda: self._described(principal, name), principal.tenant)

    async def outline(self, principal: Principal, name: str) -> dict[str, Any]:
        """One collection without the state of its index, which stays closed if it is."""
        return await self._reading.run(lambda: self._collections().outline(principal.tenant, name), principal.tenant)

    async def describe_all(self, principal: Principal) -> list[dict[str, Any]]:
        """Every collection of the tenant, without the state of its index; one that does not open has an ``error``."""
        return await self._reading.run(partial(self._all, principal), principal.tenant)

    def _all(self, principal: Principal) -> list[dict[str, Any]]:
        described, collections = [], self._collections()
        for name in collections.names(principal.tenant):
            try:
                outline = collections.outline(principal.tenant, name)
                described.append(self._with_run(principal, name, outline))
            except NotFound:
                continue  # deleted meanwhile
            except SageError as exc:
                described.append({"name": name, "error": exc.message})
        return described

    def _described(self, principal: Principal, name: str) -> dict[str, Any]:
        return self._with_run(principal, name, self.open(principal, name).describe())

    def _with_run(self, principal: Principal, name: str, described: dict[str, Any]) -> dict[str, Any]:
        running = self._reembeddings.of(principal.tenant, name)
        if running is not None:
            described = {**described, "reembedding": running.describe()}
        return self._completed(described)

    def _completed(self, described: dict[str, Any]) -> dict[str, Any]:
        """With the number of shards, and with ``warnings`` if searches could be better."""
        warnings = self._warnings(described)
        return {**described, "shards": described.get("shards"), **({"warnings": warnings} if warnings else {})}

    def _warnings(self, described: Mapping[str, Any]) -> list[str]:
        from sage.middleware.retrieval.embedding.builtin import AUTO, NONE, kind_for

        if (
            described.get("embedder") is not None
            or described.get("dimension") is not None
            or self._settings.defaults.embedder == NONE
            or (kind := kind_for(())) is None
        ):
            return []
        return [
            f"has no embedder, so searches find words only; '{kind.name}' is installed now: "
            f"sage collections reembed {described['name']} {AUTO}"
        ]

    async def create(
        self, principal: Principal, name: str, options: Mapping[str, Any], shards: int | None = None
    ) -> dict[str, Any]:
        """A new collection, described; options that are not given are the configuration's."""

        def create() -> dict[str, Any]:
            embedder = options.get("embedder") or self._settings.defaults.embedder
            if isinstance(embedder, str):
                self._require_new_embedder(principal, embedder, "embedder")
            return self._completed(self._collections().create(principal.tenant, name, options, shards).describe())

        return await self._writing.run(on_behalf_of(principal, create), principal.tenant)

    async def delete(self, principal: Principal, name: str) -> None:
        """Ends what works on it; requests that run on it end first."""
        self._reembeddings.stop(principal.tenant, name)
        await self._working.run(lambda: self._collections().delete(principal.tenant, name), principal.tenant)

    def check_new(self, principal: Principal, name: str) -> None:
        """Raises :class:`PermissionDenied` when the caller's first documents may not make the collection."""
        self._require_new_embedder(principal, self._settings.defaults.embedder, "collection")

    def _require_new_embedder(self, principal: Principal, name: str, param: str) -> None:
        """For vectors that are going to be made. Whoever may pull models has one of a hub pulled by its name, and so
        has whoever wrote the configuration."""
        require_embedder_access(principal, name, param)
        may_pull = name == self._settings.defaults.embedder or Scope.MODELS_WRITE in principal.scopes
        if is_source(name) and not may_pull:
            source = parse_source(name)
            if self._snapshots.find(source) is None:
                raise not_pulled(source)

    async def check_reembed(self, principal: Principal, name: str, embedder: str) -> None:
        """Raises what :meth:`reembed` would raise at once."""
        await self._to_reembed(principal, name, embedder)

    async def reembed(self, principal: Principal, name: str, embedder: str) -> Reembedding:
        """Begins to make all vectors again, or joins the run that does."""
        collection = await self._to_reembed(principal, name, embedder)
        return self._reembeddings.begin(principal, collection, embedder)

    async def stop_reembed(self, principal: Principal, name: str) -> None:
        """Ends the run that makes all vectors again, after its current batch. The next run with that embedder goes on
        there. Raises :class:`NotFound` (``no_reembedding``) where there is none."""
        await self.describe(principal, name)
        running = self._reembeddings.of(principal.tenant, name)
        if running is None:
            raise NotFound(f"collection '{name}' is not being embedded again", code="no_reembedding")
        running.stop(f"the new embedding of collection '{name}' was stopped; ask again to go on where it was")

    async def _to_reembed(self, principal: Principal, name: str, embedder: str) -> Collection:
        def find() -> Collection:
            self._require_new_embedder(principal, embedder, "embedder")
            return self._collections().to_reembed(principal.tenant, name)

        return await self._reading.run(on_behalf_of(principal, find), principal.tenant)

    async def optimize(self, principal: Principal, name: str) -> dict[str, Any]:
        """Brings its index into its fastest shape; the collection, described."""

        def optimize() -> dict[str, Any]:
            self.open(principal, name).optimize()
            return self._described(principal, name)

        return await self._working.run(optimize, principal.tenant)

    async def snapshot(self, principal: Principal, name: str, write: BinaryIO) -> None:
        """One consistent state, written to ``write`` on a thread."""
        await self._copying.run(lambda: self.open(principal, name).snapshot(write), principal.tenant)

    async def restore(
        self, principal: Principal, name: str, read: BinaryIO, shards: int | None = None
    ) -> dict[str, Any]:
        """A new collection from a snapshot, described."""

        def restore() -> dict[str, Any]:
            return self._completed(self._collections().restore(principal.tenant, name, read, shards).describe())

        return await self._working.run(restore, principal.tenant)

    async def upload(self, principal: Principal, work: Callable[[], T]) -> T:
        """Runs ``work`` on a body that is being received, away from the event loop."""
        return await self._writing.run(work, principal.tenant)

    def upload_directory(self) -> Path:
        """The directory for bodies that are being received, on the disk of the collections."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._root

    def open(self, principal: Principal, name: str, *, create: bool = False) -> AnyCollection:
        """The collection of that name of the caller's tenant. Blocks."""
        if create:
            self.check_new(principal, name)
        return self._collections().open(principal.tenant, name, create=create)

    def _collections(self) -> TenantCollections:
        with self._lock:
            if self._closed:
                raise Unavailable("the gateway is shutting down; try again soon", code="shutting_down")
            if self._opened is None:
                from sage.service.vdb.sharded.collections import TenantCollections
                from sage.service.vdb.sharded.hosting import ShardHosting

                services = self._services
                hosting = ShardHosting(
                    services.runtime,
                    {"address": services.ray.address} if services.ray.address is not None else {},
                    max(services.timeout, _SHARD_SECONDS),
                )
                self._opened = TenantCollections(self._root, self._settings, self._models(), hosting)
            return self._opened

    async def close(self) -> None:
        """Waits for what runs, ends what is long, and closes every collection."""
        if self._services.runtime == "ray":
            # Ray's own handler of SIGTERM sets an alarm (absl's `alarm_on_failure_secs`, 3 s) that aborts the process.
            signal.alarm(0)
        self._reembeddings.close()
        closing = BoundedPool("closing", 1, 0)
        await closing.run(self._close)
        closing.close()

    def _close(self) -> None:
        with self._lock:
            working = self._opened
        if working is not None:
            working.stop_work()
        for threads in (self._reading, self._writing, self._working, self._copying, self._embedding):
            threads.close()
        with self._lock:
            self._closed = True
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()
