"""One memory, as it lies in the vector service and as callers see it."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from sage.errors import InvalidRequest

NEVER = 1e18
"""The end of what has none, in Unix seconds: a number, so that one comparison decides."""
MAX_CONTENT = 1_000_000
"""Bytes of one memory."""
MAX_METADATA = 16 * 1024
"""Bytes of its metadata as JSON."""
MAX_NAME = 512
"""Characters of a session's, user's, agent's or type's name."""


@dataclass(frozen=True, slots=True)
class MemoryScope:
    """Whose memories. A part that is not given is bound to nobody: what was stored for a user is not found without
    naming that user, and the other way round."""

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
    """``created``, ``expires`` and ``superseded`` are Unix seconds. ``keywords``: the turns before it in its session,
    which it is found by, too. ``sources``: ids of the memories that a fact or summary was made from."""

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
    """The idempotency keys that gave it."""
    uses: tuple[str, ...] = ()
    """Of each key, what was stored under it, and where (:func:`use_of`)."""
    sources: tuple[str, ...] = ()
    keywords: str = ""
    context: tuple[str, ...] = ()
    """Ids of those turns."""
    vector: Sequence[float] | None = None

    def lives(self, now: float) -> bool:
        return self.superseded > now and self.expires > now

    def item(self) -> dict[str, Any]:
        """As the vector service takes it. What the user says stands apart, and can replace nothing of ours."""
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
    def read(cls, tenant: str, item: Mapping[str, Any]) -> MemoryRecord:
        found = item["metadata"]
        start = int(found["start"])
        return cls(
            item["id"],
            MemoryScope(tenant, found["user"] or None, found["agent"] or None),
            found["session"],
            item["text"][start:],
            found["type"],
            orjson.loads(found["metadata"]),
            float(found["created"]),
            float(found["expires"]),
            float(found["superseded"]),
            found["superseded_by"],
            found["supersedes"],
            tuple(found.get("keys") or ()),
            tuple(found.get("uses") or ()),
            tuple(found.get("sources") or ()),
            item["text"][: max(0, start - 1)],
            tuple(found.get("context") or ()),
            item.get("vector"),
        )

    def shown(self) -> dict[str, Any]:
        """``{id, session_id, content, memory_type, metadata, created_at, …}``; what does not apply is left out."""
        shown: dict[str, Any] = {
            "id": self.id,
            "session_id": self.session,
            "content": self.content,
            "memory_type": self.type,
            "metadata": dict(self.metadata),
            "created_at": self.created,
        }
        if self.scope.user is not None:
            shown["user"] = self.scope.user
        if self.scope.agent is not None:
            shown["agent"] = self.scope.agent
        if self.expires < NEVER:
            shown["expires_at"] = self.expires
        if self.superseded < NEVER:
            shown["superseded_at"] = self.superseded
        if self.superseded_by:
            shown["superseded_by"] = self.superseded_by
        if self.supersedes:
            shown["supersedes"] = self.supersedes
        if self.sources:
            shown["sources"] = list(self.sources)
        return shown

    def ended(self, now: float, by: str) -> MemoryRecord:
        return replace(self, superseded=now, superseded_by=by)


def fingerprint(content: str) -> str:
    """The same for texts that differ only in how they are written: composed or not, and spaced how."""
    return hashlib.blake2b(" ".join(unicodedata.normalize("NFC", content).split()).encode(), digest_size=16).hexdigest()


def id_of(scope: MemoryScope, session: str, kind: str, content: str, generation: int) -> str:
    """Of a memory by what it says and where: two processes that store the same meet in one."""
    parts = (scope.user or "", scope.agent or "", session, kind, fingerprint(content), str(generation))
    told = "".join(f"{len(part)}:{part}" for part in parts)
    return "mem_" + hashlib.blake2b(told.encode(), digest_size=12).hexdigest()


def use_of(session: str, content: str) -> str:
    """What an idempotency key stands for."""
    return f"{fingerprint(content)}/{session}"


def check_name(value: Any, param: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_NAME or not is_text(value):
        raise InvalidRequest(f"'{param}' must be a text of 1 to {MAX_NAME} characters", param=param)
    return value


def is_text(value: str) -> bool:
    """Whether it can be written: without a lone surrogate."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_content(content: Any) -> str:
    if not isinstance(content, str) or not content.strip() or not is_text(content):
        raise InvalidRequest("'content' must be a text that says something", param="content")
    if len(content) * 4 > MAX_CONTENT and (size := len(content.encode())) > MAX_CONTENT:
        raise InvalidRequest(f"'content' has {size:,} bytes; a memory has {MAX_CONTENT:,} at most", param="content")
    return content


def check_ttl(ttl: Any) -> float | None:
    if ttl is None:
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not math.isfinite(ttl) or ttl <= 0:
        raise InvalidRequest("'ttl' must be a number of seconds above 0", param="ttl")
    return float(ttl)


def check_metadata(metadata: Any) -> dict[str, Any]:
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise InvalidRequest("'metadata' must be an object", param="metadata")
    try:
        size = len(orjson.dumps(dict(metadata)))
    except (TypeError, ValueError) as exc:
        raise InvalidRequest(f"'metadata' must be JSON: {exc}", param="metadata") from None
    if size > MAX_METADATA:
        raise InvalidRequest(f"'metadata' has {size:,} bytes; {MAX_METADATA:,} at most", param="metadata")
    return dict(metadata)


def check_vector(vector: Any) -> list[float] | None:
    """``vector`` as numbers; its dimension is the collection's matter."""
    from sage.middleware.retrieval.types.documents import check_vector as checked
    from sage.middleware.settings.retrieval import RetrievalLimits

    found = checked(vector, "memory", RetrievalLimits(), "vector")
    numbers: list[float] | None = None if found is None else found.tolist()
    return numbers


def _leaves(metadata: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values that filters can ask for, by path: flat, as every engine keeps them. Null is kept by none."""
    from sage.middleware.retrieval.filters.language import leaves_of

    for path, values in leaves_of(metadata).items():
        known = [value for value in values if isinstance(value, str | int | float)]
        if known:
            yield path, known[0] if len(known) == 1 else known


def importance_of(record: MemoryRecord) -> float:
    """``importance`` of its metadata, 0 to 1; else a half."""
    given = record.metadata.get("importance")
    if isinstance(given, bool) or not isinstance(given, int | float) or given != given:
        return 0.5
    return min(1.0, max(0.0, float(given)))
