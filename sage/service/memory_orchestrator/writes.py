"""Storing, correcting, restoring and retiring memories.

Each change is one write of the collection, so that it happens completely or not at all. ``locks.py`` says which changes
may run at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sage.errors import InvalidRequest, NotFound
from sage.service.memory_orchestrator.clock import WriteClock
from sage.service.memory_orchestrator.collection import MemoryCollection
from sage.service.memory_orchestrator.duplicates import DuplicateFinder, with_key
from sage.service.memory_orchestrator.embedder import MemoryEmbedders
from sage.service.memory_orchestrator.index.session_index import SessionIndex
from sage.service.memory_orchestrator.index.write_log import AddedMemory
from sage.service.memory_orchestrator.inputs import MemoryInput, Stored
from sage.service.memory_orchestrator.locks import ScopeLocks
from sage.service.memory_orchestrator.reader import MemoryReader
from sage.service.memory_orchestrator.records import NEVER, MemoryRecord, MemoryScope
from sage.service.memory_orchestrator.removal import MemoryRemover
from sage.service.memory_orchestrator.sessions import SessionCache


class MemoryWriter:
    """Changes memories. Each method takes the locks that it needs; its caller holds none."""

    def __init__(
        self,
        collection: MemoryCollection,
        reader: MemoryReader,
        duplicates: DuplicateFinder,
        sessions: SessionCache,
        index: SessionIndex,
        embedders: MemoryEmbedders,
        remover: MemoryRemover,
        clock: WriteClock,
        locks: ScopeLocks,
    ) -> None:
        self._collection = collection
        self._reader = reader
        self._duplicates = duplicates
        self._sessions = sessions
        self._index = index
        self._embedders = embedders
        self._remover = remover
        self._clock = clock
        self._locks = locks

    # Storing

    def store(self, input: MemoryInput) -> Stored:
        """The memory that has this text already, or a new one."""
        has_own_vector = input.vector is not None
        if not has_own_vector and self._duplicates.find(input, self._clock.now()).record is None:
            input = self._embedded(input)
        names = (f"s:{input.session}", f"k:{input.key}") if input.key else (f"s:{input.session}",)
        with self._locks.shared(input.scope.key(), *names):
            now = self._clock.next_write()
            match = self._duplicates.find(input, now)
            if match.record is not None:
                return Stored(self._keep_key(match.record, input), is_new=False)
            record = input.record(match.id, now)
            if input.created is not None:
                record = self._sessions.in_order(record, now)
            record = self._put_turn(self._sessions.with_context(record, now), has_own_vector)
        self._remover.make_room(input.scope, record.id)
        return Stored(record, is_new=True)

    def _embedded(self, input: MemoryInput) -> MemoryInput:
        """Slow: call it before taking a lock."""
        embedder = self._embedders.of(input.scope.tenant, self._collection)
        return replace(input, vector=embedder.embed_content(input.content))

    def _keep_key(self, record: MemoryRecord, input: MemoryInput) -> MemoryRecord:
        """Notes that ``record`` is also what was stored under the input's idempotency key."""
        if not input.key or input.key in record.keys:
            return record
        self._collection.put(record.scope.tenant, [with_key(self._reader.with_vector(record), input)])
        return record

    def _put_turn(self, record: MemoryRecord, has_own_vector: bool) -> MemoryRecord:
        record = self._put_new(record, has_own_vector)
        self._sessions.append(record)
        return record

    def _put_new(self, record: MemoryRecord, has_own_vector: bool) -> MemoryRecord:
        """Writes a new memory, and nothing else."""
        log = self._index.log(record.scope.tenant)
        life = log.begin()
        record = self._put(record, (), has_own_vector)
        log.add(life, AddedMemory.of(record))
        return record

    def _put(self, record: MemoryRecord, others: Sequence[MemoryRecord], has_own_vector: bool) -> MemoryRecord:
        """Writes a new memory together with ``others``. An embedder's vector is dropped when the collection's vectors
        are of another dimension; a caller's own vector is an error then."""
        try:
            self._collection.put(record.scope.tenant, [record, *others])
        except InvalidRequest as exc:
            if exc.code != "wrong_dimension" or has_own_vector:
                raise
            record = replace(record, vector=None)
            self._collection.put(record.scope.tenant, [record, *others])
        return record

    # Correcting

    def correct(self, input: MemoryInput, old_id: str) -> Stored:
        """As :meth:`store`; the memory ``old_id`` is superseded by it. Raises :class:`NotFound`, and
        :class:`Conflict` when the old memory was superseded before."""
        has_own_vector = input.vector is not None
        if not has_own_vector:
            input = self._embedded(input)
        with self._locks.exclusive(input.scope.key()):
            now = self._clock.next_write()
            if input.key and (record := self._duplicates.by_key(input, now)) is not None:
                return Stored(record, is_new=False)
            old = self._reader.correctable(input.scope, old_id)
            if input.matches(old):
                return Stored(old, is_new=False)
            stored = self._correct(input, old, now, has_own_vector)
        self._remover.make_room(input.scope, stored.record.id)
        return stored

    def _correct(self, input: MemoryInput, old: MemoryRecord, now: float, has_own_vector: bool) -> Stored:
        match = self._duplicates.same_text(input.scope, input.session, input.type, input.content, now, except_id=old.id)
        if match.record is not None:
            self._supersede(old, now, match.record.id)
            return Stored(match.record, is_new=False)
        record = replace(input.record(match.id, now), supersedes=old.id)
        changes = self._superseded(old, now, record.id)
        return Stored(self._put_correction(record, changes, has_own_vector), is_new=True)

    def _put_correction(
        self, record: MemoryRecord, changes: Sequence[MemoryRecord], has_own_vector: bool
    ) -> MemoryRecord:
        """Writes ``record`` together with the ``changes`` to the memory that it supersedes."""
        record = self._sessions.with_context_without(record, record.supersedes)
        self._sessions.invalidate(record.scope, [one.session for one in (record, *changes)])
        return self._put(record, changes, has_own_vector)

    def _supersede(self, old: MemoryRecord, now: float, by: str) -> None:
        changes = self._superseded(old, now, by)
        self._sessions.invalidate(old.scope, [record.session for record in changes])
        self._collection.put(old.scope.tenant, changes)

    def _superseded(self, old: MemoryRecord, now: float, by: str) -> list[MemoryRecord]:
        """All records that change when ``old`` is superseded: ``old``, what was derived from it, and the turns that are
        found by its words, which lose them."""
        derived = self._collection.referring(old.scope, "sources", [old.id], vectors=True)
        return [
            old.superseded_copy(now, by),
            *(record.superseded_copy(now, "") for record in derived if record.is_current(now)),
            *self._sessions.rewritten_without(old.scope, [old.id]),
        ]

    # Retiring and restoring

    def retire(self, scope: MemoryScope, id: str) -> bool:
        """Deletes a memory so that :meth:`restore` can bring it back. ``False`` means that it was not current."""
        with self._locks.exclusive(scope.key()):
            now = self._clock.next_write()
            try:
                record = self._reader.get(scope, id, vector=True)
            except NotFound:
                return False
            if record.superseded < NEVER:
                return False
            self._supersede(record, now, "")
            return True

    def restore(self, scope: MemoryScope, id: str) -> str:
        """Makes the text of the memory ``id`` current again. The id of the memory that has it then."""
        with self._locks.exclusive(scope.key()):
            now = self._clock.next_write()
            old = self._reader.get(scope, id, vector=True)
            if old.superseded >= NEVER:
                return id
            latest = self._reader.with_vector(self._reader.history(scope, id)[-1])
            match = self._duplicates.same_text(scope, old.session, old.type, old.content, now)
            if match.record is None:
                return self._restore_as(match.id, old, latest, now).id
            if latest.is_current(now) and latest.id != match.record.id:
                self._supersede(latest, now, match.record.id)
            return match.record.id

    def _restore_as(self, new_id: str, old: MemoryRecord, latest: MemoryRecord, now: float) -> MemoryRecord:
        """A new memory with the text of ``old``, which corrects ``latest``, the last of its history."""
        input = MemoryInput(
            old.scope, old.session, old.content, old.type, old.metadata, old.vector, expires=old.expires
        )
        record = replace(input.record(new_id, now), supersedes=latest.id)
        if latest.is_current(now):
            changes = self._superseded(latest, now, new_id)
        else:  # it was superseded when it was deleted
            changes = [latest.superseded_copy(latest.superseded, new_id)]
        return self._put_correction(record, changes, has_own_vector=False)

    # Memories that do not come from a caller's text

    def store_derived(
        self, scope: MemoryScope, session: str, type: str, content: str, sources: Sequence[str]
    ) -> str | None:
        """Stores what a model made of the memories ``sources``, until the first of them expires. ``None`` means that
        one of them is no longer current, and nothing was stored."""
        vector = self._embedders.of(scope.tenant, self._collection).embed_content(content)
        with self._locks.exclusive(scope.key()):
            now = self._clock.next_write()
            records = [self._collection.get(scope.tenant, source) for source in sources]
            current = [record for record in records if record is not None and record.is_current(now)]
            if len(current) < len(sources):
                return None
            match = self._duplicates.same_text(scope, session, type, content, now)
            if match.record is None:
                expires = min(record.expires for record in current)
                input = MemoryInput(scope, session, content, type, None, vector, expires=expires)
                self._put_new(replace(input.record(match.id, now), sources=tuple(sources)), has_own_vector=False)
        self._remover.make_room(scope, match.id)
        return match.id

    def put_imported(self, tenant: str, records: Sequence[MemoryRecord]) -> int:
        """Writes all of ``records`` as they are, or none; their number."""
        if records:
            self._collection.put(tenant, records)
        for record in records:
            self._sessions.invalidate(record.scope, [record.session])
        for scope in {record.scope for record in records}:
            self._remover.make_room(scope)
        return len(records)
