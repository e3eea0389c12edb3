"""The collections of every tenant, each in one store or over shards, under one name space."""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sage.errors import Conflict, InvalidRequest, NotFound, SageError, Unavailable, Unsupported
from sage.middleware.retrieval.automatic_embedder import language_warning
from sage.middleware.retrieval.collection import Collection
from sage.middleware.retrieval.collections import EXISTS, Collections, made_with
from sage.middleware.retrieval.embedding.builtin import AUTO, kind_for, kind_for_all, kind_named, name_of_maker
from sage.middleware.retrieval.embedding.kind import EmbedderKind
from sage.middleware.retrieval.embedding.protocols import Embedder, Models
from sage.middleware.retrieval.embedding.registry import embedder_mismatch
from sage.middleware.retrieval.snapshots import SnapshotReader, check_room
from sage.middleware.retrieval.text.languages import prevailing_language
from sage.middleware.retrieval.types.documents import NewDocument, Written
from sage.middleware.settings.retrieval import CollectionOptions, Retrieval
from sage.service.vdb.sharded.collection import ShardedCollection, check_shardable
from sage.service.vdb.sharded.hosting import RunningShards, ShardHosting, ShardPlatform, choose_nodes
from sage.service.vdb.sharded.manifest import Manifest, manifest_version, new_key, remove_abandoned
from sage.thread_pool import ThreadPool

AnyCollection = Collection | ShardedCollection
_START_PATIENCE = 10.0
"""Seconds that a request waits for shards that another request starts."""
_START_PAUSE = 5.0
"""Seconds after a failed start before another is tried."""
_log = logging.getLogger(__name__)


