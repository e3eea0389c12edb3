"""What the tests of MCP share: one gateway before a scripted model, with two MCP servers behind it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mcp_gateway import McpGateway

PROGRAM = Path(__file__).parents[2] / "scripted" / "mcp_upstream.py"


@pytest.fixture(scope="package")
def mcp_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[McpGateway]:
    """One for all tests of this folder. ``docs`` is a server over HTTP, ``prog`` a program over stdio."""
    from mcp_gateway import McpGateway
    from mcp_upstream import McpUpstream, tool
    from running_gateway import run_gateway
    from upstream import Upstream

    from sage.middleware.settings.settings import Settings

    with Upstream() as up, McpUpstream(tool("echo"), tool("other")) as docs:
        servers: dict[str, Any] = {
            "docs": {"url": docs.url, "headers": {"X-Docs-Key": "secret"}, "timeout": 5},
            "prog": {
                "command": [sys.executable, str(PROGRAM)],
                "environment": {"ONLY": "this"},
                "max_result": 1000,
                "timeout": 20,
            },
        }
        llm = {
            "providers": {"up": {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream"}},
            "models": {"bench": {"deployments": [{"provider": "up", "model": "theirs"}]}},
        }
        data = {"data_dir": tmp_path_factory.mktemp("mcp"), "api": {"port": 0, "access_log": False}, "llm": llm}
        data["mcp"] = {"servers": servers, "refresh": "1s"}
        with run_gateway(Settings.model_validate(data)) as running:
            started = McpGateway(running, up, docs)
            started.wait(lambda: all(state == "up" for state in started.states().values()))
            yield started


@pytest.fixture
def mcp(mcp_gateway: McpGateway) -> McpGateway:
    """The gateway, without what the test before scripted."""
    mcp_gateway.up.reset()
    mcp_gateway.docs.calls.clear()
    mcp_gateway.docs.handlers.clear()
    mcp_gateway.docs.cancelled.clear()
    return mcp_gateway
