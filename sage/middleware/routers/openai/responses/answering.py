"""How a response is answered: whole or as events, from a chat or from a server's own response."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import orjson

from sage.middleware.gateway.context.context import Context
from sage.middleware.gateway.gateway import GatewayCall
from sage.middleware.gateway.tools.loop import ToolLoop
from sage.middleware.providers.wire.responses import WIRE
from sage.middleware.routers.http.memory_turn import MakeBody, MakeEvents, in_context
from sage.middleware.routers.http.respond import Events
from sage.middleware.routers.openai.responses import native
from sage.middleware.routers.openai.responses.answer import complete, complete_steps
from sage.middleware.routers.openai.responses.events import ChatStreamEvents, Keep
from sage.middleware.routers.openai.responses.request import ResponsesRequest
from sage.middleware.routers.openai.responses.server_tools import ServerTools
from sage.middleware.routers.openai.responses.writer import EventWriter


class ResponseAnswering:
    """How one response is answered."""

    def __init__(
        self, request: ResponsesRequest, response: dict[str, Any], keep: Keep | None, has_native: bool
    ) -> None:
        """``has_native`` says whether the answer may be a server's own response."""
        self.request = request
        self.response = response
        self.keep = keep
        self.context: Context | None = None
        """The memory of the turn; ``None`` means that there is none."""
        self._has_native = has_native

    def within(self) -> tuple[MakeBody, MakeEvents]:
        """:meth:`whole` and :meth:`events`, which with a memory show what was recalled, and store the turn."""
        if self.context is None:
            return self.whole, self.events
        return in_context(self.context, self.whole, self.events, inside="response")

    def whole(self, answer: GatewayCall) -> bytes | Awaitable[bytes]:
        """The body of an answer without a stream."""
        parsed = orjson.loads(answer.body)
        if self._has_native and answer.answers_in(WIRE):
            response = native.under_our_id(parsed, self.response)
        else:
            response = complete(self.request, self.response, parsed)
        return orjson.dumps(response) if self.keep is None else self._kept(self.keep, response)

    async def _kept(self, keep: Keep, response: dict[str, Any]) -> bytes:
        await keep(response)
        return orjson.dumps(response)

    def written(self, answer: GatewayCall) -> native.NativeEvents | ChatStreamEvents:
        """What writes the events of a stream."""
        if self._has_native and answer.answers_in(WIRE):
            return native.NativeEvents(self.response, self.keep)
        return ChatStreamEvents(self.request, EventWriter(self.response), self.keep, sender=answer.sender)

    def events(self, answer: GatewayCall) -> Events:
        """The events of a stream."""
        events = self.written(answer)
        return Events(events.translate, events.end, events.error_event)


class ToolAnswering(ResponseAnswering):
    """How a response is answered in which tools of the gateway may run."""

    def __init__(
        self,
        request: ResponsesRequest,
        response: dict[str, Any],
        keep: Keep | None,
        tools: ServerTools,
        lists: list[dict[str, Any]],
    ) -> None:
        super().__init__(request, response, keep, False)
        self._tools = tools
        self._lists = lists

    def whole(self, answer: GatewayCall) -> bytes | Awaitable[bytes]:
        assert isinstance(answer, ToolLoop)
        chat = orjson.loads(answer.body)
        response = complete_steps(self.request, self.response, chat, answer.steps, self._tools, self._lists)
        return orjson.dumps(response) if self.keep is None else self._kept(self.keep, response)

    def written(self, answer: GatewayCall) -> native.NativeEvents | ChatStreamEvents:
        assert isinstance(answer, ToolLoop)
        found = None if self._tools.search is None else self._tools.search.results
        writer = EventWriter(self.response)
        return ChatStreamEvents(self.request, writer, self.keep, found, answer.run, self._lists)
