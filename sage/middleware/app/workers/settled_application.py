"""The owner's application: no answer to a change goes out before all fronts know of the change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sage.middleware.app.inference_routes import INFERENCE_ROUTES
from sage.middleware.routers.http.asgi import ASGIApp, Message, Receive, Scope, Send
from sage.middleware.routers.ollama import inference as ollama

_UNCHANGED = ("GET", "HEAD", "OPTIONS")
_CHANGES_NOTHING = frozenset(route.path for route in INFERENCE_ROUTES) - {route.path for route in ollama.ROUTES}
"""Calls of models. Those of Ollama's load and unload, too."""


class SettledApplication:
    """``app``, behind which every change of rights and models is settled before it is answered."""

    def __init__(self, app: ASGIApp, settle: Callable[[], Awaitable[None]]) -> None:
        self._app = app
        self._settle = settle

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        scope.setdefault("state", {}).setdefault("log", {"worker": 0})
        if scope["method"] in _UNCHANGED or scope["path"] in _CHANGES_NOTHING:
            return self._app(scope, receive, send)
        return self._settled(scope, receive, send)

    async def _settled(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_settled(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._settle()
            await send(message)

        await self._app(scope, receive, send_settled)
