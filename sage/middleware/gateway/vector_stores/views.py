"""Vector stores, their files and batches in OpenAI's shape.

The id of a store is ``vs_`` and the name of its collection. It means something within its tenant alone: another
tenant's store is not there.
"""

from __future__ import annotations

from typing import Any

from sage.middleware.vector_stores.records import (
    CANCELLED,
    COMPLETED,
    IN_PROGRESS,
    STATUSES,
    BatchRecord,
    FileRecord,
    StoreCounts,
    StoreRecord,
)

View = dict[str, Any]
_PREFIX = "vs_"


def store_id(collection: str) -> str:
    return _PREFIX + collection


def collection_of(store: str) -> str | None:
    """The collection of a store's id; ``None`` for what is no such id."""
    return store.removeprefix(_PREFIX) if store.startswith(_PREFIX) and store != _PREFIX else None


def store_view(record: StoreRecord, counts: StoreCounts, now: float) -> View:
    has_expired = record.has_expired(now)
    days, expires_at = record.expires_days, record.expires_at
    return {
        "id": store_id(record.collection),
        "object": "vector_store",
        "created_at": int(record.created_at),
        "name": record.name,
        "description": record.description,
        "usage_bytes": counts.usage_bytes,
        "file_counts": _file_counts(counts),
        "status": "expired" if has_expired else _status(counts),
        "expires_after": None if days is None else {"anchor": "last_active_at", "days": days},
        "expires_at": None if expires_at is None else int(expires_at),
        "last_active_at": int(record.last_active_at),
        "metadata": record.meta,
    }


def file_view(record: FileRecord) -> View:
    error = None
    if record.error_code is not None:
        error = {"code": record.error_code, "message": record.error_message or ""}
    sizes = {"max_chunk_size_tokens": record.max_tokens, "chunk_overlap_tokens": record.overlap_tokens}
    return {
        "id": record.file_id,
        "object": "vector_store.file",
        "created_at": int(record.created_at),
        "vector_store_id": store_id(record.collection),
        "status": record.status,
        "usage_bytes": record.usage_bytes,
        "last_error": error,
        "attributes": record.attributes,
        "chunking_strategy": {"type": "static", "static": sizes},
    }


def batch_view(batch: BatchRecord, counts: StoreCounts) -> View:
    status = CANCELLED if batch.cancelled and not counts.files[IN_PROGRESS] else _status(counts)
    return {
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": int(batch.created_at),
        "vector_store_id": store_id(batch.collection),
        "status": status,
        "file_counts": _file_counts(counts),
    }


def page_view(data: list[View], has_more: bool) -> View:
    ids = [each["id"] for each in data] or [None]
    return {"object": "list", "data": data, "first_id": ids[0], "last_id": ids[-1], "has_more": has_more}


def deleted_view(id: str, kind: str) -> View:
    return {"id": id, "object": f"{kind}.deleted", "deleted": True}


def _status(counts: StoreCounts) -> str:
    return IN_PROGRESS if counts.files[IN_PROGRESS] else COMPLETED


def _file_counts(counts: StoreCounts) -> dict[str, int]:
    return {**{status: counts.files[status] for status in STATUSES}, "total": counts.files.total()}
