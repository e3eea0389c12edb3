"""The services as one caller reaches them: every call is bound to the caller's tenant."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sage.acting_for import acting_for
from sage.errors import Conflict, InvalidRequest, NotFound
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.services.plans import KV, MEMORY, VDB
from sage.middleware.gateway.services.services import GatewayServices

_MAX_PAGE = 1000
"""The highest limit that the memory service takes."""
_OLD_NAMES = ("timestamp", "similarity_score")


class TenantView:
    """The methods of one service, in the tenant of ``principal``, which pays for what they ask of models."""

    service: ClassVar[str]

    def __init__(self, services: GatewayServices, principal: Principal) -> None:
        self._services = services
        self._principal = principal
        self.tenant = principal.tenant
        self.limits = services.settings.limits

    async def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        token = acting_for.set(self._principal)
        try:
            return await self._services.call(self.service, method, *args, tenant=self._principal.tenant, **kwargs)
        finally:
            acting_for.reset(token)

    def check_limit(self, limit: int, param: str = "limit") -> int:
        """``limit`` as it is; raises :class:`InvalidRequest` beyond ``services.limits.max_results``."""
        most = self.limits.max_results
        if not 1 <= limit <= most:
            raise InvalidRequest(f"'{param}' must be from 1 to {most} (services.limits.max_results)", param=param)
        return limit


class KVView(TenantView):
    """The tenant's entries."""

    service = KV

    async def get(self, key: str) -> Any:
        """The value. Raises :class:`NotFound`."""
        missing = secrets.token_hex(16)  # random, so that no stored value is equal to it
        value = await self._call("get", key, missing)
        if value == missing:
            raise NotFound(f"there is no key '{key}'", param="key", code="key_not_found")
        return value

    async def put(self, key: str, value: Any, ttl: float | None) -> None:
        await self._call("put", key, value, ttl)

    async def replace(self, key: str, expected: Any, value: Any, ttl: float | None) -> None:
        """Puts ``value`` in the place of ``expected``; ``None`` means that there is no entry yet.

        Raises :class:`Conflict` when the key holds something else.
        """
        if not await self._call("compare_and_set", key, expected, value, ttl):
            raise Conflict(
                f"the key '{key}' does not hold what was expected; nothing was changed", param="expected",
                code="value_changed",
            )  # fmt: skip

    async def delete(self, key: str) -> bool:
        """Deletes the entry; returns whether there was one."""
        return bool(await self._call("delete", key))

    async def keys(self, prefix: str, limit: int, after: str | None) -> tuple[list[str], str | None]:
        """A page of keys in order, and the ``after`` of the next page."""
        keys: list[str] = await self._call("list_keys", prefix, limit=self.check_limit(limit) + 1, after=after)
        return keys[:limit], keys[limit - 1] if len(keys) > limit else None

    async def clear(self, prefix: str) -> int:
        """Deletes the keys that begin with ``prefix``; returns how many there were."""
        return int(await self._call("clear", prefix))


class VDBView(TenantView):
    """The tenant's collections of vectors."""

    service = VDB

    async def add(self, collection: str, items: Sequence[Mapping[str, Any]]) -> list[str]:
        added: list[str] = await self._call("add", items, collection=collection)
        return added

    async def search(
        self,
        collection: str,
        vector: Sequence[float] | None,
        n_results: int,
        where: Mapping[str, Any] | None,
        text: str | None,
        mode: str | None,
        syntax: str,
        score_threshold: float | None,
    ) -> list[dict[str, Any]]:
        limit = self.check_limit(n_results, "n_results")
        items: list[dict[str, Any]] = await self._call(
            "search",
            vector,
            limit,
            where,
            text=text,
            mode=mode,
            options={"syntax": syntax},
            score_threshold=score_threshold,
            collection=collection,
        )
        return items

    async def get(self, collection: str, id: str, vector: bool) -> dict[str, Any]:
        """Raises :class:`NotFound`."""
        item: dict[str, Any] | None = await self._call("get", id, vector=vector, collection=collection)
        if item is None:
            raise NotFound(f"collection '{collection}' has no item '{id}'", param="id", code="item_not_found")
        return item

    async def page(
        self, collection: str, where: Mapping[str, Any] | None, limit: int, cursor: str | None, vectors: bool
    ) -> dict[str, Any]:
        page: dict[str, Any] = await self._call(
            "list_items", where, limit=self.check_limit(limit), cursor=cursor, vectors=vectors, collection=collection
        )
        return page

    async def update(self, collection: str, id: str, changes: Mapping[str, Any]) -> None:
        """``changes`` has the new ``vector``, ``metadata`` and ``text``, each of which may be left out."""
        await self._call("update", id, **changes, collection=collection)

    async def delete(self, collection: str, ids: Sequence[str] | None, where: Mapping[str, Any] | None = None) -> int:
        return int(await self._call("delete", ids, where, collection=collection))

    async def collections(self) -> list[str]:
        names: list[str] = await self._call("collections")
        return names

    async def drop(self, collection: str) -> None:
        await self._call("drop", collection)


