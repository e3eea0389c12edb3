"""What searches have recalled lately, so that an agent that stores it again adds nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from sage.kernels.runtime.services.callers import ServiceProxy
from sage.service.memory_orchestrator.records import MemoryRecord, MemoryScope, fingerprint

_DAY = 86400.0
_SHORT = 20
"""Characters under which a text may well be said anew ("yes, please")."""


class RecentlyRecalled:
    """Marks in a key-value service, own or called: of each text its fingerprint alone, for a day."""

    def __init__(self, kv: Any, collection: str) -> None:
        self._kv = kv
        self._collection = collection

    def note(self, scope: MemoryScope, records: Sequence[MemoryRecord]) -> None:
        marks = [(self._key(scope, one.content), one.id, _DAY) for one in records if len(one.content) >= _SHORT]
        if not marks:
            return
        if isinstance(self._kv, ServiceProxy):
            self._kv.put.starmap(marks, tenant=scope.tenant)  # all in one crossing of its queue
            return
        for mark in marks:
            self._kv.put(*mark, tenant=scope.tenant)

    def find(self, scope: MemoryScope, content: str) -> str | None:
        """The id of the memory that was recalled with this text."""
        if len(content) < _SHORT:
            return None
        found: str | None = self._kv.get(self._key(scope, content), tenant=scope.tenant)
        return found

    def forget(self, scope: MemoryScope, contents: Sequence[str]) -> None:
        for content in contents:
            self._kv.delete(self._key(scope, content), tenant=scope.tenant)

    def _key(self, scope: MemoryScope, content: str) -> str:
        owner = hashlib.blake2b(repr(scope.key()).encode(), digest_size=12).hexdigest()
        return f"memory/{self._collection}/recalled/{owner}/{fingerprint(content)}"
