"""The collections of every tenant, in directories of their own under one root."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from sage.errors import Conflict, InvalidRequest, NotFound, SageError, Unavailable
from sage.middleware.retrieval.collection import Collection
from sage.middleware.retrieval.directories import CollectionDirectories
from sage.middleware.retrieval.embedding.builtin import AUTO, settled_name
from sage.middleware.retrieval.embedding.protocols import Embedder, Models
from sage.middleware.retrieval.snapshots import read_snapshot
from sage.middleware.retrieval.store.store import DocumentStore, inode_of
from sage.middleware.retrieval.types.documents import Written
from sage.middleware.settings.first_fault import first_fault
from sage.middleware.settings.retrieval import CollectionOptions, Retrieval
from sage.private_files import sync_directory

_NAME = re.compile(r"[^\W_][\w.-]{0,63}")
_MAX_NAME = 80  # bytes; percent-encoded they are still a file's name
_MAX_OPEN = 100
EXISTS = "collection_exists"
"""The code of a :class:`Conflict` over a name that is taken."""
_UNFINISHED = (".new-", ".restoring-", ".deleted-")
"""How the names of directories begin that are not yet, or no longer, collections. A killed process leaves them."""
ABANDONED_AFTER = 86_400.0
"""Seconds without a change after which such a directory belongs to no process any more."""


class Collections:
    """Opens each collection at its first use, and closes the files of those that were not used for longest.

    Several processes may work on one root. Safe to call from several threads.
    """

    def __init__(
        self,
        root: Path,
        settings: Retrieval,
        models: Models,
        *,
        max_open: int = _MAX_OPEN,
        remove: Callable[[Path], None] | None = None,
    ) -> None:
        """``max_open`` is how many collections have their files open at once, besides those in use; ``remove`` removes
        a directory that a killed process left; ``None`` means that its files are all there is to remove."""
        self._remove = remove or partial(shutil.rmtree, ignore_errors=True)
        self._directories = CollectionDirectories(root)
        self._settings = settings
        self._models = models
        self._max_open = max_open
        self._lock = threading.Lock()
        self._opened: OrderedDict[Path, tuple[int, Collection]] = OrderedDict()
        """With the inode of its database: another process may have deleted the collection, and made a new one of that
        name."""

    def names(self, tenant: str) -> list[str]:
        """In alphabetical order."""
        return self._directories.names(tenant)

    def create(self, tenant: str, name: str, options: Mapping[str, Any] | None = None) -> Collection:
        """Raises :class:`Conflict` when it exists. Options that are left out come from the settings."""
        self._make(tenant, name, options)
        return self.open(tenant, name)

    def create_with(self, tenant: str, name: str, documents: Sequence[Mapping[str, Any]]) -> Written:
        """A new collection with the options of the settings, which appears together with ``documents``: when they
        cannot be written, there is no collection. Raises what :meth:`create` and :meth:`Collection.add` do."""
        written: list[Written] = []

        def fill(scratch: Path) -> None:
            collection = Collection(name, partial(DocumentStore.open, scratch), self._models, self._settings.limits)
            try:
                written.append(collection.add(documents))
            finally:
                collection.close()

        self._make(tenant, name, None, fill)
        return written[0]

    def _make(
        self,
        tenant: str,
        name: str,
        options: Mapping[str, Any] | None,
        fill: Callable[[Path], None] | None = None,
    ) -> None:
        directory = self.directory_of(tenant, name)
        chosen = self.options_of(options)
        if directory.exists():
            raise Conflict(f"collection '{name}' exists already", param="name", code=EXISTS)
        self.make_room_for(tenant)
        scratch = self.scratch_of(tenant)
        try:
            new_store(scratch, name, chosen, self._models).close()
            if fill is not None:
                fill(scratch)
            self.settle(scratch, directory, name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def open(self, tenant: str, name: str, *, create: bool = False) -> Collection:
        """Raises :class:`NotFound` (code ``collection_not_found``). The caller does not close it."""
        directory = self.directory_of(tenant, name)
        inode = inode_of(directory)
        if inode is None:
            self._forget(directory, f"there is no collection '{name}'")
            if create:
                try:
                    return self.create(tenant, name)
                except Conflict as exc:
                    if exc.code != EXISTS:
                        raise
                return self.open(tenant, name)  # another caller was first
            names = self.names(tenant)
            hint = f"there are: {', '.join(names[:20])}" if names else "there are none yet"
            raise NotFound(
                f"there is no collection '{name}'; {hint} (POST /collections, or add a document to it)",
                param="collection",
                code="collection_not_found",
            )
        with self._lock:
            opened_inode, collection = self._opened.get(directory, (None, None))
            if collection is not None and opened_inode == inode:
                self._opened.move_to_end(directory)
        if collection is not None and opened_inode == inode:
            self._let_others_rest(collection)
            return collection
        if collection is not None:
            self._forget(directory, f"collection '{name}' was deleted")
        with self._lock:
            opened_inode, collection = self._opened.get(directory, (None, None))
            if collection is None or opened_inode != inode:
                collection = Collection(
                    name, partial(DocumentStore.open, directory), self._models, self._settings.limits
                )
                self._opened[directory] = (inode, collection)
        self._let_others_rest(collection)
        return collection

    def delete(self, tenant: str, name: str) -> None:
        """Raises :class:`NotFound`. Waits for running calls."""
        directory = self.directory_of(tenant, name)
        self.open(tenant, name)
        self._forget(directory, f"collection '{name}' was deleted")
        deleted = directory.with_name(f".deleted-{secrets.token_hex(8)}")
        try:
            directory.rename(deleted)
        except FileNotFoundError:
            raise NotFound(
                f"there is no collection '{name}'", param="collection", code="collection_not_found"
            ) from None
        except OSError as exc:
            raise Unavailable(f"collection '{name}' cannot be deleted: {exc.strerror}") from exc
        shutil.rmtree(deleted, ignore_errors=True)

    def restore(self, tenant: str, name: str, read: BinaryIO) -> Collection:
        """A new collection from a snapshot; all or nothing. Raises :class:`Conflict` when the name is taken, and
        :class:`InvalidRequest` when the snapshot is not complete."""
        directory = self.directory_of(tenant, name)
        if directory.exists():
            raise Conflict(
                f"collection '{name}' exists already; delete it first, or restore under another name",
                param="name",
                code=EXISTS,
            )
        self.make_room_for(tenant)
        scratch = self.scratch_of(tenant)
        try:
            read_snapshot(read, scratch, name, self._settings.limits).close()
            self.settle(scratch, directory, name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return self.open(tenant, name)

    def let_go_of_deleted(self) -> None:
        """Closes the open collections that another process has deleted: until then their files take room."""
        with self._lock:
            opened = [(directory, inode) for directory, (inode, _) in self._opened.items()]
        for directory, inode in opened:
            if inode_of(directory) != inode:
                self._forget(directory, "this collection was deleted")

    def stop_work(self) -> None:
        """Stops long work on indexes, before :meth:`close`; it is done at the next start."""
        with self._lock:
            collections = [collection for _, collection in self._opened.values()]
        for collection in collections:
            collection.stop_work()

    def close(self) -> None:
        """Waits for running calls."""
        with self._lock:
            collections = [collection for _, collection in self._opened.values()]
            self._opened.clear()
        for collection in collections:
            collection.close()

    def options_of(self, options: Mapping[str, Any] | None) -> CollectionOptions:
        """What a new collection is made with: ``options`` over the defaults. Raises :class:`InvalidRequest`."""
        return checked_options(_merged(self._settings.defaults.model_dump(mode="json"), options or {}))

    def directory_of(self, tenant: str, name: str) -> Path:
        """The directory of a collection of that name, whether it exists or not. Raises :class:`InvalidRequest`."""
        if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name.encode()) > _MAX_NAME:
            raise InvalidRequest(
                f"'{str(name)[:80]}' cannot be a collection's name: letters of any script, digits, '.', '_' and '-', "
                f"the first a letter or digit, up to 64 of them and {_MAX_NAME} bytes",
                param="collection",
            )
        return self._directories.of(tenant, name)

    def make_room_for(self, tenant: str) -> None:
        """Raises :class:`Conflict` when the tenant has as many collections as it may."""
        limit = self._settings.limits.max_collections
        if len(self.names(tenant)) >= limit:
            raise Conflict(
                f"this tenant has {limit} collections already (retrieval.limits.max_collections); delete one first",
                code="too_many_collections",
            )

    def scratch_of(self, tenant: str) -> Path:
        """Where to write a new collection before it is complete: a directory beside the others, not made yet. Raises
        :class:`Unavailable` where nothing can be written."""
        parent = self._directories.of_tenant(tenant)
        try:
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise Unavailable(f"no collection can be made in '{parent.name}': {exc.strerror}") from exc
        self._remove_abandoned(parent)
        return parent / f".new-{secrets.token_hex(8)}"

    def settle(self, scratch: Path, directory: Path, name: str) -> None:
        """Moves a finished directory to its place, durably. Raises :class:`Conflict` when there is one."""
        try:
            os.rename(scratch, directory)  # fails when there is one, as that is not empty
        except OSError as exc:
            if exc.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise Conflict(f"collection '{name}' exists already", param="name", code=EXISTS) from exc
            raise
        sync_directory(directory.parent)

    def _remove_abandoned(self, parent: Path) -> None:
        """Removes unfinished directories that have not changed for a day."""
        for entry in os.scandir(parent):
            if entry.name.startswith(_UNFINISHED) and time.time() - last_change(Path(entry.path)) > ABANDONED_AFTER:
                self._remove(Path(entry.path))

    def _forget(self, directory: Path, reason: str) -> None:
        with self._lock:
            _, collection = self._opened.pop(directory, (None, None))
        if collection is not None:
            collection.close(reason)

    def _let_others_rest(self, wanted: Collection) -> None:
        """Before ``wanted`` opens its files: closes those of others that are not in use, if too many are open."""
        if not wanted.resting:
            return
        with self._lock:
            open_ones = [collection for _, collection in self._opened.values() if not collection.resting]
        over = len(open_ones) + 1 - self._max_open
        for collection in open_ones:
            if over <= 0:
                break
            with contextlib.suppress(SageError, OSError):  # a fault of its own disk
                over -= collection.rest()


def last_change(directory: Path) -> float:
    """When something in it last changed; a directory's own time does not include writes to its files."""
    latest = 0.0
    for folder, _, names in os.walk(directory):  # not Path.rglob: its maker may be removing it
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            with contextlib.suppress(FileNotFoundError):
                latest = max(latest, os.lstat(path).st_mtime)
    return latest


