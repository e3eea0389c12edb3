"""One memory: as it is stored in the vector service, and as callers see it."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from sage.middleware.retrieval.filters.language import leaves_of
from sage.service.memory_orchestrator.checks import check_name

NEVER = 1e18
"""Unix seconds that mean "no end": a number, so that a filter needs one comparison only."""


@dataclass(frozen=True, slots=True)
class MemoryScope:
    """Whose memories they are: those of a tenant, and of a user, an agent, both or neither. A scope sees exactly its
    own memories: the scope without a user does not see those of a user, nor the other way round."""

    tenant: str
    user: str | None = None
    agent: str | None = None

    @classmethod
    def of(cls, tenant: Any, user: Any, agent: Any) -> MemoryScope:
        """Raises :class:`InvalidRequest`."""
        for name, value in (("user", user), ("agent", agent)):
            if value is not None:
                check_name(value, name)
        return cls(tenant, user, agent)

    def filter(self) -> dict[str, Any]:
        return {"user": self.user or "", "agent": self.agent or ""}

    def key(self) -> tuple[str, str, str]:
        return self.tenant, self.user or "", self.agent or ""


@dataclass(frozen=True, slots=True)
class MemoryRecord:
    """``created``, ``expires`` and ``superseded`` are Unix seconds, :data:`NEVER` where there is no such time."""

    id: str
    scope: MemoryScope
    session: str
    content: str
    type: str
    metadata: Mapping[str, Any]
    created: float
    expires: float = NEVER
    superseded: float = NEVER
    superseded_by: str = ""
    supersedes: str = ""
    keys: tuple[str, ...] = ()
    """The idempotency keys under which it was stored."""
    uses: tuple[str, ...] = ()
    """For each of ``keys``, the text and session that it stands for (:func:`key_use`)."""
    sources: tuple[str, ...] = ()
    """The ids of the memories that this fact or summary was made from. Other memories have none."""
    keywords: str = ""
    """Its date and the words of the turns before it in its session: searches find it by these, too."""
    context: tuple[str, ...] = ()
    """The ids of these turns."""
    vector: Sequence[float] | None = None

    def is_current(self, now: float) -> bool:
        """Neither superseded nor expired at the time ``now``."""
        return self.superseded > now and self.expires > now

    def to_item(self) -> dict[str, Any]:
        """As the vector service takes it. The caller's metadata is kept under ``metadata`` and ``meta.…``, so that it
        can replace none of our own fields."""
        text = f"{self.keywords}\n{self.content}" if self.keywords else self.content
        item: dict[str, Any] = {
            "id": self.id,
            "text": text,
            "metadata": {
                **self.scope.filter(),
                "session": self.session,
                "type": self.type,
                "start": len(text) - len(self.content),
                "created": self.created,
                "expires": self.expires,
                "superseded": self.superseded,
                "superseded_by": self.superseded_by,
                "supersedes": self.supersedes,
                "metadata": orjson.dumps(dict(self.metadata)).decode(),
                **{f"meta.{path}": value for path, value in _leaves(self.metadata)},
            },
        }
        for name, ids in (
            ("sources", self.sources),
            ("context", self.context),
            ("keys", self.keys),
            ("uses", self.uses),
        ):
            if ids:  # Chroma keeps no empty lists
                item["metadata"][name] = list(ids)
        if self.vector is not None:
            item["vector"] = list(self.vector)
        return item

    @classmethod
    def from_item(cls, tenant: str, item: Mapping[str, Any]) -> MemoryRecord:
        metadata = item["metadata"]
        start = int(metadata["start"])
        return cls(
            item["id"],
            MemoryScope(tenant, metadata["user"] or None, metadata["agent"] or None),
            metadata["session"],
            item["text"][start:],
            metadata["type"],
            orjson.loads(metadata["metadata"]),
            float(metadata["created"]),
            float(metadata["expires"]),
            float(metadata["superseded"]),
            metadata["superseded_by"],
            metadata["supersedes"],
            tuple(metadata.get("keys") or ()),
            tuple(metadata.get("uses") or ()),
            tuple(metadata.get("sources") or ()),
            item["text"][: max(0, start - 1)],
            tuple(metadata.get("context") or ()),
            item.get("vector"),
        )

    def to_dict(self) -> dict[str, Any]:
        """``{id, session_id, content, memory_type, metadata, created_at, timestamp, …}``; what does not apply is left
        out. ``timestamp`` is ``created_at`` by upstream SAGE's name."""
        fields: dict[str, Any] = {
            "id": self.id,
            "session_id": self.session,
            "content": self.content,
            "memory_type": self.type,
            "metadata": dict(self.metadata),
            "created_at": self.created,
            "timestamp": self.created,
        }
        if self.scope.user is not None:
            fields["user"] = self.scope.user
        if self.scope.agent is not None:
            fields["agent"] = self.scope.agent
        if self.expires < NEVER:
            fields["expires_at"] = self.expires
        if self.superseded < NEVER:
            fields["superseded_at"] = self.superseded
        if self.superseded_by:
            fields["superseded_by"] = self.superseded_by
        if self.supersedes:
            fields["supersedes"] = self.supersedes
        if self.sources:
            fields["sources"] = list(self.sources)
        return fields

    def superseded_copy(self, now: float, by: str) -> MemoryRecord:
        """The memory as superseded by the one of the id ``by``; an empty ``by`` means that it was deleted."""
        return replace(self, superseded=now, superseded_by=by)


def fingerprint(content: str) -> str:
    """Equal for texts that differ only in white space or in how their characters are composed (Unicode NFC)."""
    return hashlib.blake2b(" ".join(unicodedata.normalize("NFC", content).split()).encode(), digest_size=16).hexdigest()


def memory_id(scope: MemoryScope, session: str, kind: str, content: str, generation: int) -> str:
    """Made from the text and where it is stored, so that two processes that store the same make one memory.

    ``generation`` counts up while memories of lower generations hold the text but are no longer current.
    """
    parts = (scope.user or "", scope.agent or "", session, kind, fingerprint(content), str(generation))
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return "mem_" + hashlib.blake2b(joined.encode(), digest_size=12).hexdigest()


def key_use(session: str, content: str) -> str:
    """What an idempotency key stands for: a text in a session."""
    return f"{fingerprint(content)}/{session}"


def _leaves(metadata: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values that filters can ask for, by path: flat and without null, so that every engine can store them."""
    for path, values in leaves_of(metadata).items():
        storable = [value for value in values if isinstance(value, str | int | float)]
        if storable:
            yield path, storable[0] if len(storable) == 1 else storable


def importance_of(record: MemoryRecord) -> float:
    """``importance`` of its metadata, 0 to 1; 0.5 without one."""
    importance = record.metadata.get("importance")
    if isinstance(importance, bool) or not isinstance(importance, int | float) or math.isnan(importance):
        return 0.5
    return min(1.0, max(0.0, float(importance)))
