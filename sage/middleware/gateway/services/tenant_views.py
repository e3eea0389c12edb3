"""The services as one caller reaches them: bound to the caller's tenant, which nothing that is asked can leave."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sage.errors import Conflict, InvalidRequest, NotFound
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.services.plans import KV, MEMORY, VDB
from sage.middleware.gateway.services.services import GatewayServices

_MAX_PAGE = 1000
"""What the memory service takes as a limit."""


class _View:
    """Methods of one service, with the tenant of ``principal``."""

    service: ClassVar[str]

    def __init__(self, services: GatewayServices, principal: Principal) -> None:
        self._services = services
        self._principal = principal
        self.limits = services.settings.limits

    async def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return await self._services.call(self.service, method, *args, tenant=self._principal.tenant, **kwargs)

    def check_limit(self, limit: int, param: str = "limit") -> int:
        """``limit`` as it is; raises :class:`InvalidRequest` beyond ``services.limits.max_results``."""
        most = self.limits.max_results
        if not 1 <= limit <= most:
            raise InvalidRequest(f"'{param}' must be from 1 to {most} (services.limits.max_results)", param=param)
        return limit


class KVView(_View):
    """The tenant's entries."""

    service = KV

    async def get(self, key: str) -> Any:
        """The value. Raises :class:`NotFound`."""
        nothing = secrets.token_hex(16)  # no value can be what is made up for this call
        value = await self._call("get", key, nothing)
        if value == nothing:
            raise NotFound(f"there is no key '{key}'", param="key", code="key_not_found")
        return value

    async def put(self, key: str, value: Any, ttl: float | None) -> None:
        await self._call("put", key, value, ttl)

    async def replace(self, key: str, expected: Any, value: Any, ttl: float | None) -> None:
        """Puts ``value`` where ``expected`` is (``None``: nothing). Raises :class:`Conflict` where it is not."""
        if not await self._call("compare_and_set", key, expected, value, ttl):
            raise Conflict(
                f"the key '{key}' does not hold what was expected; nothing was changed", param="expected",
                code="value_changed",
            )  # fmt: skip

    async def delete(self, key: str) -> bool:
        """Whether it was there."""
        return bool(await self._call("delete", key))

    async def keys(self, prefix: str, limit: int, after: str | None) -> tuple[list[str], str | None]:
        """A page of them, in order, and the ``after`` of the next."""
        found: list[str] = await self._call("list_keys", prefix, limit=self.check_limit(limit) + 1, after=after)
        return found[:limit], found[limit - 1] if len(found) > limit else None

    async def clear(self, prefix: str) -> int:
        """How many there were."""
        return int(await self._call("clear", prefix))


class VDBView(_View):
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
    ) -> list[dict[str, Any]]:
        limit = self.check_limit(n_results, "n_results")
        found: list[dict[str, Any]] = await self._call(
            "search", vector, limit, where, text=text, mode=mode, collection=collection
        )
        return found

    async def get(self, collection: str, id: str, vector: bool) -> dict[str, Any]:
        found: dict[str, Any] = await self._call("get", id, vector=vector, collection=collection)
        return found

    async def page(
        self, collection: str, where: Mapping[str, Any] | None, limit: int, cursor: str | None, vectors: bool
    ) -> dict[str, Any]:
        found: dict[str, Any] = await self._call(
            "list_items", where, limit=self.check_limit(limit), cursor=cursor, vectors=vectors, collection=collection
        )
        return found

    async def update(self, collection: str, id: str, changes: Mapping[str, Any]) -> None:
        """``changes``: of ``vector``, ``metadata`` and ``text`` what is to be changed."""
        await self._call("update", id, **changes, collection=collection)

    async def delete(self, collection: str, ids: Sequence[str] | None, where: Mapping[str, Any] | None = None) -> int:
        return int(await self._call("delete", ids, where, collection=collection))

    async def collections(self) -> list[str]:
        found: list[str] = await self._call("collections")
        return found

    async def drop(self, collection: str) -> None:
        await self._call("drop", collection)


class MemoryView(_View):
    """The tenant's memories; ``scope`` is what a request names of ``user`` and ``agent``."""

    service = MEMORY

    async def store(self, session_id: str, content: str, **fields: Any) -> str:
        return str(await self._call("store_memory", session_id, content, **fields))

    async def search(self, **fields: Any) -> list[dict[str, Any]]:
        """Raises :class:`sage.errors.PermissionDenied` for a reranker that the caller does not reach."""
        self.check_limit(fields.get("limit", 10))
        if (model := fields.get("rerank")) is not None:
            self._principal.require_model(model)
        found: list[dict[str, Any]] = await self._call("search_memories", **fields)
        return found

    async def get(self, id: str, **scope: Any) -> dict[str, Any]:
        found: dict[str, Any] = await self._call("get_memory", id, **scope)
        return found

    async def delete(self, id: str, **scope: Any) -> bool:
        return bool(await self._call("delete_memory", id, **scope))

    async def history(self, id: str, **scope: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self._call("history", id, **scope)
        return found

    async def restore(self, id: str, **scope: Any) -> str:
        return str(await self._call("restore_memory", id, **scope))

    async def sessions(self, limit: int, after: str | None, **scope: Any) -> tuple[list[dict[str, Any]], str | None]:
        """A page of them, and the ``after`` of the next."""
        asked = self._asked(limit)
        found: list[dict[str, Any]] = await self._call("list_sessions", limit=asked, after=after, **scope)
        return [_counted(session) for session in found[:limit]], _following(found, limit, asked, "session_id")

    async def session(self, session_id: str, **scope: Any) -> dict[str, Any]:
        return _counted(await self._call("get_session_metadata", session_id, **scope))

    async def turns(
        self, session_id: str, limit: int, after: str | None, memory_type: str | None, **scope: Any
    ) -> tuple[list[dict[str, Any]], str | None]:
        """A page of a session's memories, and the ``after`` of the next."""
        asked = self._asked(limit)
        found: list[dict[str, Any]] = await self._call(
            "get_session_memories", session_id, limit=asked, cursor=after, memory_type=memory_type, **scope
        )
        return found[:limit], _following(found, limit, asked, "id")

    def _asked(self, limit: int) -> int:
        """One more than the page takes, which tells whether there is another; of the longest, that cannot be asked."""
        return min(self.check_limit(limit) + 1, _MAX_PAGE)

    async def clear_session(self, session_id: str, **scope: Any) -> int:
        return int(await self._call("clear_session", session_id, **scope))


def _following(found: Sequence[Mapping[str, Any]], limit: int, asked: int, key: str) -> str | None:
    more = len(found) > limit or len(found) == asked == limit
    return str(found[limit - 1][key]) if more else None


def _counted(session: Mapping[str, Any]) -> dict[str, Any]:
    """How many memories it has is its ``count``: ``memories`` are themselves."""
    return {"count" if name == "memories" else name: value for name, value in session.items()}
