"""The records of stores and batches in their database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from sage.errors import Conflict
from sage.middleware.database.database import Database
from sage.middleware.vector_stores.records import IN_PROGRESS, REMOVED, BatchRecord, StoreCounts, StoreKey, StoreRecord
from sage.middleware.vector_stores.tables import batch_files, batches, files, stores


class StoreRows:
    """The records of all tenants. Its methods block, and are safe on any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: StoreKey) -> StoreRecord | None:
        with self._database.reading() as connection:
            row = connection.execute(select(stores).where(_is(key))).one_or_none()
        return None if row is None else StoreRecord(*row)

    def of_tenant(self, tenant: str) -> dict[str, StoreRecord]:
        """By collection."""
        with self._database.reading() as connection:
            rows = connection.execute(select(stores).where(stores.c.tenant == tenant))
            return {row.collection: StoreRecord(*row) for row in rows}

    def add(self, record: StoreRecord) -> StoreRecord:
        """Adds a record, or returns the one that is there already."""
        try:
            with self._database.writing() as connection:
                connection.execute(insert(stores).values(**asdict(record)))
        except IntegrityError:
            return self.get(record.key) or record
        return record

    def change(self, key: StoreKey, **values: Any) -> None:
        with self._database.writing() as connection:
            connection.execute(update(stores).where(_is(key)).values(**values))

    def forget(self, key: StoreKey) -> list[str]:
        """Removes everything that is known of a store; returns the jobs that were at its files."""
        with self._database.writing() as connection:
            jobs = self._jobs_of(connection, key)
            named = select(batches.c.id).where(batches.c.tenant == key.tenant, batches.c.collection == key.collection)
            connection.execute(delete(batch_files).where(batch_files.c.batch.in_(named)))
            for table in (batches, files, stores):
                this = (table.c.tenant == key.tenant, table.c.collection == key.collection)
                connection.execute(delete(table).where(*this))
        return jobs

    def expire(self, key: StoreKey, at: float) -> list[str]:
        """As :meth:`forget`, but that there was a store, and that it has expired, is known on."""
        with self._database.writing() as connection:
            jobs = self._jobs_of(connection, key)
            connection.execute(delete(files).where(files.c.tenant == key.tenant, files.c.collection == key.collection))
            connection.execute(update(stores).where(_is(key)).values(expired_at=at))
        return jobs

    def _jobs_of(self, connection: Connection, key: StoreKey) -> list[str]:
        unsettled = select(files.c.job_id).distinct()
        unsettled = unsettled.where(
            files.c.tenant == key.tenant, files.c.collection == key.collection, ~files.c.settled
        )
        return [job for job in connection.scalars(unsettled) if job is not None]

    def with_expiry(self) -> list[StoreRecord]:
        """All that expire some day, and those that have."""
        with self._database.reading() as connection:
            rows = connection.execute(select(stores).where(stores.c.expires_days.is_not(None)))
            return [StoreRecord(*row) for row in rows]

    def counts(self, tenant: str, collection: str | None = None) -> dict[str, StoreCounts]:
        """By collection; one without files is left out."""
        query = select(files.c.collection, files.c.status, func.count(), func.sum(files.c.usage_bytes))
        query = query.where(files.c.tenant == tenant, files.c.status != REMOVED)
        if collection is not None:
            query = query.where(files.c.collection == collection)
        counts: dict[str, StoreCounts] = {}
        with self._database.reading() as connection:
            for name, status, count, size in connection.execute(query.group_by(files.c.collection, files.c.status)):
                of = counts.setdefault(name, StoreCounts())
                of.files[status] += count
                of.usage_bytes += int(size or 0)
        return counts

    def add_batch(self, batch: BatchRecord, file_ids: Sequence[str]) -> None:
        rows = [{"batch": batch.id, "file_id": file_id} for file_id in file_ids]
        with self._database.writing() as connection:
            connection.execute(insert(batches).values(**asdict(batch)))
            connection.execute(insert(batch_files), rows)

    def batch(self, key: StoreKey, batch_id: str) -> BatchRecord | None:
        this = (batches.c.id == batch_id, batches.c.tenant == key.tenant, batches.c.collection == key.collection)
        with self._database.reading() as connection:
            row = connection.execute(select(batches).where(*this)).one_or_none()
        return None if row is None else BatchRecord(*row)

    def change_batch(self, batch_id: str, **values: Any) -> None:
        with self._database.writing() as connection:
            connection.execute(update(batches).where(batches.c.id == batch_id).values(**values))

    def forget_batch(self, batch_id: str) -> None:
        with self._database.writing() as connection:
            connection.execute(delete(batch_files).where(batch_files.c.batch == batch_id))
            connection.execute(delete(batches).where(batches.c.id == batch_id))

    def batch_counts(self, batch: BatchRecord) -> StoreCounts:
        """Of the files of a batch that are still in its store."""
        query = select(files.c.status, func.count()).join(batch_files, batch_files.c.file_id == files.c.file_id)
        query = query.where(
            batch_files.c.batch == batch.id,
            files.c.tenant == batch.tenant,
            files.c.collection == batch.collection,
            files.c.status != REMOVED,
        )
        with self._database.reading() as connection:
            rows = connection.execute(query.group_by(files.c.status))
            counts = StoreCounts()
            for status, count in rows:
                counts.files[status] = count
        return counts

    def require_room(self, key: StoreKey, more: int, most: int) -> None:
        """Raises :class:`Conflict` where a store would have more files than ``most``."""
        counts = self.counts(key.tenant, key.collection).get(key.collection, StoreCounts())
        if counts.files.total() + more > most:
            raise Conflict(
                f"a vector store has at most {most} files (retrieval.limits.max_store_files), and this one has "
                f"{counts.files.total()}; remove some, or make another store",
                code="too_many_files",
            )

    def unfinished(self, key: StoreKey) -> bool:
        """Whether files of the store are being read."""
        counts = self.counts(key.tenant, key.collection).get(key.collection)
        return counts is not None and counts.files[IN_PROGRESS] > 0


def _is(key: StoreKey) -> ColumnElement[bool]:
    return (stores.c.tenant == key.tenant) & (stores.c.collection == key.collection)
