"""The records of the files of stores in their database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, insert, select, update

from sage.errors import InvalidRequest
from sage.middleware.database.database import Database
from sage.middleware.vector_stores.records import REMOVED, FilePosition, FileRecord, StoreKey
from sage.middleware.vector_stores.tables import batch_files, files

_NAMES = tuple(field.name for field in fields(FileRecord))
_COLUMNS = tuple(files.c[name] for name in _NAMES)
_AT_ONCE = 500
"""File ids in one statement."""


class FileRows:
    """The records of all tenants. Its methods block, and are safe on any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: StoreKey, file_id: str) -> FileRecord | None:
        """One that is not removed."""
        found = self.get_many(key, [file_id]).get(file_id)
        return None if found is None or found.status == REMOVED else found

    def get_many(self, key: StoreKey, file_ids: Sequence[str]) -> dict[str, FileRecord]:
        """Those of the store by id, the removed ones too."""
        found: dict[str, FileRecord] = {}
        with self._database.reading() as connection:
            for start in range(0, len(file_ids), _AT_ONCE):
                these = files.c.file_id.in_(list(file_ids[start : start + _AT_ONCE]))
                for row in connection.execute(select(*_COLUMNS).where(_of(key), these)):
                    found[row.file_id] = _record(row)
        return found

    def by_ticket(self, ticket: str, file_id: str) -> FileRecord | None:
        with self._database.reading() as connection:
            query = select(*_COLUMNS).where(files.c.ticket == ticket, files.c.file_id == file_id)
            row = connection.execute(query).one_or_none()
        return None if row is None else _record(row)

    def page(self, key: StoreKey, position: FilePosition) -> tuple[list[FileRecord], bool]:
        """A page in the order of their coming, and whether there are more. Raises :class:`InvalidRequest` for a cursor
        that is no file of the store."""
        ascending = position.ascending
        query = select(*_COLUMNS).where(_of(key), files.c.status != REMOVED)
        if position.status is not None:
            query = query.where(files.c.status == position.status)
        if position.batch is not None:
            query = query.join(batch_files, batch_files.c.file_id == files.c.file_id)
            query = query.where(batch_files.c.batch == position.batch)
        for name in ("after", "before"):
            cursor: str | None = getattr(position, name)
            if cursor is not None:
                sequence = self._sequence(key, cursor, name)
                is_later = ascending == (name == "after")
                query = query.where(files.c.sequence > sequence if is_later else files.c.sequence < sequence)
        from_end = position.before is not None and position.after is None  # the page that ends before the cursor
        order = files.c.sequence.asc() if ascending != from_end else files.c.sequence.desc()
        with self._database.reading() as connection:
            found = [_record(row) for row in connection.execute(query.order_by(order).limit(position.limit + 1))]
        page = found[: position.limit]
        return (page[::-1] if from_end else page), len(found) > position.limit

    def _sequence(self, key: StoreKey, file_id: str, param: str) -> int:
        with self._database.reading() as connection:
            sequence = connection.scalar(select(files.c.sequence).where(_of(key), files.c.file_id == file_id))
        if sequence is None:
            raise InvalidRequest(f"'{param}' names no file of this vector store: '{file_id[:64]}'", param=param)
        return int(sequence)

    def put(self, records: Sequence[FileRecord]) -> list[FileRecord]:
        """Adds files of one store, each in place of one of the same id; returns those that were there before."""
        if not records:
            return []
        key, ids = records[0].key, [record.file_id for record in records]
        before = self.get_many(key, ids)
        with self._database.writing() as connection:
            for start in range(0, len(ids), _AT_ONCE):
                connection.execute(delete(files).where(_of(key), files.c.file_id.in_(ids[start : start + _AT_ONCE])))
            connection.execute(insert(files), [asdict(record) for record in records])
        return list(before.values())

    def take_back(self, records: Sequence[FileRecord], before: Sequence[FileRecord]) -> None:
        """Undoes :meth:`put`."""
        for record in records:
            self.remove(record)
        self.put(before)

    def change(self, record: FileRecord, **values: Any) -> bool:
        """Changes a record, unless it has been replaced or has another status by now; whether it was changed."""
        this = _is(record) & (files.c.status == record.status)
        with self._database.writing() as connection:
            return connection.execute(update(files).where(this).values(**values)).rowcount == 1

    def set_job(self, ticket: str, job_id: str) -> None:
        with self._database.writing() as connection:
            connection.execute(update(files).where(files.c.ticket == ticket).values(job_id=job_id))

    def remove(self, record: FileRecord) -> None:
        with self._database.writing() as connection:
            connection.execute(delete(files).where(_is(record)))

    def unsettled(self, job_id: str | None = None) -> list[FileRecord]:
        """Those that something is left to be done for; with a ``job_id`` those of one job."""
        query = select(*_COLUMNS).where(~files.c.settled).order_by(files.c.sequence)
        if job_id is not None:
            query = query.where(files.c.job_id == job_id)
        with self._database.reading() as connection:
            return [_record(row) for row in connection.execute(query)]

    def of_file(self, tenant: str, file_id: str) -> list[FileRecord]:
        """The tenant's stores that have a file."""
        query = select(*_COLUMNS).where(files.c.tenant == tenant, files.c.file_id == file_id)
        with self._database.reading() as connection:
            return [_record(row) for row in connection.execute(query.where(files.c.status != REMOVED))]


def _of(key: StoreKey) -> ColumnElement[bool]:
    return (files.c.tenant == key.tenant) & (files.c.collection == key.collection)


def _is(record: FileRecord) -> ColumnElement[bool]:
    return _of(record.key) & (files.c.file_id == record.file_id) & (files.c.ticket == record.ticket)


def _record(row: Row[Any]) -> FileRecord:
    return FileRecord(**row._mapping)
