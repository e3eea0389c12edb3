"""Where memories lie: one collection of a vector service, own or called, in each tenant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sage.errors import NotFound, Unsupported
from sage.service.memory_orchestrator.records import MemoryRecord

_PAGE = 500


class MemoryCollection:
    """``vdb`` is a :class:`VDBService` or a proxy of one. A collection that is not there yet is an empty one."""

    def __init__(self, vdb: Any, collection: str) -> None:
        self._vdb = vdb
        self._collection = collection
        self.bytes_may_stay = False
        """The engine cannot erase: what was deleted is not found, but may lie in its files."""

    def find(self, tenant: str, id: str, *, vector: bool = False) -> MemoryRecord | None:
        found = self._vdb.find([id], vector=vector, collection=self._collection, tenant=tenant)
        return MemoryRecord.read(tenant, found[0]) if found else None

    def put(self, tenant: str, records: Sequence[MemoryRecord]) -> None:
        """All or none of them."""
        items = [record.item() for record in records]
        self._vdb.add(items, collection=self._collection, tenant=tenant)

    def search(
        self,
        tenant: str,
        text: str | None,
        vector: Sequence[float] | None,
        limit: int,
        where: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        place = {"collection": self._collection, "tenant": tenant}
        try:
            found: list[dict[str, Any]] = self._vdb.search(vector, limit, where, text=text, options=options, **place)
        except NotFound:
            return []
        except Unsupported:  # an engine of vectors alone
            if vector is None:
                raise
            found = self._vdb.search(vector, limit, where, **place)
        return found

    def all(
        self, tenant: str, where: Mapping[str, Any] | None = None, *, vectors: bool = False
    ) -> Iterator[MemoryRecord]:
        """In the order in which they were last written."""
        cursor: str | None = None
        while True:
            records, cursor = self.page(tenant, _PAGE, cursor, where, vectors=vectors)
            yield from records
            if cursor is None:
                return

    def page(
        self,
        tenant: str,
        limit: int,
        cursor: str | None,
        where: Mapping[str, Any] | None = None,
        *,
        vectors: bool = True,
    ) -> tuple[list[MemoryRecord], str | None]:
        """And the cursor of the next page, which the last has not."""
        try:
            page = self._vdb.list_items(
                where, limit=limit, cursor=cursor, vectors=vectors, collection=self._collection, tenant=tenant
            )
        except NotFound:
            return [], None
        return [MemoryRecord.read(tenant, item) for item in page["items"]], page["cursor"]

    def count(self, tenant: str, where: Mapping[str, Any]) -> int:
        try:
            return int(self._vdb.count(where, collection=self._collection, tenant=tenant))
        except NotFound:
            return 0

    def delete(self, tenant: str, ids: Sequence[str]) -> None:
        with suppress(NotFound):
            self._vdb.delete(list(ids), collection=self._collection, tenant=tenant)

    def purge(self, tenant: str) -> None:
        """Every byte of what was ever deleted or rewritten goes, where the engine can promise that."""
        try:
            self._vdb.purge(collection=self._collection, tenant=tenant)
        except NotFound:
            pass
        except Unsupported:
            self.bytes_may_stay = True
