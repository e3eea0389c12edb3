"""All MCP servers behind the gateway: which of their tools a caller may use, and calls of them, counted and noted."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import orjson

from sage.errors import InvalidRequest, NotFound, PermissionDenied, SageError
from sage.middleware.audit.event import AuditEvent
from sage.middleware.audit.log import AuditLog
from sage.middleware.auth.changes import actor_of
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.gateway.metrics import CLIENT_LEFT, Durations
from sage.middleware.gateway.settlement import forget
from sage.middleware.gateway.tools.server_tool import ServerTool, ToolOutput
from sage.middleware.gateway.tools.tool_servers import McpRequest
from sage.middleware.mcp.client.connection import ServerConnection
from sage.middleware.mcp.client.definitions import ToolDefinition, public_name
from sage.middleware.mcp.client.results import output_of
from sage.middleware.mcp.pins.store import Pins
from sage.middleware.settings.mcp import McpSettings
from sage.middleware.usage.settled_calls import SettledCall

if TYPE_CHECKING:  # a fiftieth of the start, which only who asks for the metrics needs
    from prometheus_client.core import Metric

_log = logging.getLogger("sage")
_FRESH = 1.0
"""Seconds after which what was accepted elsewhere, such as by the command line, is looked up again."""
_FIRST_WAIT = 3.0
"""Seconds that a request waits for servers that were not reached yet, after the start."""
_OPERATION = "mcp"
_MOST_NAMED = 512
"""Tools with counts of their own, in metrics; the others are counted as one."""


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool that was accepted, and that a caller may use, under its public name."""

    name: str
    server: str
    definition: ToolDefinition

    @property
    def shown(self) -> dict[str, Any]:
        """It in MCP's shape, under its public name."""
        return {**self.definition.shown, "name": self.name}


