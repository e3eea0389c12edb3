"""Vector stores for callers: made, listed, changed and removed, each a collection of the caller's tenant."""

from __future__ import annotations

import contextlib
import re
import secrets
from dataclasses import replace
from typing import Any, Literal

from sage.errors import InvalidRequest, NotFound
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.vector_stores.access import StoreAccess, of_tenant
from sage.middleware.gateway.vector_stores.attachments import Attachments
from sage.middleware.gateway.vector_stores.requests import AUTO, AttachFile, ChangeStore, CreateStore
from sage.middleware.gateway.vector_stores.views import View, page_view, store_id, store_view
from sage.middleware.vector_stores.records import StoreCounts, StoreKey, StoreRecord

_SLUG = re.compile(r"[^a-z0-9]+")
_LONGEST_SLUG = 40
_NOTHING = StoreCounts()


class VectorStores:
    """The stores of one gateway. Belongs to its event loop."""

    def __init__(self, access: StoreAccess, attachments: Attachments) -> None:
        self.access = access
        self.attachments = attachments

    async def create(self, principal: Principal, request: CreateStore) -> View:
        """A new store over a new collection. Raises what making a collection and attaching files raise; of a request
        that is refused nothing stays."""
        entries = [
            AttachFile(file_id=file_id, chunking_strategy=request.chunking_strategy or AUTO)
            for file_id in request.file_ids or ()
        ]
        found = await self.attachments.check(principal, entries)
        collection = _new_name(request.name or "")
        made = await self.access.collections.create(principal, collection, {})
        now = self.access.clock()
        record = StoreRecord(
            principal.tenant,
            collection,
            float(made["created_at"]),
            request.name or "",
            request.description,
            request.metadata or {},
            now,
            now,
            request.expires_after.days if request.expires_after is not None else None,
        )
        try:
            await self.access.recorded(record)
            if entries:
                await self.attachments.attach(principal, record, entries, found)
        except BaseException:
            await self.remove(principal, record)
            raise
        return await self._view(record)

    async def get(self, principal: Principal, store: str) -> View:
        """Raises :class:`NotFound`."""
        return await self._view(await self.access.find(principal, store, expired=True))

    async def page(
        self,
        principal: Principal,
        *,
        limit: int,
        order: Literal["asc", "desc"],
        after: str | None,
        before: str | None,
    ) -> View:
        """The caller's stores by the time of their making: every collection is one. Raises :class:`InvalidRequest` for
        a cursor that names none."""
        records = await self._all(principal)
        records.sort(key=lambda record: (record.created_at, record.collection), reverse=order == "desc")
        places = {store_id(record.collection): place for place, record in enumerate(records)}
        start, end = 0, len(records)
        if after is not None:
            start = _place(places, after, "after") + 1
        if before is not None:
            end = _place(places, before, "before")
            if after is None:
                start = max(0, end - limit)
        shown = records[start:end][:limit]
        counts = await self.access.run(lambda rows: rows.stores.counts(principal.tenant), principal.tenant)
        now = self.access.clock()
        views = [store_view(record, counts.get(record.collection, _NOTHING), now) for record in shown]
        has_more = start > 0 if before is not None and after is None else start + limit < end
        return page_view(views, has_more)

    async def _all(self, principal: Principal) -> list[StoreRecord]:
        described = await self.access.collections.describe_all(principal)
        known = await self.access.run(lambda rows: rows.stores.of_tenant(principal.tenant), principal.tenant)
        records = [record for record in known.values() if record.expired_at is not None]
        for outline in described:
            if "error" in outline:
                continue  # it cannot be opened; /collections says why
            key = StoreKey(principal.tenant, outline["name"])
            records.append(await self.access.settled(key, known.get(key.collection), outline))
        return records

    async def change(self, principal: Principal, store: str, request: ChangeStore) -> View:
        """Changes what the request says. Raises :class:`NotFound`."""
        record = await self.access.recorded(await self.access.find(principal, store))
        values: dict[str, Any] = {"last_active_at": self.access.clock()}
        given = request.model_fields_set
        if "name" in given:
            values["name"] = request.name or ""
        if "metadata" in given:
            values["meta"] = request.metadata or {}
        if "expires_after" in given:
            values["expires_days"] = request.expires_after.days if request.expires_after is not None else None
        await self.access.run(lambda rows: rows.stores.change(record.key, **values), principal.tenant)
        return await self._view(replace(record, **values))

    async def delete(self, principal: Principal, store: str) -> StoreRecord:
        """Removes a store with its collection; the files stay at ``/v1/files``. Raises :class:`NotFound`."""
        record = await self.access.find(principal, store, expired=True)
        await self.remove(principal, record)
        return record

    async def remove(self, principal: Principal, record: StoreRecord) -> None:
        """First the jobs that write into the collection, then the collection, then what is known of it: whatever
        interrupts this leaves a store that can be removed again."""
        await self.attachments.stop(record)
        if record.expired_at is None:
            try:
                await self.access.collections.delete(principal, record.collection)
            except NotFound as exc:
                if exc.code != "collection_not_found":
                    raise
        await self.forget(principal.tenant, record.collection)

    async def forget(self, tenant: str, collection: str) -> None:
        """A collection is no more: nor is the store that it was, and the jobs that write into it end."""
        if self.access.is_used:
            key = StoreKey(tenant, collection)
            jobs = await self.access.run(lambda rows: rows.stores.forget(key), tenant)
            await self.attachments.cancel(tenant, jobs)

    async def expire(self, record: StoreRecord) -> None:
        """Removes the collection of a store that has expired, and keeps that it has."""
        with contextlib.suppress(NotFound):
            await self.access.collections.delete(of_tenant(record.tenant), record.collection)
        now = self.access.clock()
        jobs = await self.access.run(lambda rows: rows.stores.expire(record.key, now), record.tenant)
        await self.attachments.cancel(record.tenant, jobs)

    async def _view(self, record: StoreRecord) -> View:
        key = record.key
        counts = await self.access.run(lambda rows: rows.stores.counts(key.tenant, key.collection), key.tenant)
        return store_view(record, counts.get(key.collection, _NOTHING), self.access.clock())


def _new_name(name: str) -> str:
    """The name of a collection for a store: what can be read of the store's, and something that no other has."""
    slug = _SLUG.sub("-", name.lower())[:_LONGEST_SLUG].strip("-")
    return f"{slug}-{secrets.token_hex(6)}" if slug else secrets.token_hex(12)


def _place(places: dict[str, int], store: str, param: str) -> int:
    if store not in places:
        raise InvalidRequest(f"'{param}' names no vector store of yours: '{store[:80]}'", param=param)
    return places[store]
