"""The files of a vector store, and batches of them, for callers."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from sage.errors import Conflict, NotFound
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.vector_stores.access import StoreAccess, of_tenant
from sage.middleware.gateway.vector_stores.attachments import Attachments
from sage.middleware.gateway.vector_stores.attributes import FILE_ID, changed_metadata
from sage.middleware.gateway.vector_stores.requests import AttachBatch, AttachFile
from sage.middleware.gateway.vector_stores.views import View, batch_view, file_view, page_view
from sage.middleware.vector_stores.records import IN_PROGRESS, BatchRecord, FilePosition, FileRecord, StoreRecord

_PAGE = 1000


class StoreFiles:
    """The files of the stores of one gateway. Belongs to its event loop."""

    def __init__(self, access: StoreAccess, attachments: Attachments) -> None:
        self._access = access
        self._attachments = attachments

    async def attach(self, principal: Principal, store: str, request: AttachFile) -> View:
        """Puts a file into the store: in progress at first. Raises what :meth:`Attachments.check` and
        :meth:`Attachments.attach` raise."""
        record = await self._access.find(principal, store)
        found = await self._attachments.check(principal, [request])
        attached = await self._attachments.attach(principal, record, [request], found)
        return file_view(attached[0])

    async def page(self, principal: Principal, store: str, position: FilePosition) -> View:
        record = await self._access.find(principal, store, expired=True)
        if position.batch is not None:
            await self._batch(record, position.batch)
        files, has_more = await self._access.run(lambda rows: rows.files.page(record.key, position), principal.tenant)
        return page_view([file_view(each) for each in files], has_more)

    async def get(self, principal: Principal, store: str, file_id: str) -> View:
        """Raises :class:`NotFound`."""
        return file_view(await self._file(await self._access.find(principal, store, expired=True), file_id))

    async def change(self, principal: Principal, store: str, file_id: str, attributes: Mapping[str, Any]) -> View:
        """Gives a file other attributes: its chunks first, then the file, so that whoever reads these finds by them.

        Raises :class:`Conflict` while the file is being read."""
        record = await self._file(await self._access.find(principal, store), file_id)
        if record.status == IN_PROGRESS:
            raise Conflict(
                f"the file '{file_id[:64]}' is being read for this vector store; wait until it is done",
                code="file_in_progress",
            )
        await self._access.collections.change_metadata(
            principal,
            record.collection,
            {FILE_ID: file_id},
            partial(changed_metadata, old=record.attributes, new=attributes),
        )
        new = dict(attributes)
        if not await self._access.run(lambda rows: rows.files.change(record, attributes=new), principal.tenant):
            raise Conflict(f"the file '{file_id[:64]}' was changed by another meanwhile", code="file_changed")
        return file_view(replace(record, attributes=dict(attributes)))

    async def detach(self, principal: Principal, store: str, file_id: str) -> None:
        """Takes a file out of the store; it stays at ``/v1/files``. Raises :class:`NotFound`."""
        record = await self._access.find(principal, store)
        await self._attachments.detach(await self._file(record, file_id))

    async def detach_everywhere(self, tenant: str, file_id: str) -> None:
        """Takes an uploaded file, which is deleted, out of all stores."""
        if self._access.is_used:
            for record in await self._access.run(lambda rows: rows.files.of_file(tenant, file_id), tenant):
                await self._attachments.detach(record)

    async def content(self, principal: Principal, store: str, file_id: str) -> View:
        """The text of a file as it was read, in its chunks. Raises :class:`NotFound`."""
        record = await self._file(await self._access.find(principal, store), file_id)
        chunks: list[tuple[int, str]] = []
        cursor = None
        while True:
            page, cursor = await self._access.collections.page(
                of_tenant(principal.tenant), record.collection, cursor, _PAGE, {FILE_ID: file_id}
            )
            chunks += [(int(document.metadata.get("chunk", 0)), document.text) for document in page]
            if cursor is None:
                break
        data = [{"type": "text", "text": text} for _, text in sorted(chunks)]
        return {"object": "vector_store.file_content.page", "data": data, "has_more": False, "next_page": None}

    async def create_batch(self, principal: Principal, store: str, request: AttachBatch) -> View:
        """Puts files into the store together. Raises as :meth:`attach` does; then none of them is."""
        record = await self._access.find(principal, store)
        entries = request.entries
        found = await self._attachments.check(principal, entries)
        batch = BatchRecord(f"vsfb_{secrets.token_hex(12)}", record.tenant, record.collection, self._access.clock())
        await self._attachments.attach(principal, record, entries, found, batch=batch)
        return await self._batch_view(batch)

    async def get_batch(self, principal: Principal, store: str, batch_id: str) -> View:
        """Raises :class:`NotFound`."""
        record = await self._access.find(principal, store, expired=True)
        return await self._batch_view(await self._batch(record, batch_id))

    async def cancel_batch(self, principal: Principal, store: str, batch_id: str) -> View:
        """Files that are not done are cancelled; others stay. Raises :class:`NotFound`."""
        batch = await self._batch(await self._access.find(principal, store), batch_id)
        await self._attachments.cancel_batch(batch)
        return await self._batch_view(replace(batch, cancelled=True))

    async def _batch_view(self, batch: BatchRecord) -> View:
        counts = await self._access.run(lambda rows: rows.stores.batch_counts(batch), batch.tenant)
        return batch_view(batch, counts)

    async def _batch(self, store: StoreRecord, batch_id: str) -> BatchRecord:
        batch = await self._access.run(lambda rows: rows.stores.batch(store.key, batch_id), store.tenant)
        if batch is None:
            raise NotFound(f"this vector store has no batch '{batch_id[:64]}'", param="batch_id")
        return batch

    async def _file(self, store: StoreRecord, file_id: str) -> FileRecord:
        record = await self._access.run(lambda rows: rows.files.get(store.key, file_id), store.tenant)
        if record is None:
            raise NotFound(f"this vector store has no file '{file_id[:64]}'", param="file_id")
        return record