class McpServers:
    """Those of one gateway; belongs to its event loop."""

    def __init__(self, settings: McpSettings, pins: Pins, audit: AuditLog) -> None:
        self.settings = settings
        self.pins = pins
        self.counts = ToolCounts()
        self._audit = audit
        self.settled: Callable[[SettledCall], None] = forget
        """Takes each call for the usage ledger: under the tool's name as a model, and the operation ``mcp``."""
        self.connections = {
            name: ServerConnection(name, server, settings.hosts, settings.refresh)
            for name, server in settings.servers.items()
        }
        for connection in self.connections.values():
            connection.on_listed = self._listed
        self._tasks: list[asyncio.Task[None]] = []
        self._observed: dict[str, int] = {}
        """The revision of each server's list that the pins know of."""
        self._accepted: dict[tuple[str, str], str] = {}
        self._accepted_at = float("-inf")
        self._looking = asyncio.Lock()

    @property
    def turns(self) -> int:
        """How often a model may be asked in one answer with tools."""
        return self.settings.turns

    def begin(self) -> None:
        """Connects to all, on the running loop; waits for none."""
        self._tasks = [asyncio.create_task(each.run(), name=f"mcp {name}") for name, each in self.connections.items()]

    async def close(self) -> None:
        """Ends all connections, and the programs behind them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self.pins.close)

    def faults(self) -> dict[str, str]:
        """The servers that cannot be asked now, each with the reason."""
        return {name: each.fault for name, each in self.connections.items() if each.fault is not None}

    def metrics(self) -> Iterator[Metric]:
        """Counts of calls, and which servers are up, for Prometheus."""
        return self.counts.collect(self.faults(), list(self.connections))

    async def offered(self, principal: Principal) -> list[OfferedTool]:
        """The tools that ``principal`` may use now, in the order of their names."""
        if Scope.TOOLS not in principal.scopes or not self.connections:
            return []
        await self._look()
        tools = [tool for tool in self._usable() if principal.allows_tool(tool.name)]
        return sorted(tools, key=lambda tool: tool.name)

    def most_of(self, server: str) -> int:
        """The bytes that a result of that server has at most."""
        return self.settings.servers[server].max_result

    async def run(self, principal: Principal, tool: OfferedTool, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The result as the server gives it; counted, and noted in the audit.

        Raises :class:`NotFound` for a tool that has changed since it was offered, and what the server is at fault for.
        """
        started, outcome, status = time.perf_counter(), "error", 500
        try:
            await self._require_same(tool)
            result = await self.connections[tool.server].call(tool.definition.name, arguments)
            outcome, status = ("tool_error" if result.get("isError") is True else "ok"), 200
            return result
        except SageError as exc:
            status = exc.status
            raise
        except asyncio.CancelledError:
            outcome, status = "left", CLIENT_LEFT
            raise
        finally:
            seconds = time.perf_counter() - started
            self.counts.called(tool.server, tool.definition.name, outcome, seconds)
            ended = started + seconds
            self.settled(
                (
                    *(ended, started, None, principal, b"", tool.name, _OPERATION, False, None, 1, status),
                    *(None, None, None, None, None),  # no model, and so no tokens, no budget and no steps
                )
            )
            self._note(principal, tool, arguments, outcome, status, seconds)

    async def _require_same(self, tool: OfferedTool) -> None:
        """Of a server that can be asked: an answer that goes on for long has been offered what is held back by now."""
        if self.connections[tool.server].fault is None:
            await self._compare()
            now = next((each for each in self._usable() if each.name == tool.name), None)
            if now is None or now.definition.digest != tool.definition.digest:
                raise NotFound(
                    f"the tool '{tool.name}' is held back: its server has changed it, or has it no more, since this "
                    "answer began",
                    code="tool_held_back",
                )

    async def tools_of(self, principal: Principal, requests: Sequence[McpRequest]) -> list[ServerTool]:
        """The tools that a request names, for an answer in which the gateway runs them.

        Raises :class:`PermissionDenied` without the scope ``tools``, :class:`NotFound` for a server or a tool that is
        not there for this caller, and :class:`InvalidRequest` where nothing is left.
        """
        principal.require(Scope.TOOLS)
        offered = await self.offered(principal)
        tools: dict[str, ServerTool] = {}
        for request in requests:
            connection = self.connections.get(request.server)
            if connection is None:
                known = ", ".join(sorted(self.connections)) or "none"
                raise NotFound(f"there is no MCP server '{request.server[:100]}'; configured: {known}", param="mcp")
            own = {each.definition.name: each for each in offered if each.server == request.server}
            names = list(own) if request.tools is None else list(request.tools)
            for name in names:
                if name not in own:
                    raise _missing(request.server, name, connection)
                tool = McpTool(self, own[name], needs_approval=request.needs_approval(name))
                tools[tool.name] = tool
            if not names:
                raise _missing(request.server, None, connection)
        return list(tools.values())

    async def accept(
        self, principal: Principal | None, server: str, wanted: Mapping[str, str | None] | None
    ) -> list[str]:
        """Accepts tools of ``server`` as they are offered now (:meth:`Pins.accept`). ``None`` is the operator."""
        if server not in self.connections:
            raise NotFound(f"there is no MCP server '{server[:100]}'", param="name")
        by = actor_of(principal)
        names = await asyncio.to_thread(self.pins.accept, server, wanted, by.name)
        self._accepted_at = float("-inf")
        return names

    async def describe_all(self) -> list[dict[str, Any]]:
        """Each server as an admin sees it."""
        await self._look()
        return [await self._describe(name) for name in self.connections]

    async def _describe(self, name: str) -> dict[str, Any]:
        connection = self.connections[name]
        states = Counter(tool["state"] for tool in await self.describe(name))
        return {
            "name": name,
            "transport": "http" if connection.settings.url is not None else "stdio",
            "state": "up" if connection.fault is None else "down",
            "error": connection.fault,
            "tools": states["accepted"],
            "held": states["new"] + states["changed"],
            "left_out": connection.left_out,
        }

    async def describe(self, name: str) -> list[dict[str, Any]]:
        """The tools of a server, each with its state. Raises :class:`NotFound`."""
        connection = self.connections.get(name)
        if connection is None:
            raise NotFound(f"there is no MCP server '{name[:100]}'", param="name")
        await self._look()
        is_up = connection.fault is None
        return [
            {
                "name": public_name(name, tool.name),
                "tool": tool.name,
                "state": "gone" if is_up and tool.name not in connection.tools else tool.state,
                "digest": tool.offered,
                "accepted_digest": tool.accepted,
                "accepted_at": tool.accepted_at,
                "accepted_by": tool.accepted_by,
                "definition": tool.definition,
                "accepted_definition": tool.accepted_definition,
            }
            for tool in await asyncio.to_thread(self.pins.of, name)
            if matches(tool.name, connection.settings.tools)
        ]

    def _usable(self) -> Iterator[OfferedTool]:
        for server, connection in self.connections.items():
            patterns = connection.settings.tools
            for name, definition in connection.tools.items():
                if self._accepted.get((server, name)) == definition.digest and matches(name, patterns):
                    yield OfferedTool(public_name(server, name), server, definition)

    async def _look(self) -> None:
        """Makes sure that what the servers offer is compared with what was accepted."""
        waiting = [each.listed.wait() for each in self.connections.values() if not each.listed.is_set()]
        if waiting:
            tasks = [asyncio.ensure_future(each) for each in waiting]
            await asyncio.wait(tasks, timeout=_FIRST_WAIT)
            for task in tasks:
                task.cancel()
        await self._compare()

    async def _compare(self) -> None:
        """As :meth:`_look`, and waits for no server."""
        async with self._looking:
            for name, connection in self.connections.items():
                if connection.revision != self._observed.get(name):
                    await self._observe(name, connection)
            if time.monotonic() - self._accepted_at > _FRESH:
                self._accepted = await asyncio.to_thread(self.pins.accepted)
                self._accepted_at = time.monotonic()

    async def _listed(self, connection: ServerConnection) -> None:
        """Compares what a server offers with what was accepted, at once: what is held back is told when it comes."""
        try:
            async with self._looking:
                await self._observe(connection.name, connection)
        except SageError as error:  # the next request looks again
            _log.warning("the tools of the MCP server '%s' cannot be compared now: %s", connection.name, error.message)

    async def _observe(self, name: str, connection: ServerConnection) -> None:
        revision = connection.revision
        if not revision:
            return
        offered = [(each.name, each.digest, each.shown) for each in connection.tools.values()]
        trust = connection.settings.trust_first
        held = await asyncio.to_thread(self.pins.observe, name, offered, trust_first=trust)
        self._observed[name], self._accepted_at = revision, float("-inf")
        if held:
            event = AuditEvent("mcp.held", f"mcp:{name}", "gateway", details={"tools": held})
            await asyncio.to_thread(self._audit.append, event)

    def _note(
        self, principal: Principal, tool: OfferedTool, arguments: Any, outcome: str, status: int, seconds: float
    ) -> None:
        """Writes the call into the audit, on a thread: whose, of what, how it went; of its arguments a digest only."""
        actor = actor_of(principal)
        digest = hashlib.sha256(orjson.dumps(dict(arguments), option=orjson.OPT_SORT_KEYS)).hexdigest()
        details = {"outcome": outcome, "status": status, "ms": round(seconds * 1000), "arguments_sha256": digest}
        event = AuditEvent(
            "mcp.call", f"mcp:{tool.name}", actor.name, actor.credential, principal.tenant, details=details
        )
        asyncio.get_running_loop().run_in_executor(None, self._audit.append, event)


