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
from urllib.parse import quote, unquote

from pydantic import ValidationError

from sage.errors import Conflict, InvalidRequest, NotFound, SageError
from sage.middleware.retrieval.collection import Collection
from sage.middleware.retrieval.embedding.builtin import settled_name
from sage.middleware.retrieval.embedding.protocols import Embedder, Models
from sage.middleware.retrieval.snapshots import read_snapshot
from sage.middleware.retrieval.store.store import DocumentStore, inode_of
from sage.middleware.retrieval.types.documents import Written
from sage.middleware.settings.retrieval import CollectionOptions, Retrieval

_NAME = re.compile(r"[^\W_][\w.-]{0,63}")
_MAX_NAME = 80  # bytes; percent-encoded they are still a file's name
_MAX_OPEN = 100
EXISTS = "collection_exists"
"""The code of a :class:`Conflict` over a name that is taken."""
_UNFINISHED = (".new-", ".restoring-", ".deleted-")
"""How directories begin that are no collections yet, or no more; a process that was killed leaves them behind."""
_DAY = 86_400.0


class Collections:
    """Opens each collection when it is first used, and lets those rest that were not used for longest.

    Several processes may work on one root. Safe to call from several threads.
    """

    def __init__(self, root: Path, settings: Retrieval, models: Models) -> None:
        self._root = root
        self._settings = settings
        self._models = models
        self._lock = threading.Lock()
        self._known: OrderedDict[Path, tuple[int, Collection]] = OrderedDict()
        """With the inode of its database: another process may have deleted it, and made a new one of that name."""

    def names(self, tenant: str) -> list[str]:
        """In the order of the alphabet."""
        try:
            found = [entry.name for entry in os.scandir(self._root / _encoded(tenant)) if entry.is_dir()]
        except FileNotFoundError:
            return []
        return sorted(unquote(name) for name in found if not name.startswith("."))

    def create(self, tenant: str, name: str, options: Mapping[str, Any] | None = None) -> Collection:
        """Raises :class:`Conflict` when it is there; options that are not given are the settings' own."""
        self._make(tenant, name, options)
        return self.open(tenant, name)

    def create_with(self, tenant: str, name: str, documents: Sequence[Mapping[str, Any]]) -> Written:
        """A new collection, as the settings say, that holds ``documents`` from its first moment on: when they cannot be
        written, it never is. Raises what :meth:`create` and :meth:`Collection.add` do."""
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
                return self.open(tenant, name)  # another was first
            known = self.names(tenant)
            there = f"there are: {', '.join(known[:20])}" if known else "there are none yet"
            raise NotFound(
                f"there is no collection '{name}'; {there} (POST /collections, or add a document to it)",
                param="collection",
                code="collection_not_found",
            )
        with self._lock:
            known_inode, collection = self._known.get(directory, (None, None))
            if collection is not None and known_inode == inode:
                self._known.move_to_end(directory)
        if collection is not None and known_inode == inode:
            self._let_others_rest(collection)
            return collection
        if collection is not None:
            self._forget(directory, f"collection '{name}' was deleted")
        with self._lock:
            known_inode, collection = self._known.get(directory, (None, None))
            if collection is None or known_inode != inode:
                collection = Collection(
                    name, partial(DocumentStore.open, directory), self._models, self._settings.limits
                )
                self._known[directory] = (inode, collection)
        self._let_others_rest(collection)
        return collection

    def delete(self, tenant: str, name: str) -> None:
        """Raises :class:`NotFound`. Calls that run on it end first."""
        directory = self.directory_of(tenant, name)
        self.open(tenant, name)
        self._forget(directory, f"collection '{name}' was deleted")
        gone = directory.with_name(f".deleted-{secrets.token_hex(8)}")
        try:
            directory.rename(gone)
        except FileNotFoundError:
            raise NotFound(
                f"there is no collection '{name}'", param="collection", code="collection_not_found"
            ) from None
        shutil.rmtree(gone, ignore_errors=True)

    def restore(self, tenant: str, name: str, read: BinaryIO) -> Collection:
        """A new collection from a snapshot; all or nothing. Raises :class:`Conflict` when the name is taken, and
        :class:`InvalidRequest` for what is no whole snapshot."""
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
            read_snapshot(read, scratch, name).close()
            self.settle(scratch, directory, name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return self.open(tenant, name)

    def stop_work(self) -> None:
        """Ends work on indexes that may take long, before :meth:`close`; it is done at the next start."""
        with self._lock:
            found = [collection for _, collection in self._known.values()]
        for collection in found:
            collection.stop_work()

    def close(self) -> None:
        """Waits for calls that run."""
        with self._lock:
            found = [collection for _, collection in self._known.values()]
            self._known.clear()
        for collection in found:
            collection.close()

    def options_of(self, given: Mapping[str, Any] | None) -> CollectionOptions:
        """What a new collection is made with: ``given`` over the defaults. Raises :class:`InvalidRequest`."""
        merged = _merged(self._settings.defaults.model_dump(mode="json"), given or {})
        try:
            return CollectionOptions.model_validate(merged)
        except ValidationError as exc:
            error = exc.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in error["loc"]) or None
            message = error["msg"].removeprefix("Value error, ")
            raise InvalidRequest(f"'{field}': {message}" if field else message, param=field) from None

    def directory_of(self, tenant: str, name: str) -> Path:
        """Where a collection of that name lies, whether there is one or not. Raises :class:`InvalidRequest`."""
        if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name.encode()) > _MAX_NAME:
            raise InvalidRequest(
                f"'{str(name)[:80]}' cannot be a collection's name: letters of any script, digits, '.', '_' and '-', "
                f"the first a letter or digit, up to 64 of them and {_MAX_NAME} bytes",
                param="collection",
            )
        return self._root / _encoded(tenant) / _encoded(name)

    def make_room_for(self, tenant: str) -> None:
        """Raises :class:`Conflict` when the tenant has as many collections as it may."""
        most = self._settings.limits.max_collections
        if len(self.names(tenant)) >= most:
            raise Conflict(
                f"this tenant has {most} collections already (retrieval.limits.max_collections); delete one first",
                code="too_many_collections",
            )

    def scratch_of(self, tenant: str) -> Path:
        """A name beside the collections for one that is not there before it is whole."""
        parent = self._root / _encoded(tenant)
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(parent)
        return parent / f".new-{secrets.token_hex(8)}"

    def settle(self, scratch: Path, directory: Path, name: str) -> None:
        """Moves a finished directory to its place, durably. Raises :class:`Conflict` when there is one."""
        try:
            os.rename(scratch, directory)  # fails when there is one, as that is not empty
        except OSError as exc:
            if exc.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise Conflict(f"collection '{name}' exists already", param="name", code=EXISTS) from exc
            raise
        parent = os.open(directory.parent, os.O_RDONLY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)

    def _forget(self, directory: Path, reason: str) -> None:
        with self._lock:
            _, collection = self._known.pop(directory, (None, None))
        if collection is not None:
            collection.close(reason)

    def _let_others_rest(self, wanted: Collection) -> None:
        """Before one opens its files: as many as are over the bound, of those that are not in use, let go of theirs."""
        if not wanted.resting:
            return
        with self._lock:
            awake = [found for _, found in self._known.values() if not found.resting]
        over = len(awake) + 1 - _MAX_OPEN
        for collection in awake:
            if over <= 0:
                break
            with contextlib.suppress(SageError, OSError):  # a fault of its own disk
                over -= collection.rest()


def _encoded(name: str) -> str:
    """A file's name for any text, and one for each."""
    return quote(name, safe="").replace(".", "%2E")


def _sweep(parent: Path) -> None:
    """Takes away what was left unfinished and has not changed for a day."""
    for entry in os.scandir(parent):
        if entry.name.startswith(_UNFINISHED) and time.time() - _changed(Path(entry.path)) > _DAY:
            shutil.rmtree(entry.path, ignore_errors=True)


def _changed(directory: Path) -> float:
    """When something in it last did; a directory's own time does not tell of what is written to its files."""
    latest = 0.0
    for place, _, names in os.walk(directory):  # not Path.rglob: whoever made it may be taking it away
        for path in (place, *(os.path.join(place, name) for name in names)):
            with contextlib.suppress(FileNotFoundError):
                latest = max(latest, os.lstat(path).st_mtime)
    return latest


def _merged(defaults: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(defaults)
    for key, value in given.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict):
            merged[key] = _merged(merged[key], value)
        else:
            merged[key] = value
    return merged


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
    kept, dimension = made_with(options, embedder)
    name_of, languages = (embedder.name, embedder.languages) if embedder is not None else (None, None)
    return DocumentStore.create(directory, name, kept, name_of, languages, dimension)
