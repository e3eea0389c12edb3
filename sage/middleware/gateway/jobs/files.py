"""Files for a caller: those of the caller's tenant, and work on disks away from the event loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import BinaryIO, TypeVar

from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.collections.bounded_pool import BoundedPool
from sage.middleware.queue.files import FilePage, FileStore, StoredFile

T = TypeVar("T")


class FileGateway:
    """``store`` for callers. Its work runs on ``pool``, where tenants take turns."""

    def __init__(self, store: FileStore, pool: BoundedPool) -> None:
        self.store = store
        self._pool = pool

    async def run(self, principal: Principal, work: Callable[[], T]) -> T:
        """The result of ``work``, which may block."""
        return await self._pool.run(work, principal.tenant)

    async def get(self, principal: Principal, file_id: str) -> StoredFile:
        """The caller's file. Raises :class:`sage.errors.NotFound`."""
        return await self.run(principal, partial(self.store.get, principal.tenant, file_id))

    async def open(self, principal: Principal, file_id: str) -> tuple[StoredFile, BinaryIO]:
        """The caller's file with its bytes. Raises :class:`sage.errors.NotFound`."""
        return await self.run(principal, partial(self.store.open, principal.tenant, file_id))

    async def page(
        self, principal: Principal, *, limit: int, purpose: str | None, after: str | None, oldest_first: bool
    ) -> FilePage:
        """The caller's files (:meth:`FileStore.page`)."""
        work = partial(
            self.store.page, principal.tenant, limit=limit, purpose=purpose, after=after, oldest_first=oldest_first
        )
        return await self.run(principal, work)

    async def delete(self, principal: Principal, file_id: str) -> None:
        """Deletes the caller's file. Raises :class:`sage.errors.NotFound`."""
        await self.run(principal, partial(self.store.delete, principal.tenant, file_id))