class McpTool:
    """A tool of a server, in an answer in which the gateway runs it (:class:`ServerTool`)."""

    def __init__(self, servers: McpServers, tool: OfferedTool, *, needs_approval: bool) -> None:
        self._servers = servers
        self._tool = tool
        self.name = tool.name
        self.needs_approval = needs_approval
        self.origin = {"type": "mcp", "server": tool.server, "tool": tool.definition.name}
        shown = tool.definition.shown
        function = {"name": tool.name, "description": shown.get("description", ""), "parameters": shown["inputSchema"]}
        self.definition = {"type": "function", "function": function}
        self.shown = shown

    async def run(self, principal: Principal, arguments: Mapping[str, Any]) -> ToolOutput:
        result = await self._servers.run(principal, self._tool, arguments)
        return output_of(result, self._servers.most_of(self._tool.server))


class ToolCounts:
    """Calls of tools, for Prometheus; labels are bounded, since servers choose the names of tools."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str, str]] = Counter()
        """By server, tool and outcome."""
        self.durations: dict[tuple[str, str], Durations] = {}

    def called(self, server: str, tool: str, outcome: str, seconds: float) -> None:
        """Counts one call. ``outcome``: ``ok``, ``tool_error``, ``error`` or ``left``."""
        if (server, tool) not in self.durations and len(self.durations) >= _MOST_NAMED:
            tool = "other"
        self.calls[server, tool, outcome] += 1
        self.durations.setdefault((server, tool), Durations()).observe(seconds)

    def collect(self, faults: Mapping[str, str], names: Sequence[str]) -> Iterator[Metric]:
        """The metrics; ``names`` are those of all servers, ``faults`` of those that are down."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        calls = CounterMetricFamily(
            "sage_mcp_calls", "Calls of tools of MCP servers, by how they ended.", labels=("server", "tool", "outcome")
        )
        for outcome, count in sorted(self.calls.items()):
            calls.add_metric(outcome, count)
        duration = HistogramMetricFamily(
            "sage_mcp_call_duration_seconds", "From a call of a tool to its result.", labels=("server", "tool")
        )
        for labels, durations in sorted(self.durations.items()):
            duration.add_metric(labels, durations.cumulative(), durations.total)
        up = GaugeMetricFamily("sage_mcp_server_up", "Whether an MCP server can be asked.", labels=("server",))
        for name in names:
            up.add_metric((name,), 0 if name in faults else 1)
        yield from (calls, duration, up)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of ``patterns`` matches ``name``; ``*`` stands for any text."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _missing(server: str, tool: str | None, connection: ServerConnection) -> SageError:
    if connection.fault is not None:
        return InvalidRequest(f"the MCP server '{server}' is down: {connection.fault}", param="mcp", code="mcp_down")
    if tool is None:
        return PermissionDenied(f"this credential reaches no tool of the MCP server '{server}'", param="mcp")
    return NotFound(
        f"the MCP server '{server}' has no tool '{tool[:100]}' for this credential (GET /mcp/servers/{server}/tools)",
        param="mcp",
    )
