"""How requests get to a vector store: its collection, and what is known of it beside that."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sage.errors import InvalidRequest, NotFound
from sage.middleware.auth.principal import LOCAL, Principal
from sage.middleware.gateway.collections.bounded_pool import BoundedPool
from sage.middleware.gateway.collections.collections import CollectionGateway
from sage.middleware.gateway.vector_stores.views import collection_of, store_id
from sage.middleware.settings.database import DatabaseUrl
from sage.middleware.vector_stores.records import FILE, StoreKey, StoreRecord

if TYPE_CHECKING:  # SQLAlchemy is loaded by the first call
    from sage.middleware.database.database import Database
    from sage.middleware.vector_stores.file_rows import FileRows
    from sage.middleware.vector_stores.store_rows import StoreRows

T = TypeVar("T")
_SAME = 1e-3
"""Seconds by which two times of the making of one collection differ at most."""
_TOUCHED_EVERY = 60.0
"""Seconds between two notes that a store is in use."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The tables."""

    database: Database
    stores: StoreRows
    files: FileRows


class StoreAccess:
    """The vector stores of one gateway. Belongs to its event loop; the database is opened by the first call."""

    def __init__(
        self,
        collections: CollectionGateway,
        data_dir: Path,
        url: DatabaseUrl | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.collections = collections
        self.clock = clock
        self._data_dir = data_dir
        self._url = url
        self._pool = BoundedPool("vector stores", 4, 256)
        self._lock = threading.Lock()
        self._rows: Rows | None = None

    @property
    def is_used(self) -> bool:
        """Whether there may be records: a gateway without vector stores makes no file for them."""
        return self._url is not None or (self._data_dir / FILE).exists()

    async def run(self, work: Callable[[Rows], T], tenant: str = "") -> T:
        """The result of ``work`` on a thread."""
        return await self._pool.run(lambda: work(self._open()), tenant)

    def _open(self) -> Rows:
        with self._lock:
            if self._rows is None:
                from sage.middleware.vector_stores.database import open_vector_stores_database
                from sage.middleware.vector_stores.file_rows import FileRows
                from sage.middleware.vector_stores.store_rows import StoreRows

                database = open_vector_stores_database(self._data_dir, self._url)
                self._rows = Rows(database, StoreRows(database), FileRows(database))
            return self._rows

    async def find(self, principal: Principal, store: str, *, expired: bool = False) -> StoreRecord:
        """The caller's store, as it is recorded or, for a collection that nobody has used as a store so far, as it
        would be. Raises :class:`NotFound`, and unless ``expired`` is set :class:`InvalidRequest` for one that has
        expired."""
        collection = collection_of(store)
        if collection is None:
            raise no_store(store)
        key = StoreKey(principal.tenant, collection)
        record = await self.run(lambda rows: rows.stores.get(key), principal.tenant)
        if record is None or record.expired_at is None:
            record = await self._current(principal, store, key, record)
        if record.has_expired(self.clock()) and not expired:
            raise InvalidRequest(
                f"the vector store '{store[:80]}' has expired; make another one",
                param="vector_store_id",
                code="vector_store_expired",
            )
        return record

    async def _current(
        self, principal: Principal, store: str, key: StoreKey, record: StoreRecord | None
    ) -> StoreRecord:
        try:
            outline = await self.collections.outline(principal, key.collection)
        except (NotFound, InvalidRequest):  # no such collection, or nothing that could be its name
            if record is not None:
                await self.run(lambda rows: rows.stores.forget(key), principal.tenant)
            raise no_store(store) from None
        return await self.settled(key, record, outline)

    async def settled(self, key: StoreKey, record: StoreRecord | None, outline: dict[str, Any]) -> StoreRecord:
        """``record``, unless it is of an earlier collection of that name; that one is forgotten."""
        made_at = float(outline.get("created_at") or 0.0)
        if record is not None and abs(record.made_at - made_at) < _SAME:
            return record
        if record is not None:
            await self.run(lambda rows: rows.stores.forget(key), key.tenant)
        return StoreRecord(key.tenant, key.collection, made_at, key.collection, None, {}, made_at, made_at, None)

    async def recorded(self, record: StoreRecord) -> StoreRecord:
        """The record, which is in the database from now on."""
        return await self.run(lambda rows: rows.stores.add(record), record.tenant)

    async def touch(self, record: StoreRecord) -> None:
        """The store is in use. One that is not recorded does not expire."""
        now = self.clock()
        if now - record.last_active_at >= _TOUCHED_EVERY:
            await self.run(lambda rows: rows.stores.change(record.key, last_active_at=now), record.tenant)

    async def close(self) -> None:
        if self._pool.has_begun:
            await asyncio.to_thread(self._pool.close)
        if self._rows is not None:
            await asyncio.to_thread(self._rows.database.close)


def of_tenant(tenant: str) -> Principal:
    """The gateway itself at work in a tenant's collections."""
    return replace(LOCAL, tenant=tenant)


def no_store(store: str) -> NotFound:
    return NotFound(
        f"there is no vector store '{store[:80]}' (GET /v1/vector_stores lists yours; a collection's id is "
        f"'{store_id('')}' and its name)",
        param="vector_store_id",
        code="vector_store_not_found",
    )
