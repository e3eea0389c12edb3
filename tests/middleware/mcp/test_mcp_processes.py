"""``/mcp`` and tools in answers under several workers, and without auth: real processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from mcp_gateway import client_of
from mcp_upstream import McpUpstream
from running_gateway import Running
from test_mcp_answers import call_tools

pytestmark = pytest.mark.slow  # it starts processes


def test_without_auth_everything_is_there(gateway: Callable[..., Running]) -> None:
    with McpUpstream() as docs:
        running = gateway(auth={"enabled": False}, mcp={"servers": {"docs": {"url": docs.url}}})

        async def work() -> tuple[list[str], object]:
            async with client_of(f"{running.url}/mcp", None) as client:
                names = [tool.name for tool in (await client.list_tools()).tools]
                return names, (await client.call_tool("docs__echo", {"text": "hi"})).content[0]

        names, said = asyncio.run(work())
        assert names[-1] == "docs__echo"
        assert getattr(said, "text", "") == "hi"
        assert running.post("/mcp/servers/docs/accept", {"all": True}).json() == {"accepted": []}
        assert running.get("/.well-known/oauth-protected-resource/mcp").status_code == 404


def test_every_worker_answers_at_mcp_and_runs_tools(tmp_path: Path) -> None:
    from worker_family import worker_family

    with McpUpstream() as docs, worker_family(tmp_path, mcp={"servers": {"docs": {"url": docs.url}}}) as family:
        for worker in (0, 1):
            client = family.client(worker)
            request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
            answer = client.ask("POST", "/mcp", request, Accept="application/json, text/event-stream")
            assert (answer.status, b"docs__echo" in answer.body) == (200, True), answer.body
            family.upstream.reset()
            call_tools(family.upstream, "docs__echo")
            chat = {"model": "free", "messages": [{"role": "user", "content": "x"}], "mcp": ["docs"]}
            answer = client.ask("POST", "/v1/chat/completions", chat)
            assert (answer.status, b'"output":"hi"' in answer.body) == (200, True), answer.body
        family.close_clients()
