"""The memories that searches have recalled lately, so that an agent that stores one again adds nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sage.errors import SageError
from sage.service.memory_orchestrator.records import MemoryRecord, MemoryScope, fingerprint

_TTL = 86400.0
"""Seconds."""
_MIN_LENGTH = 20
"""Characters. People say a shorter text twice and mean it both times ("yes, please")."""


class RecentlyRecalled:
    """Entries in a key-value service, which is a :class:`KVService` or a proxy of one. An entry holds the fingerprint
    of a text and the memory's id, for a day. Where that service fails, nothing counts as recalled."""

    def __init__(self, kv: Any, collection: str) -> None:
        self._kv = kv
        self._takes_many = hasattr(kv, "put_many")
        self._collection = collection

    def add(self, scope: MemoryScope, records: Sequence[MemoryRecord]) -> None:
        prefix = self._prefix(scope)
        entries = {
            prefix + fingerprint(record.content): record.id for record in records if len(record.content) >= _MIN_LENGTH
        }
        if not entries:
            return
        with suppress(SageError):
            if self._takes_many:  # one write, and one crossing of the service's queue
                self._kv.put_many(entries, _TTL, tenant=scope.tenant)
                return
            for key, id in entries.items():
                self._kv.put(key, id, _TTL, tenant=scope.tenant)

    def id_of(self, scope: MemoryScope, content: str) -> str | None:
        """The id of the memory that was recalled with this text."""
        if len(content) < _MIN_LENGTH:
            return None
        try:
            id: str | None = self._kv.get(self._prefix(scope) + fingerprint(content), tenant=scope.tenant)
        except SageError:
            return None
        return id

    def remove(self, scope: MemoryScope, contents: Sequence[str]) -> None:
        prefix = self._prefix(scope)
        for content in contents:
            self._kv.delete(prefix + fingerprint(content), tenant=scope.tenant)

    def _prefix(self, scope: MemoryScope) -> str:
        owner = hashlib.blake2b(repr(scope.key()).encode(), digest_size=12).hexdigest()
        return f"memory/{self._collection}/recalled/{owner}/"
