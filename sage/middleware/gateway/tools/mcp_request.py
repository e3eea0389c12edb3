"""Which tools of MCP servers a request asks the gateway to run: ``mcp`` in a chat, ``tools`` of type ``mcp`` in
Responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.tools.loop import WithTools
from sage.middleware.gateway.tools.server_tool import ServerTool
from sage.middleware.gateway.tools.tool_servers import McpRequest

_MOST = 16
_NAMES = 256


async def with_mcp(
    gateway: Gateway,
    principal: Principal,
    requests: Sequence[McpRequest],
    others: Sequence[ServerTool] = (),
    *,
    separator: str = "\n\n",
    beside: bool = False,
) -> WithTools:
    """``gateway`` with the tools that a request names, and ``others`` of the gateway (:class:`WithTools`).

    Raises as :meth:`ToolServers.tools_of` does, and :class:`InvalidRequest` where no servers are configured.
    """
    servers = gateway.mcp
    if servers is None:
        raise InvalidRequest("this gateway has no MCP servers (mcp.servers in its configuration)", param="mcp")
    tools = [*others, *await servers.tools_of(principal, requests)]
    return WithTools(gateway, tools, turns=servers.turns, separator=separator, beside=beside)


def take_mcp(body: dict[str, Any]) -> list[McpRequest] | None:
    """Takes ``mcp`` out of the body of a chat; ``None`` means that it has none."""
    value = body.pop("mcp", None)
    return None if value is None else parse_mcp(value)


def parse_mcp(value: Any) -> list[McpRequest]:
    """``mcp`` of a chat: names of servers, or objects ``{server, tools?}``. Raises :class:`InvalidRequest`."""
    entries = value if isinstance(value, list) else [value]
    if not 0 < len(entries) <= _MOST:
        raise InvalidRequest(f"'mcp' must name 1 to {_MOST} servers, such as [\"docs\"]", param="mcp")
    return [_entry(entry, f"mcp[{index}]") for index, entry in enumerate(entries)]


def _entry(entry: Any, place: str) -> McpRequest:
    if isinstance(entry, str) and entry:
        return McpRequest(entry)
    if not isinstance(entry, dict) or not isinstance(entry.get("server"), str) or not entry["server"]:
        raise InvalidRequest(f"'{place}' must be a server's name, or {{server, tools}}", param=place)
    if unknown := sorted(set(entry) - {"server", "tools"}):
        raise InvalidRequest(f"unknown field '{place}.{unknown[0]}'; there are server and tools", param=place)
    return McpRequest(entry["server"], names_of(entry.get("tools"), f"{place}.tools"))


def parse_mcp_tool(tool: dict[str, Any], place: str) -> McpRequest:
    """An entry ``{"type": "mcp", …}`` of ``tools`` in Responses. Only servers of the configuration can be named.

    Raises :class:`InvalidRequest`.
    """
    for field in ("server_url", "connector_id", "authorization", "headers"):
        if tool.get(field) not in (None, {}):
            raise InvalidRequest(
                f"'{place}.{field}' is refused: the gateway calls the MCP servers of its configuration only; "
                "name one by 'server_label'",
                param=f"{place}.{field}",
                code="mcp_server_refused",
            )
    label = tool.get("server_label")
    if not isinstance(label, str) or not label:
        raise InvalidRequest(f"'{place}.server_label' must name an MCP server", param=f"{place}.server_label")
    allowed = tool.get("allowed_tools")
    if isinstance(allowed, dict):
        if unknown := sorted(set(allowed) - {"tool_names"}):
            field = f"{place}.allowed_tools.{unknown[0]}"
            raise InvalidRequest(f"'{field}' is not supported; give 'tool_names'", param=field)
        allowed = allowed.get("tool_names")
    tools = names_of(allowed, f"{place}.allowed_tools")
    return _with_approval(label, tools, tool.get("require_approval"), f"{place}.require_approval")


def _with_approval(server: str, tools: tuple[str, ...] | None, required: Any, place: str) -> McpRequest:
    if required in (None, "always"):
        return McpRequest(server, tools, approval=True)
    if required == "never":
        return McpRequest(server, tools)
    if not isinstance(required, dict) or set(required) - {"always", "never"}:
        raise InvalidRequest(f"'{place}' must be 'always', 'never', or {{always, never}} with tool_names", param=place)
    lists: dict[str, frozenset[str]] = {}
    for name, entry in required.items():
        if entry is None:
            continue
        names = names_of(entry.get("tool_names"), f"{place}.{name}.tool_names") if isinstance(entry, dict) else None
        if names is None or set(entry) != {"tool_names"}:  # a filter that is not understood would let tools run
            raise InvalidRequest(f"'{place}.{name}' must be an object with tool_names alone", param=f"{place}.{name}")
        lists[name] = frozenset(names)
    if "never" in lists or not lists:
        unapproved = lists.get("never", frozenset()) - lists.get("always", frozenset())
        return McpRequest(server, tools, approval=True, unapproved=unapproved)
    return McpRequest(server, tools, approved_only=lists["always"])


def names_of(value: Any, place: str) -> tuple[str, ...] | None:
    """A list of names of tools; ``None`` where there is none. Raises :class:`InvalidRequest`."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > _NAMES or not all(isinstance(name, str) and name for name in value):
        raise InvalidRequest(f"'{place}' must be a list of names of tools", param=place)
    return tuple(dict.fromkeys(value))
