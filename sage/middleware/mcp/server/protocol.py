"""What the gateway says as an MCP server, through the official SDK: its tools, those of other servers, collections.

It keeps nothing of a client: each request carries its credential, whose scopes and tenant hold for that call alone. So
a key that is revoked is refused with its next request, and no session of one caller can be another's.
"""

from __future__ import annotations

import logging
from typing import Any

import mcp_types as types
import orjson
from mcp.server.lowlevel.server import Server
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel

from sage.errors import NotFound, SageError
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.mcp.client.results import bounded_result
from sage.middleware.mcp.client.servers import McpServers, OfferedTool
from sage.middleware.mcp.server.gateway_tools import GATEWAY_TOOLS, GatewayTool, ToolRequest
from sage.middleware.mcp.server.resources import TEMPLATES, list_collections, read_resource, uri_of

_log = logging.getLogger(__name__)
_BY_NAME = {tool.name: tool for tool in GATEWAY_TOOLS}
_PAGE = 100
_INSTRUCTIONS = (
    "A team's LLM gateway: search its documents, keep memories and entries, ask its models, and call the tools of the "
    "servers behind it (their names begin with the server's, then two underscores). Collections are resources."
)


class McpHandlers:
    """The handlers of one gateway. ``servers`` are those whose tools it offers beside its own."""

    def __init__(self, gateway: Gateway, servers: McpServers | None) -> None:
        self._gateway = gateway
        self._servers = servers

    def server(self, version: str) -> Server[Any]:
        """The SDK's server over these handlers."""
        return Server(
            "sage",
            version=version,
            title="SAGE Middleware",
            instructions=_INSTRUCTIONS,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
        )

    async def _list_tools(self, ctx: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        principal = _caller(ctx)
        tools = [_described(tool) for tool in GATEWAY_TOOLS if tool.scope in principal.scopes]
        if self._servers is not None:
            tools += [_offered(tool) for tool in await self._servers.offered(principal)]
        tools.sort(key=lambda tool: ("__" in tool.name, tool.name))
        after = params.cursor if params is not None else None
        if after is not None:
            names = [tool.name for tool in tools]
            if after not in names:
                raise MCPError(types.INVALID_PARAMS, "this cursor is of no list of tools; ask without one")
            tools = tools[names.index(after) + 1 :]
        following = tools[_PAGE - 1].name if len(tools) > _PAGE else None
        return types.ListToolsResult(tools=tools[:_PAGE], next_cursor=following)

    async def _call_tool(self, ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        principal, arguments = _caller(ctx), params.arguments or {}
        tool = _BY_NAME.get(params.name)
        try:
            if tool is None:
                return await self._of_server(principal, params.name, arguments)
            if tool.scope not in principal.scopes:
                raise _NoSuchTool(params.name)
            answer = await tool.run(ToolRequest(self._gateway, principal, arguments, ctx.request.scope))
        except _NoSuchTool as exc:
            raise MCPError(types.INVALID_PARAMS, exc.message) from None
        except SageError as exc:
            return failed(exc.message)
        except MCPError:
            raise
        except Exception:
            _log.exception("the tool '%s' failed", params.name)
            return failed("an internal error of the gateway; its log has more")
        text = types.TextContent(type="text", text=orjson.dumps(answer).decode())
        return types.CallToolResult(content=[text], structured_content=answer)

    async def _of_server(self, principal: Principal, name: str, arguments: dict[str, Any]) -> types.CallToolResult:
        offered = await self._servers.offered(principal) if self._servers is not None else []
        tool = next((each for each in offered if each.name == name), None)
        if tool is None or self._servers is None:
            raise _NoSuchTool(name)
        result = await self._servers.run(principal, tool, arguments)
        return types.CallToolResult.model_validate(bounded_result(result, self._servers.most_of(tool.server)))

    async def _list_resources(self, ctx: Any, params: types.PaginatedRequestParams | None) -> types.ListResourcesResult:
        principal = _caller(ctx)
        if Scope.SEARCH not in principal.scopes:
            return types.ListResourcesResult(resources=[])
        page, following = await list_collections(self._gateway, principal, params.cursor if params else None)
        return types.ListResourcesResult(resources=[_resource(each) for each in page], next_cursor=following)

    async def _list_templates(
        self, ctx: Any, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        is_reader = Scope.SEARCH in _caller(ctx).scopes
        templates = [
            types.ResourceTemplate(name=name, title=title, uri_template=template, description=description)
            for name, title, template, description in (TEMPLATES if is_reader else ())
        ]
        return types.ListResourceTemplatesResult(resource_templates=templates)

    async def _read_resource(self, ctx: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        principal, uri = _caller(ctx), str(params.uri)
        try:
            principal.require(Scope.SEARCH)
            found = await read_resource(self._gateway, principal, uri)
        except SageError as exc:
            code = types.INVALID_PARAMS if exc.status < 500 else types.INTERNAL_ERROR
            raise MCPError(code, exc.message, {"uri": uri} if isinstance(exc, NotFound) else None) from None
        content = types.TextResourceContents(uri=uri, mime_type=found.mime_type, text=found.text)
        return types.ReadResourceResult(contents=[content])


class _NoSuchTool(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f"there is no tool '{name[:100]}' for this credential; tools/list says which there are")


def failed(message: str) -> types.CallToolResult:
    """The result of a tool that failed; the model reads the message."""
    return types.CallToolResult(content=[types.TextContent(type="text", text=message)], is_error=True)


def _caller(ctx: Any) -> Principal:
    principal = ctx.request.scope["state"]["principal"]
    assert isinstance(principal, Principal)
    return principal


def _described(tool: GatewayTool) -> types.Tool:
    hints = types.ToolAnnotations(
        title=tool.title,
        read_only_hint=not tool.changes and tool.repeatable,
        destructive_hint=tool.name == "kv_put",
        idempotent_hint=tool.repeatable,
        open_world_hint=tool.name == "generate",
    )
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=_schema(tool.takes, "validation"),
        output_schema=_schema(tool.gives, "serialization"),
        annotations=hints,
    )


def _schema(model: type[BaseModel], mode: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {}, **model.model_json_schema(mode=mode)}


def _resource(described: dict[str, Any]) -> types.Resource:
    name, count = described["name"], described.get("documents")
    text = f"{count} documents" if count is not None else described.get("error") or "a collection"
    return types.Resource(name=name, title=name, uri=uri_of(name), description=str(text), mime_type="application/json")


def _offered(tool: OfferedTool) -> types.Tool:
    return types.Tool.model_validate(tool.shown)