class TenantCollections:
    """As :class:`sage.middleware.retrieval.collections.Collections`, whose directories it shares: what has a manifest
    there is sharded. Shards run from the first use of their collection until :meth:`close`. Safe to call from several
    threads.
    """

    def __init__(self, root: Path, settings: Retrieval, models: Models, hosting: ShardHosting) -> None:
        self._single = Collections(root, settings, models, remove=remove_abandoned)
        self._settings = settings
        self._models = models
        self._hosting = hosting
        self._platform = ShardPlatform(hosting)
        self._lock = threading.Lock()
        self._running: dict[Path, _Running] = {}

    def names(self, tenant: str) -> list[str]:
        """In the order of the alphabet."""
        return self._single.names(tenant)

    def create(
        self, tenant: str, name: str, options: Mapping[str, Any] | None = None, shards: int | None = None
    ) -> AnyCollection:
        """Raises :class:`Conflict` when it is there. ``shards``: how many, up to ``limits.max_shards``; 0 means one
        store, ``None`` the settings' number."""
        if not (count := self._count(shards)):
            return self._single.create(tenant, name, options)
        chosen = _with_embedder(self._single.options_of(options), kind_for_all)
        self._create(tenant, name, self._new_manifest(name, chosen, count), None)
        return self.open(tenant, name)

    def create_with(self, tenant: str, name: str, documents: Sequence[Mapping[str, Any]]) -> Written:
        """A new collection that has ``documents`` from its first moment on."""
        if not (count := self._count(None)):
            return self._single.create_with(tenant, name, documents)
        written: list[Written] = []
        texts = [str(document.get("text")) for document in documents if document.get("vector") is None]
        wanted = self._single.options_of(None)
        options = _with_embedder(wanted, lambda: kind_for(texts))
        manifest = self._new_manifest(name, options, count)
        self._create(tenant, name, manifest, lambda collection: written.append(collection.add(documents)))
        kind = kind_named(options.embedder) if wanted.embedder == AUTO else None
        if kind is None or kind.knows(prevailing_language(texts)):
            return written[0]
        warning = language_warning(name, kind, "make the collection anew")
        _log.warning("%s", warning)
        return replace(written[0], warnings=[warning])

    def open(self, tenant: str, name: str, *, create: bool = False) -> AnyCollection:
        """Raises :class:`NotFound` (code ``collection_not_found``). The caller does not close it."""
        directory = self._single.directory_of(tenant, name)
        version = manifest_version(directory)
        if version is None:
            self._forget(directory)
            if create and self._count(None) and not directory.exists():
                try:
                    return self.create(tenant, name)
                except Conflict as exc:
                    if exc.code != EXISTS:
                        raise
                return self.open(tenant, name)  # another was first
            return self._single.open(tenant, name, create=create)
        with self._lock:
            running = self._running.get(directory)
            replaced = running if running is not None and running.version != version else None
            if running is None or replaced is not None:
                running = self._running[directory] = _Running(version)
        if replaced is not None:
            replaced.close()
        return running.opened(name, lambda: self._started(directory, name, Manifest.read(directory, name)))

    def outline(self, tenant: str, name: str) -> dict[str, Any]:
        """As :meth:`Collection.outline`. Of a sharded collection whose shards do not run, ``documents`` and ``bytes``
        are ``None``, and so is a ``dimension`` that the first vector decided: they are not started for this."""
        directory = self._single.directory_of(tenant, name)
        if (version := manifest_version(directory)) is None:
            return self._single.open(tenant, name).outline()
        running = self._running.get(directory)
        collection = running.collection if running is not None and running.version == version else None
        if collection is not None:
            return collection.outline()
        manifest = Manifest.read(directory, name)
        return {
            "name": name,
            "documents": None,
            "dimension": manifest.dimension,
            "embedder": manifest.embedder,
            "languages": manifest.languages,
            "metric": manifest.options.metric.value,
            "bytes": None,
            "created_at": version[1] / 1e9,
            "options": manifest.options.model_dump(mode="json"),
            "reembedding": None,
            "shards": len(manifest.nodes),
        }

    def to_reembed(self, tenant: str, name: str) -> Collection:
        """A collection whose vectors can be made anew. Raises :class:`Unsupported` for a sharded one."""
        if manifest_version(self._single.directory_of(tenant, name)) is not None:
            raise Unsupported(
                f"collection '{name}' is sharded, and its vectors cannot be made anew in place; make a new sharded "
                "collection with that embedder and add the documents to it; or restore a snapshot of it without shards "
                "(?shards=0), embed that collection anew, and restore a snapshot of that with shards",
                param="embedder",
            )
        return self._single.open(tenant, name)

    def delete(self, tenant: str, name: str) -> None:
        """Raises :class:`NotFound`. The files of shards whose machine does not answer stay there, and are logged."""
        directory = self._single.directory_of(tenant, name)
        if manifest_version(directory) is None:
            self._single.delete(tenant, name)
            return
        manifest = Manifest.read(directory, name)
        removed = directory.with_name(f".deleted-{secrets.token_hex(8)}")
        try:
            directory.rename(removed)  # with the manifest: if this process is killed now, it says what is to be erased
        except FileNotFoundError:
            raise NotFound(
                f"there is no collection '{name}'", param="collection", code="collection_not_found"
            ) from None
        except OSError as exc:
            raise Unavailable(f"collection '{name}' cannot be deleted: {exc.strerror}") from exc
        with self._lock:
            running = self._running.pop(directory, None)
        try:
            if running is not None:
                running.let_go()  # first: another thread may be starting the shards
            shards = running.shards if running is not None else None
            (shards or self._shards(directory, name, manifest)).erase()
        except SageError as exc:
            _log.warning("the shards of the deleted collection '%s' were not all erased: %s", name, exc.message)
            shutil.rmtree(directory.with_name(manifest.key), ignore_errors=True)
        shutil.rmtree(removed, ignore_errors=True)

    def restore(self, tenant: str, name: str, read: BinaryIO, shards: int | None = None) -> AnyCollection:
        """A new collection from a snapshot, which may be of a sharded collection or not; all or nothing."""
        if not (count := self._count(shards)):
            return self._single.restore(tenant, name, read)
        if self._single.directory_of(tenant, name).exists():
            raise Conflict(
                f"collection '{name}' exists already; delete it first, or restore under another name",
                param="name",
                code=EXISTS,
            )
        snapshot = SnapshotReader(read, self._settings.limits)
        header = snapshot.header
        check_shardable(name, header.options)
        languages = sorted(header.languages) if header.languages is not None else None
        nodes: list[str | None] = [None] * count
        manifest = Manifest(new_key(), nodes, header.options, header.embedder, languages, header.dimension)

        def fill(collection: ShardedCollection) -> None:
            check_room(header, self._single.directory_of(tenant, name).parent, name)
            for batch in snapshot.batches():
                collection.put([NewDocument(row.id, row.text, row.metadata, row.vector) for row in batch])
            if collection.count() != header.documents:
                raise InvalidRequest("this is no whole snapshot: an id stands twice in it", code="bad_snapshot")

        self._create(tenant, name, manifest, fill)
        return self.open(tenant, name)

    def stop_work(self) -> None:
        """Ends work on indexes that may take long, before :meth:`close`; it is done at the next start."""
        self._single.stop_work()

    def close(self) -> None:
        """Waits for calls that run, and ends every shard."""
        with self._lock:
            running = list(self._running.values())
            self._running.clear()
        with ThreadPool(max(1, len(running)), "closing shards") as threads:
            closing = [threads.submit(each.close) for each in running]
        for future in closing:
            if (exc := future.exception()) is not None:  # the others have ended
                _log.warning("shards did not end well: %s", exc)
        self._platform.stop()
        self._single.close()

    def _count(self, shards: int | None) -> int:
        """How many shards a new collection has; 0 means that it is not sharded."""
        if shards is None:
            return self._settings.shards
        most = self._settings.limits.max_shards
        if isinstance(shards, bool) or not isinstance(shards, int) or not 0 <= shards <= most:
            raise InvalidRequest(
                f"'shards' must be a whole number, 0 (one store) to {most} (retrieval.limits.max_shards)",
                param="shards",
            )
        return shards

    def _new_manifest(self, name: str, options: CollectionOptions, count: int) -> Manifest:
        check_shardable(name, options)
        embedder = self._models.embedder(options.embedder)
        options, dimension = made_with(options, embedder)
        languages = sorted(embedder.languages) if embedder is not None and embedder.languages is not None else None
        exact = embedder.name if embedder is not None else None
        return Manifest(new_key(), [None] * count, options, exact, languages, dimension)

    def _create(
        self, tenant: str, name: str, manifest: Manifest, fill: Callable[[ShardedCollection], None] | None
    ) -> None:
        """Shards with what ``fill`` puts there; the collection appears with its manifest, when all of it is done."""
        directory = self._single.directory_of(tenant, name)
        if directory.exists():
            raise Conflict(f"collection '{name}' exists already", param="name", code=EXISTS)
        self._single.make_room_for(tenant)
        scratch = self._single.scratch_of(tenant)
        self._start_platform(name)
        manifest = replace(manifest, nodes=choose_nodes(self._hosting, len(manifest.nodes)))
        try:
            manifest.write(scratch)  # first: if this process is killed, it says which files are to be removed
            shards, collection = self._filled(directory, name, manifest, fill, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self._keep_running(directory, shards, collection)

    def _filled(
        self,
        directory: Path,
        name: str,
        manifest: Manifest,
        fill: Callable[[ShardedCollection], None] | None,
        scratch: Path,
    ) -> tuple[RunningShards, ShardedCollection]:
        """New shards with what ``fill`` puts there, whose manifest has moved from ``scratch`` to ``directory``. When
        that fails, nothing of them is left."""
        try:
            shards = self._shards(directory, name, manifest, create=True)
        except BaseException:
            shutil.rmtree(directory.with_name(manifest.key), ignore_errors=True)
            raise
        try:
            collection = self._collection(name, shards, manifest)
            try:
                if fill is not None:
                    fill(collection)
                self._single.settle(scratch, directory, name)
            except BaseException:
                collection.close()
                raise
        except BaseException:
            shards.erase()
            raise
        return shards, collection

    def _keep_running(self, directory: Path, shards: RunningShards, collection: ShardedCollection) -> None:
        """Shards that were just made need not start again."""
        running = _Running(manifest_version(directory), shards, collection)
        with self._lock:
            if directory not in self._running:
                self._running[directory] = running
                return
        running.close()  # another thread was first to open it

    def _started(self, directory: Path, name: str, manifest: Manifest) -> tuple[RunningShards, ShardedCollection]:
        shards = self._shards(directory, name, manifest)
        try:
            return shards, self._collection(name, shards, manifest)
        except BaseException:
            shards.stop()
            raise

    def _shards(self, directory: Path, name: str, manifest: Manifest, *, create: bool = False) -> RunningShards:
        options = manifest.options.model_copy(update={"dimension": manifest.dimension or manifest.options.dimension})
        self._start_platform(name)
        with _start_failures(name):
            return RunningShards(self._hosting, directory.with_name(manifest.key), manifest.nodes, options, create)

    def _start_platform(self, name: str) -> None:
        with _start_failures(name):
            self._platform.start()

    def _collection(self, name: str, shards: RunningShards, manifest: Manifest) -> ShardedCollection:
        return ShardedCollection(
            name,
            shards.shards,
            embedder=_NamedEmbedder(name, manifest, self._models) if manifest.embedder is not None else None,
            embedder_spec=manifest.options.embedder,
            reranker_of=self._models.reranker,
            limits=self._settings.limits,
            timeout=self._hosting.timeout,
        )

    def _forget(self, directory: Path) -> None:
        """Ends the shards of a collection that another process has deleted."""
        with self._lock:
            running = self._running.pop(directory, None)
        if running is not None:
            running.close()


def _with_embedder(options: CollectionOptions, choose: Callable[[], EmbedderKind | None]) -> CollectionOptions:
    """With the embedder that ``auto`` is. Vectors on shards cannot be made anew, so it never changes: of a collection
    without documents it is one that knows every language."""
    kind = choose() if options.embedder == AUTO else None
    return options if kind is None else options.model_copy(update={"embedder": kind.name})


class _Running:
    """A sharded collection that is in use, or about to be."""

    def __init__(
        self,
        version: tuple[int, int] | None,
        shards: RunningShards | None = None,
        collection: ShardedCollection | None = None,
    ) -> None:
        """``version`` is that of its manifest: see :func:`manifest_version`."""
        self.version = version
        self.lock = threading.Lock()
        """Held while the shards start, so that they start once."""
        self.shards = shards
        self.collection = collection
        self.failure: tuple[float, SageError] | None = None
        """Of the last start, and until when no other is tried."""

    def opened(self, name: str, start: Callable[[], tuple[RunningShards, ShardedCollection]]) -> ShardedCollection:
        """The collection, whose shards start if they do not run. Raises :class:`Unavailable` when they cannot, also for
        a few seconds after a start that failed, and when another thread's start takes long."""
        if (collection := self.collection) is not None:
            return collection
        if not self.lock.acquire(timeout=_START_PATIENCE):
            raise Unavailable(
                f"the shards of collection '{name}' are still starting; try again soon", code="shard_starting"
            )
        try:
            if self.collection is None:
                if self.failure is not None and time.monotonic() < self.failure[0]:
                    raise Unavailable(self.failure[1].message, code=self.failure[1].code)
                try:
                    self.shards, self.collection = start()
                except SageError as exc:
                    self.failure = time.monotonic() + _START_PAUSE, exc
                    raise
            return self.collection
        finally:
            self.lock.release()

    def let_go(self) -> None:
        with self.lock:
            collection, self.collection = self.collection, None
        if collection is not None:
            collection.close()

    def close(self) -> None:
        self.let_go()
        shards, self.shards = self.shards, None
        if shards is not None:
            shards.stop()


class _NamedEmbedder:
    """The embedder that made a collection's vectors, looked up when it is first needed."""

    def __init__(self, collection: str, manifest: Manifest, models: Models) -> None:
        assert manifest.embedder is not None
        self.name = manifest.embedder
        self.dimension = manifest.dimension
        self.languages = frozenset(manifest.languages) if manifest.languages is not None else None
        self._collection = collection
        self._spec = manifest.options.embedder
        self._models = models

    def embed(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        """Raises :class:`InvalidRequest` when its name leads to another embedder now."""
        embedder: Embedder | None = self._models.embedder(name_of_maker(self.name, self._spec))
        if embedder is None or embedder.name != self.name:
            raise embedder_mismatch(self._collection, self.name, self._spec, embedder)
        return embedder.embed(texts, query=query)


@contextmanager
def _start_failures(name: str) -> Iterator[None]:
    """Makes the failed start of a service one of the collection's shards."""
    try:
        yield
    except SageError as exc:
        if exc.code != "service_start_failed":
            raise
        cause = exc.__cause__ or exc
        message = f"the shards of collection '{name}' cannot start: {str(cause) or type(cause).__name__}"
        raise Unavailable(message, code="shard_unavailable") from exc