_FORGET_AT_ONCE = 100


class MemoryView(TenantView):
    """The tenant's memories; ``scope`` holds the ``user`` and the ``agent`` that a request names."""

    service = MEMORY

    async def store(self, session_id: str, content: str, **fields: Any) -> str:
        return str(await self._call("store_memory", session_id, content, **fields))

    async def search(self, **fields: Any) -> list[dict[str, Any]]:
        """Raises :class:`sage.errors.PermissionDenied` for a reranker that the caller may not use."""
        self.check_limit(fields.get("limit", 10))
        if (model := fields.get("rerank")) is not None:
            self._principal.require_model(model)
        return _shown_all(await self._call("search_memories", **fields))

    async def get(self, id: str, **scope: Any) -> dict[str, Any]:
        """Raises :class:`NotFound`."""
        memory: dict[str, Any] | None = await self._call("get_memory", id, **scope)
        if memory is None:
            raise NotFound(f"there is no memory '{id}' in this scope", param="id", code="memory_not_found")
        return _shown(memory)

    async def delete(self, id: str, **scope: Any) -> bool:
        return bool(await self._call("delete_memory", id, **scope))

    async def history(self, id: str, **scope: Any) -> list[dict[str, Any]]:
        return _shown_all(await self._call("history", id, **scope))

    async def restore(self, id: str, **scope: Any) -> str:
        return str(await self._call("restore_memory", id, **scope))

    async def sessions(self, limit: int, after: str | None, **scope: Any) -> tuple[list[dict[str, Any]], str | None]:
        """A page of sessions, and the ``after`` of the next page."""
        requested = self._one_more(limit)
        sessions: list[dict[str, Any]] = await self._call("list_sessions", limit=requested, after=after, **scope)
        cursor = _cursor(sessions, limit, requested, "session_id")
        return [_with_count(session) for session in sessions[:limit]], cursor

    async def session(self, session_id: str, **scope: Any) -> dict[str, Any]:
        """Raises :class:`NotFound`."""
        session: dict[str, Any] | None = await self._call("get_session_metadata", session_id, **scope)
        if session is None:
            raise NotFound(f"there is no session '{session_id}'", param="session_id", code="session_not_found")
        return _with_count(session)

    async def turns(
        self, session_id: str, limit: int, after: str | None, memory_type: str | None, **scope: Any
    ) -> tuple[list[dict[str, Any]], str | None]:
        """A page of a session's memories, and the ``after`` of the next page."""
        requested = self._one_more(limit)
        memories: list[dict[str, Any]] = await self._call(
            "get_session_memories", session_id, limit=requested, cursor=after, memory_type=memory_type, **scope
        )
        return _shown_all(memories[:limit]), _cursor(memories, limit, requested, "id")

    def _one_more(self, limit: int) -> int:
        """One more than the page takes, which tells whether there is another page; no more than the service allows."""
        return min(self.check_limit(limit) + 1, _MAX_PAGE)

    async def clear_session(self, session_id: str, **scope: Any) -> int:
        return int(await self._call("clear_session", session_id, **scope))

    async def forget(self, **scope: Any) -> tuple[int, int]:
        """Deletes every session of a scope; how many, and how many memories they had."""
        sessions = memories = 0
        while page := await self._call("list_sessions", limit=_FORGET_AT_ONCE, after=None, **scope):
            for session in page:
                memories += await self.clear_session(session["session_id"], **scope)
            sessions += len(page)
        return sessions, memories


def _cursor(items: Sequence[Mapping[str, Any]], limit: int, requested: int, key: str) -> str | None:
    """The ``after`` of the next page; ``None`` means that this page is the last."""
    more = len(items) > limit or len(items) == requested == limit
    return str(items[limit - 1][key]) if more else None


def _shown_all(memories: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [_shown(memory) for memory in memories]


def _shown(memory: dict[str, Any]) -> dict[str, Any]:
    """A memory as it stands in answers: without the names that only programs of upstream SAGE use."""
    return {name: value for name, value in memory.items() if name not in _OLD_NAMES}


def _with_count(session: Mapping[str, Any]) -> dict[str, Any]:
    """``session`` with the number of its memories as ``count``: ``memories`` is a list of memories over HTTP."""
    return {"count" if name == "memories" else name: value for name, value in session.items()}
