"""``/mcp/servers``: the MCP servers behind the gateway, their tools, and which of these are accepted."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from sage.errors import InvalidRequest, NotFound
from sage.middleware.auth.principal import Scope
from sage.middleware.mcp.client.servers import McpServers
from sage.middleware.routers.http.deps import AuditNote, Caller
from sage.middleware.routers.http.guard import guarded_router, requires

router = guarded_router("MCP", prefix="/mcp/servers")


class McpServerShown(BaseModel):
    """An MCP server. `error` says why it cannot be asked now; `held` how many of its tools wait to be accepted;
    `left_out` why some of its tools are never offered."""

    name: str
    transport: str
    state: str = Field(description="`up` or `down`.")
    error: str | None
    tools: int
    held: int
    left_out: list[str]


class McpServersShown(BaseModel):
    """The MCP servers of the configuration."""

    servers: list[McpServerShown]


class McpToolShown(BaseModel):
    """A tool as its server offers it now. `state`: `accepted`, `new` (never accepted), `changed` (since it was), or
    `gone` (not offered any more). `name` is how clients and models call it; `digest` is SHA-256 of its definition."""

    name: str
    tool: str
    state: str
    digest: str
    accepted_digest: str | None
    accepted_at: int | None
    accepted_by: str | None
    definition: dict[str, Any]
    accepted_definition: dict[str, Any] | None = Field(
        description="As it was accepted; null for one that never was, or was before this was kept."
    )


class McpToolsShown(BaseModel):
    """The tools of one server."""

    tools: list[McpToolShown]


class WantedTool(BaseModel):
    """A tool to accept; with `digest` only in the form that was looked at."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tool: str
    digest: str | None = None


class AcceptBody(BaseModel):
    """Which tools to accept: `tools`, or `all`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tools: list[WantedTool] | None = Field(None, max_length=256)
    all: bool = False


class McpToolsAccepted(BaseModel):
    """The tools that were held back before."""

    accepted: list[str]


async def _servers(request: Request) -> McpServers:
    servers = request.app.state.mcp_servers
    assert isinstance(servers, McpServers)
    return servers


TheServers = Annotated[McpServers, Depends(_servers)]


@router.get("", name="mcp_servers")
@requires(Scope.TOOLS)
async def list_servers(servers: TheServers) -> McpServersShown:
    """Each MCP server of the configuration, and whether it can be asked now."""
    return McpServersShown(servers=[McpServerShown(**each) for each in await servers.describe_all()])


@router.get("/{name}/tools", name="mcp_server_tools")
@requires(Scope.TOOLS)
async def list_tools(name: str, servers: TheServers, caller: Caller) -> McpToolsShown:
    """The tools of one server that the caller's key allows, also those that are held back."""
    tools = [tool for tool in await servers.describe(name) if caller.allows_tool(tool["name"])]
    return McpToolsShown(tools=[McpToolShown(**tool) for tool in tools])


@router.post("/{name}/accept", name="mcp_accept")
@requires(Scope.TOOLS_WRITE)
async def accept_tools(
    name: str, body: AcceptBody, servers: TheServers, caller: Caller, note_audit: AuditNote
) -> McpToolsAccepted:
    """Accepts tools as they are offered now. From then on they can be called, until they change again."""
    if body.all == (body.tools is not None):
        raise InvalidRequest("give either 'tools', such as [{\"tool\": \"lookup\"}], or 'all': true", param="tools")
    wanted = None if body.tools is None else {each.tool: each.digest for each in body.tools}
    names = await servers.accept(caller, name, wanted)
    if names:
        await note_audit("mcp.accept", f"mcp:{name}", {"tools": names}, tenant="")
    return McpToolsAccepted(accepted=names)


@router.post("/{name}/refresh", name="mcp_refresh", status_code=202)
@requires(Scope.TOOLS_WRITE)
async def refresh(name: str, servers: TheServers) -> dict[str, str]:
    """Asks the server for its tools soon, or connects to it again."""
    if name not in servers.connections:
        raise NotFound(f"there is no MCP server '{name[:100]}'", param="name")
    servers.connections[name].refresh()
    return {"status": "asked"}
