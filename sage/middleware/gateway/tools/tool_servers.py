"""The MCP servers behind a gateway, as an answer needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.tools.server_tool import ServerTool


@dataclass(frozen=True, slots=True)
class McpRequest:
    """Tools of one server; ``tools=None`` means all that the caller may use."""

    server: str
    tools: tuple[str, ...] | None = None
    approval: bool = False
    """Whether calls need the caller's approval."""
    unapproved: frozenset[str] | None = None
    """The tools that need none though ``approval`` is set; ``None`` means that there are no exceptions."""
    approved_only: frozenset[str] = frozenset()
    """The tools that need approval though ``approval`` is not set."""

    def needs_approval(self, tool: str) -> bool:
        """Whether a call of ``tool`` needs the caller's approval."""
        if self.approval:
            return self.unapproved is None or tool not in self.unapproved
        return tool in self.approved_only


class ToolServers(Protocol):
    """The MCP servers behind a gateway."""

    @property
    def turns(self) -> int:
        """How often a model may be asked in one answer."""
        ...

    async def tools_of(self, principal: Principal, requests: Sequence[McpRequest]) -> list[ServerTool]:
        """Their tools for one answer. Raises :class:`sage.errors.SageError` for what is not there for the caller."""
        ...
