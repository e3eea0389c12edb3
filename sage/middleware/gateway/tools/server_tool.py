"""A tool that the gateway runs itself, in place of the caller: a search in files, or one of an MCP server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sage import strict_json
from sage.errors import SageError
from sage.middleware.auth.principal import Principal

_log = logging.getLogger(__name__)
_FAILED = "the tool failed; the gateway's log says why"


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What a tool has answered: ``text`` is what the model reads."""

    text: str
    is_error: bool = False
    details: Any = None
    """What a surface shows of it beside the text, such as the passages that a search has found; JSON values."""


class ServerTool(Protocol):
    """One tool, for one request of one caller."""

    @property
    def name(self) -> str:
        """The name that the model calls it by; at most 64 letters, digits, ``_`` and ``-``."""
        ...

    @property
    def definition(self) -> Mapping[str, Any]:
        """It as an entry of ``tools`` in OpenAI's chat shape (``{"type": "function", "function": …}``)."""
        ...

    @property
    def origin(self) -> Mapping[str, Any]:
        """Whose it is, as callers are told: ``{"type": "mcp", "server": …, "tool": …}``."""
        ...

    @property
    def needs_approval(self) -> bool:
        """Whether it runs only once the caller has agreed to the very call."""
        ...

    async def run(self, principal: Principal, arguments: Mapping[str, Any]) -> ToolOutput:
        """Does what the model asks for. A :class:`SageError` is told to the model, other errors are in the log."""
        ...


@dataclass(slots=True)
class ToolRun:
    """One call of a tool by a model, and what came of it."""

    id: str
    tool: ServerTool
    arguments: str
    """JSON text, as the model has written it."""
    output: ToolOutput | None = None
    """``None`` means that it has not run."""
    seconds: float = 0.0
    approval: str | None = None
    """What the caller has agreed to, if it was asked."""
    started: bool = field(default=False, repr=False)

    @property
    def status(self) -> str:
        """``needs_approval``, ``running``, ``completed`` or ``failed``."""
        if self.output is None:
            return "running" if self.started else "needs_approval"
        return "failed" if self.output.is_error else "completed"

    async def run(self, principal: Principal) -> None:
        """Runs it; what goes wrong becomes its output."""
        self.started, began = True, time.perf_counter()
        try:
            self.output = await self.tool.run(principal, _arguments(self.arguments))
        except SageError as error:
            self.output = ToolOutput(error.message, is_error=True)
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("the tool '%s' failed", self.tool.name)
            self.output = ToolOutput(_FAILED, is_error=True)
        self.seconds = time.perf_counter() - began

    def shown(self) -> dict[str, Any]:
        """It as callers see it beside an answer in OpenAI's chat shape."""
        entry = {"id": self.id, "name": self.tool.name, **self.tool.origin}
        entry |= {"arguments": self.arguments, "status": self.status}
        if self.output is not None:
            entry |= {"output": self.output.text, "seconds": round(self.seconds, 3)}
        return entry


class _WrongArguments(SageError):
    """What the model wrote is no JSON object."""


def _arguments(text: str) -> Mapping[str, Any]:
    try:
        arguments = strict_json.loads(text.encode()) if text.strip() else {}
    except ValueError as exc:
        raise _WrongArguments(f"the arguments are no JSON: {exc}; call the tool again with a JSON object") from None
    if not isinstance(arguments, dict):
        raise _WrongArguments("the arguments must be a JSON object; call the tool again with one")
    return arguments
