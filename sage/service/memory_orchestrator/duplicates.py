"""Finding the memory that a new one would repeat: by its idempotency key, by its text, or because it was recalled."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from sage.errors import Conflict
from sage.service.memory_orchestrator.collection import MemoryCollection
from sage.service.memory_orchestrator.inputs import MemoryInput
from sage.service.memory_orchestrator.recently_recalled import RecentlyRecalled
from sage.service.memory_orchestrator.records import MemoryRecord, MemoryScope, memory_id

_MOST_GENERATIONS = 512
"""Read at a time."""


class TextMatch(NamedTuple):
    """``id`` is the id of a new memory with the text. ``record`` is the memory that has the text already; ``None``
    means that there is none."""

    id: str
    record: MemoryRecord | None


class DuplicateFinder:
    def __init__(self, collection: MemoryCollection, recalled: RecentlyRecalled) -> None:
        self._collection = collection
        self._recalled = recalled

    def find(self, input: MemoryInput, now: float) -> TextMatch:
        """The memory under the input's idempotency key; else the one of the same text in its session; else one that a
        search has recalled lately, anywhere in its scope. Raises :class:`Conflict` as :meth:`by_key`."""
        if input.key and (record := self.by_key(input, now)) is not None:
            return TextMatch(record.id, record)
        match = self.same_text(input.scope, input.session, input.type, input.content, now)
        if match.record is not None:
            return match
        return TextMatch(match.id, self._recalled_lately(input, now))

    def by_key(self, input: MemoryInput, now: float) -> MemoryRecord | None:
        """Raises :class:`Conflict` when the idempotency key was used for another text or session."""
        where = {**input.scope.filter(), "keys": input.key, "expires": {"$gt": now}}
        record = next(iter(self._collection.all(input.scope.tenant, where)), None)
        if record is not None and record.uses[record.keys.index(input.key)] != input.key_use:
            raise Conflict(
                f"the idempotency key '{input.key}' was used for another memory ('{record.id}'); take a new one",
                param="idempotency_key",
                code="idempotency_key_reused",
            )
        return record

    def same_text(
        self, scope: MemoryScope, session: str, type: str, content: str, now: float, *, except_id: str = ""
    ) -> TextMatch:
        """The current memory of this text and type in this session. The memory ``except_id`` does not count."""
        first, size = 0, 1
        while True:  # a text that is corrected back and forth has many generations: they are read in growing groups
            ids = [memory_id(scope, session, type, content, first + offset) for offset in range(size)]
            records = self._collection.find(scope.tenant, [id for id in ids if id != except_id])
            for id in ids:
                record = records.get(id)
                if id == except_id:
                    continue
                if record is None or record.expires <= now:
                    return TextMatch(id, None)
                if record.superseded > now:
                    return TextMatch(id, record)
            first, size = first + size, min(8 * size, _MOST_GENERATIONS)

    def _recalled_lately(self, input: MemoryInput, now: float) -> MemoryRecord | None:
        """The memory that an agent repeats when it stores a search result as a turn, or with the result's own type."""
        id = self._recalled.id_of(input.scope, input.content)
        record = None if id is None else self._collection.get(input.scope.tenant, id)
        if record is None or not record.is_current(now) or input.type not in (record.type, "conversation"):
            return None
        return record


def with_key(record: MemoryRecord, input: MemoryInput) -> MemoryRecord:
    """``record`` with the input's idempotency key among its keys."""
    return replace(record, keys=(*record.keys, input.key), uses=(*record.uses, input.key_use))
