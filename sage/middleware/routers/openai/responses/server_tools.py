"""The tools that the gateway runs itself in a response: ``file_search`` over vector stores, and tools of MCP servers.

Source: OpenAI's API reference (responses, *File search*, *MCP tool*, and their items and events).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.tools.loop import DEFAULT_TURNS, WithTools
from sage.middleware.gateway.tools.mcp_request import parse_mcp_tool, with_mcp
from sage.middleware.gateway.tools.server_tool import ServerTool, ToolRun
from sage.middleware.gateway.tools.tool_servers import McpRequest
from sage.middleware.gateway.vector_stores.file_search import FileSearch
from sage.middleware.routers.openai.responses import approvals, resource
from sage.middleware.routers.openai.responses.request import SEARCH_RESULTS, ResponsesRequest


class ServerTools:
    """Those of one response."""

    def __init__(self, search: FileSearch | None, answering: WithTools) -> None:
        self.search = search
        self.answering = answering
        """Asks the model, and runs the tools."""
        self.names = frozenset(answering.tools)

    @property
    def found(self) -> Sequence[dict[str, Any]]:
        """What has been found so far, with the marks to cite it by."""
        return () if self.search is None else self.search.results

    def lists(self, request: ResponsesRequest, earlier: Sequence[Any], response: str) -> list[dict[str, Any]]:
        """An item for each server whose tools the conversation has not been told of yet."""
        told = {
            item.get("server_label")
            for item in (*earlier, *request.input)
            if isinstance(item, dict) and item.get("type") == "mcp_list_tools"
        }
        servers: dict[str, list[dict[str, Any]]] = {}
        for tool in self.answering.tools.values():
            if tool.origin["type"] == "mcp" and tool.origin["server"] not in told:
                servers.setdefault(tool.origin["server"], []).append(_listed(tool))
        return [
            {
                **{"id": resource.item_id("mcpl", response, number), "type": "mcp_list_tools"},
                **{"server_label": server, "tools": tools, "error": None},
            }
            for number, (server, tools) in enumerate(servers.items())
        ]


async def open_tools(gateway: Gateway, principal: Principal, request: ResponsesRequest) -> ServerTools:
    """The tools that ``request`` names. Raises :class:`InvalidRequest`, :class:`sage.errors.NotFound` and
    :class:`sage.errors.PermissionDenied`, naming the field, for what is not there for the caller."""
    gateway.run_tools_here()
    search: FileSearch | None = None
    servers: list[McpRequest] = []
    for place, tool in request.tools.own:
        if tool["type"] == "mcp":
            servers.append(parse_mcp_tool(tool, place))
        elif search is not None:
            raise InvalidRequest("give one 'file_search' with all its 'vector_store_ids'", param=place)
        else:
            search = FileSearch.of(gateway.stores, tool, gateway.retrieval.source_tokens, place=place)
            await search.check(principal)
    others: list[ServerTool] = [] if search is None else [search]
    if servers:
        answering = await with_mcp(gateway, principal, servers, others, separator="", beside=True)
    else:
        answering = WithTools(gateway, others, separator="", beside=True)
    await _read_approvals(gateway, principal, request, answering)
    most = request.body.get("max_tool_calls")
    answering.turns = min(answering.turns or DEFAULT_TURNS, (most or DEFAULT_TURNS) + 1)
    _choose(request, answering)
    return ServerTools(search, answering)


async def _read_approvals(
    gateway: Gateway, principal: Principal, request: ResponsesRequest, answering: WithTools
) -> None:
    """What the caller has approved, and what asks it."""
    tools = {(tool.origin.get("server"), tool.origin.get("tool")): tool for tool in answering.tools.values()}
    for call in request.approved:
        tool = tools.get((call.asked["server_label"], call.asked["name"]))
        if tool is None:
            raise InvalidRequest(
                f"'{call.place}' approves a call of '{call.asked['name']}' of '{call.asked['server_label']}', which "
                "this request does not offer: name the server in 'tools' again",
                param="tools",
            )
        run = ToolRun(call.call_id, tool, call.asked["arguments"] or "{}", approval=call.asked["id"])
        answering.approved = [*answering.approved, run]
    if any(tool.needs_approval for tool in answering.tools.values()):
        secret = None if request.store else await approvals.sealing_secret(gateway.responses)
        request.approvals = approvals.Approvals(principal.tenant, secret)


def _choose(request: ResponsesRequest, answering: WithTools) -> None:
    """Translates the choice of one of these tools."""
    choice, chat = request.body.get("tool_choice"), request.chat
    if isinstance(choice, str):
        chat["tool_choice"] = choice
        return
    if not isinstance(choice, dict) or choice.get("type") not in ("file_search", "mcp"):
        return
    wanted = [
        name
        for name, tool in answering.tools.items()
        if tool.origin["type"] == choice["type"]
        and choice.get("server_label") in (None, tool.origin.get("server"))
        and choice.get("name") in (None, tool.origin.get("tool"))
    ]
    if not wanted:
        raise InvalidRequest("'tool_choice' names no tool of this request", param="tool_choice")
    one = {"type": "function", "function": {"name": wanted[0]}}
    chat["tool_choice"] = one if len(wanted) == 1 else "required"


def _listed(tool: ServerTool) -> dict[str, Any]:
    function = tool.definition["function"]
    return {
        "name": tool.origin["tool"],
        "description": function.get("description"),
        "input_schema": function.get("parameters") or {"type": "object"},
        "annotations": None,
    }


def is_search(run: ToolRun) -> bool:
    """Whether ``run`` is one of ``file_search``, and not of an MCP server."""
    return bool(run.tool.origin["type"] == "file_search")


def run_item(request: ResponsesRequest, response: str, number: int, run: ToolRun) -> dict[str, Any]:
    """The item of a run that has ended, begins, or waits for the caller's approval."""
    if run.status == "needs_approval":
        assert request.approvals is not None
        return request.approvals.item(response, number, run)
    output, failed = run.output, run.status == "failed"
    if is_search(run):
        status = "searching" if output is None else "failed" if failed else "completed"
        details = output.details if output is not None and isinstance(output.details, dict) else {}
        results = [
            {name: value for name, value in result.items() if name != "mark"} for result in details.get("results", ())
        ]
        shown = results if SEARCH_RESULTS in request.include and output is not None else None
        name = resource.item_id("fs", response, number)
        head = {"id": name, "type": "file_search_call", "status": status}
        return {**head, "queries": details.get("queries", []), "results": shown}
    item: dict[str, Any] = {
        **{"id": resource.item_id("mcp", response, number), "type": "mcp_call"},
        **{"server_label": run.tool.origin["server"], "name": run.tool.origin["tool"]},
        "approval_request_id": run.approval,
        **{"arguments": run.arguments if output is not None else "", "output": None, "error": None},
        "status": "in_progress" if output is None else "failed" if failed else "completed",
    }
    if output is not None and failed:
        item["error"] = {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": output.text}]}
    elif output is not None:
        item["output"] = output.text
    return item
