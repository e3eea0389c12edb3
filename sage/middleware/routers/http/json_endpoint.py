"""What reads the JSON object of a request on the gateway's hottest way: plain ASGI, without a coroutine where the body
has come whole, as nearly all do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import Any

from sage.middleware.routers.http.asgi import Receive, Scope, Send, read_json, read_json_at_once


class JsonEndpoint(ABC):
    """An ASGI endpoint that answers a JSON object."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        body = read_json_at_once(receive, scope)
        return self._read(scope, receive, send) if body is None else self._answer(body, scope, receive, send)

    async def _read(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Nothing here holds the body, which the call lets go of once its stream has begun.
        await self._answer(await read_json(receive, scope), scope, receive, send)

    @abstractmethod
    def _answer(self, body: dict[str, Any], scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answers ``body``."""
