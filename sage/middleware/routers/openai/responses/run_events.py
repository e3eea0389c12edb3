"""The events of runs of the gateway's tools: their items come one after the other, in the order of the calls."""

from __future__ import annotations

from typing import Any

from sage.middleware.gateway.tools.server_tool import ToolRun
from sage.middleware.routers.openai.responses.request import ResponsesRequest
from sage.middleware.routers.openai.responses.server_tools import is_search, run_item
from sage.middleware.routers.openai.responses.writer import EventWriter


class RunEvents:
    """Tells of the runs of one response. Several may run at a time; each is shown once those before it have ended."""

    def __init__(self, request: ResponsesRequest, writer: EventWriter) -> None:
        self._request = request
        self._writer = writer
        self._waiting: list[ToolRun] = []
        """Runs that have not ended, or are not shown yet, in the order of their calls."""
        self._is_shown = False
        """Whether the first of them has begun as an item."""

    def lists(self, items: list[dict[str, Any]]) -> bytes:
        """The tools of servers, which the model is told of."""
        events = b""
        for item in items:
            place = {"item_id": item["id"], "output_index": len(self._writer.output)}
            events += self._writer.added({**item, "tools": []})
            events += self._writer.event("response.mcp_list_tools.in_progress", **place)
            events += self._writer.event("response.mcp_list_tools.completed", **place)
            events += self._writer.done(item)
        return events

    def changed(self, run: ToolRun) -> bytes:
        """``run`` has begun, or has ended; or it waits for the caller's approval, and all others have ended."""
        if run.status == "needs_approval":
            item = run_item(self._request, self._writer.response["id"], len(self._writer.output), run)
            return self._writer.added(item) + self._writer.done(item)
        if run not in self._waiting:
            self._waiting.append(run)
        events = b""
        while self._waiting:
            first = self._waiting[0]
            if not self._is_shown:
                self._is_shown = True
                events += self._begun(first)
            if first.output is None:
                break
            events += self._ended(first)
            self._waiting.pop(0)
            self._is_shown = False
        return events

    def _begun(self, run: ToolRun) -> bytes:
        number, event = len(self._writer.output), self._writer.event
        began = ToolRun(run.id, run.tool, run.arguments, approval=run.approval, started=True)
        item = run_item(self._request, self._writer.response["id"], number, began)
        place = {"item_id": item["id"], "output_index": number}
        if is_search(run):
            events = self._writer.added({**item, "status": "in_progress"})
            events += event("response.file_search_call.in_progress", **place)
            return events + event("response.file_search_call.searching", **place)
        events = self._writer.added(item) + event("response.mcp_call.in_progress", **place)
        events += event("response.mcp_call_arguments.delta", **place, delta=run.arguments)
        return events + event("response.mcp_call_arguments.done", **place, arguments=run.arguments)

    def _ended(self, run: ToolRun) -> bytes:
        number = len(self._writer.output)
        item = run_item(self._request, self._writer.response["id"], number, run)
        kind = "file_search_call" if is_search(run) else "mcp_call"
        end = "failed" if run.status == "failed" and kind == "mcp_call" else "completed"
        place = {"item_id": item["id"], "output_index": number}
        return self._writer.event(f"response.{kind}.{end}", **place) + self._writer.done(item)
