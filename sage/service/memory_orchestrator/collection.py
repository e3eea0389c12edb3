"""The collection of a vector service in which memories are stored: one in each tenant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sage.errors import NotFound, Unsupported
from sage.service.memory_orchestrator.index.write_log import CollectionRevision
from sage.service.memory_orchestrator.query import Period
from sage.service.memory_orchestrator.records import NEVER, MemoryRecord, MemoryScope

_PAGE = 500
_IDS_PER_QUERY = 500
_LONGEST = 1000
"""Memories of a session that are read at once."""


class MemoryCollection:
    """``vdb`` is a :class:`VDBService` or a proxy of one. A collection that does not exist yet counts as empty."""

    def __init__(self, vdb: Any, collection: str) -> None:
        self._vdb = vdb
        self._collection = collection
        self.bytes_may_stay = False
        """Whether the engine could not erase deleted memories: no search finds them, but its files may hold them."""
        self.is_ordered = True
        """Whether the engine gives the memories of a session in order, page by page; not once it has refused that."""

    def get(self, tenant: str, id: str, *, vector: bool = False) -> MemoryRecord | None:
        items = self._vdb.find([id], vector=vector, collection=self._collection, tenant=tenant)
        return MemoryRecord.from_item(tenant, items[0]) if items else None

    def put(self, tenant: str, records: Sequence[MemoryRecord]) -> None:
        """Writes all of ``records`` or none. Records with the same ids are replaced."""
        items = [record.to_item() for record in records]
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
        target = {"collection": self._collection, "tenant": tenant}
        try:
            results: list[dict[str, Any]] = self._vdb.search(vector, limit, where, text=text, options=options, **target)
        except NotFound:
            return []
        except Unsupported:  # the engine searches by vectors only
            if vector is None:
                raise
            relevance = {name: options[name] for name in ("score_threshold", "cosine_range") if name in options}
            results = self._vdb.search(vector, limit, where, options=relevance, **target)
        return results

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
        """A page of memories, and the cursor of the next page; ``None`` means that this is the last one."""
        try:
            page = self._vdb.list_items(
                where, limit=limit, cursor=cursor, vectors=vectors, collection=self._collection, tenant=tenant
            )
        except NotFound:
            return [], None
        return [MemoryRecord.from_item(tenant, item) for item in page["items"]], page["cursor"]

    def find(self, tenant: str, ids: Sequence[str], *, vectors: bool = False) -> dict[str, MemoryRecord]:
        """Those of these memories that exist, by id."""
        items = self._vdb.find(list(ids), vector=vectors, collection=self._collection, tenant=tenant)
        return {item["id"]: MemoryRecord.from_item(tenant, item) for item in items}

    def session(self, scope: MemoryScope, session: str, now: float) -> list[MemoryRecord]:
        """The current memories of a session, in the order in which they were stored."""
        records = self.all(scope.tenant, _current(scope, now, session=session))
        return sorted(records, key=lambda record: record.created)

    def session_page(
        self,
        scope: MemoryScope,
        session: str,
        now: float,
        limit: int,
        *,
        type: str | None = None,
        after: float | None = None,
        newest: bool = False,
        period: Period = Period(),  # noqa: B008 - immutable
    ) -> list[MemoryRecord]:
        """The first current memories of a session that were stored after the time ``after``, in their order; ``newest``
        means the last ones, the newest first; ``period`` bounds the times. ``type=None`` means all but those that were
        derived from others."""
        where = _current(scope, now, session=session)
        where |= {"sources": {"$exists": False}} if type is None else {"type": type}
        if bounds := period.filter():
            where["created"] = bounds
        try:
            items = self._vdb.list_by(
                "created", where, limit=limit, after=after, descending=newest, collection=self._collection,
                tenant=scope.tenant,
            )  # fmt: skip
        except NotFound:
            return []
        except Unsupported:  # Chroma, shards
            self.is_ordered = False
            records = [r for r in self.session(scope, session, now) if r.created in period]
            records = [r for r in records if (not r.sources if type is None else r.type == type)]
            records = [r for r in records if after is None or r.created > after]
            return (records[::-1] if newest else records)[:limit]
        return [MemoryRecord.from_item(scope.tenant, item) for item in items]

    def times_by(
        self, scope: MemoryScope, now: float, field: str, session: str | None = None
    ) -> dict[str, tuple[int, float, float]]:
        """The current memories by their ``session`` or ``type``: how many there are, and when the first and the last of
        them were stored."""
        where = _current(scope, now, session=session)
        try:
            found = self._vdb.groups(field, "created", where, collection=self._collection, tenant=scope.tenant)
            return dict(found)
        except NotFound:
            return {}
        except Unsupported:  # Chroma, shards
            self.is_ordered = False
            times: dict[str, list[float]] = {}
            for record in self.all(scope.tenant, where):
                times.setdefault(getattr(record, field), []).append(record.created)
            return {name: (len(stored), min(stored), max(stored)) for name, stored in times.items()}

    def first_expiry(self, scope: MemoryScope, now: float) -> float:
        """When the first of the current memories expires."""
        where = _current(scope, now, session=None) | {"expires": {"$gt": now, "$lt": NEVER}}
        try:
            times = self._vdb.groups("type", "expires", where, collection=self._collection, tenant=scope.tenant)
        except NotFound:
            return NEVER
        except Unsupported:  # shards
            return min((record.expires for record in self.all(scope.tenant, where)), default=NEVER)
        return min((first for _, first, _ in times.values()), default=NEVER)

    def whole_session(self, scope: MemoryScope, session: str, now: float) -> list[MemoryRecord] | None:
        """All current memories of a session, those that were derived from others too, in the order in which they were
        stored; ``None`` means that they do not fit on one page."""
        where = _current(scope, now, session=session)
        try:
            items = self._vdb.list_by(
                "created", where, limit=_LONGEST, collection=self._collection, tenant=scope.tenant
            )  # fmt: skip
        except NotFound:
            return []
        except Unsupported:  # shards
            records = self.session(scope, session, now)
            return records if len(records) < _LONGEST else None
        if len(items) == _LONGEST:
            return None
        return [MemoryRecord.from_item(scope.tenant, item) for item in items]

    def revision(self, tenant: str) -> CollectionRevision | None:
        """The collection's state; ``None`` means that there is no collection yet, or that the engine (Chroma) cannot
        tell."""
        try:
            return CollectionRevision(*self._vdb.revision(collection=self._collection, tenant=tenant))
        except (NotFound, Unsupported):
            return None

    def referring(
        self, scope: MemoryScope, field: str, ids: Sequence[str], *, vectors: bool = False
    ) -> list[MemoryRecord]:
        """The memories whose list ``field`` (``sources``, ``context``) names one of ``ids``."""
        records: dict[str, MemoryRecord] = {}
        for start in range(0, len(ids), _IDS_PER_QUERY):
            where = {**scope.filter(), field: {"$in": list(ids[start : start + _IDS_PER_QUERY])}}
            records.update({record.id: record for record in self.all(scope.tenant, where, vectors=vectors)})
        return list(records.values())

    def count(self, tenant: str, where: Mapping[str, Any]) -> int:
        try:
            return int(self._vdb.count(where, collection=self._collection, tenant=tenant))
        except NotFound:
            return 0

    def delete(self, tenant: str, ids: Sequence[str]) -> None:
        with suppress(NotFound):
            self._vdb.delete(list(ids), collection=self._collection, tenant=tenant)

    def purge(self, tenant: str) -> None:
        """Erases from its files every byte of what was ever deleted or rewritten, where the engine can promise that."""
        try:
            self._vdb.purge(collection=self._collection, tenant=tenant)
        except NotFound:
            pass
        except Unsupported:
            self.bytes_may_stay = True


def _current(scope: MemoryScope, now: float, *, session: str | None) -> dict[str, Any]:
    """The filter of the memories that are current at the time ``now``, of one session or of all."""
    of_session = {} if session is None else {"session": session}
    return {**scope.filter(), **of_session, "superseded": {"$gte": NEVER}, "expires": {"$gt": now}}