def _merged(defaults: dict[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(defaults)
    for key, value in options.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict):
            merged[key] = _merged(merged[key], value)
        else:
            merged[key] = value
    return merged


def checked_options(options: Mapping[str, Any]) -> CollectionOptions:
    """Raises :class:`InvalidRequest` that names the first one at fault."""
    try:
        return CollectionOptions.model_validate(options)
    except ValidationError as exc:
        _, place, message = first_fault(exc, CollectionOptions.model_validate, options)
    field = ".".join(map(str, place)) or None
    raise InvalidRequest(f"'{field}': {message}" if field else message, param=field)


def made_with(options: CollectionOptions, embedder: Embedder | None) -> tuple[CollectionOptions, int | None]:
    """The options that a new collection keeps, and the dimension of its vectors. Raises :class:`InvalidRequest` when
    that is not the embedder's."""
    dimension = embedder.dimension if embedder is not None else None
    if dimension is not None and options.dimension not in (None, dimension):
        raise InvalidRequest(
            f"'dimension' is {options.dimension}, but the embedder '{options.embedder}' makes vectors of {dimension}; "
            "leave it out, or take another embedder",
            param="dimension",
        )
    return options.model_copy(
        update={"embedder": settled_name(options.embedder, embedder)}
    ), options.dimension or dimension


def new_store(directory: Path | None, name: str, options: CollectionOptions, models: Models) -> DocumentStore:
    """The store of a new collection in ``directory``; ``None`` means in memory. Raises what :func:`made_with` does, and
    what ``models`` does for an unknown embedder."""
    embedder = models.embedder(options.embedder)
    settled, dimension = made_with(options, embedder)
    name_of, languages = (embedder.name, embedder.languages) if embedder is not None else (None, None)
    automatic = options.embedder == AUTO and embedder is not None
    return DocumentStore.create(directory, name, settled, name_of, languages, dimension, automatic=automatic)
