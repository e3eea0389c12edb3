"""``/mcp`` with the official SDK's client over real HTTP: tools, resources, scopes, tenants."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
import requests
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp_gateway import McpGateway

pytestmark = pytest.mark.slow  # they share a gateway with servers behind it

OWN = ["generate", "kv_get", "kv_put", "list_models", "recall", "remember", "search"]
THEIRS = ["docs__echo", "docs__other", "prog__child", "prog__echo", "prog__environment", "prog__flood"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_tools_are_described_and_answer_with_structured_content(mcp: McpGateway, mode: str) -> None:
    async def work(client: Client) -> tuple[Any, ...]:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        put = await client.call_tool("kv_put", {"key": f"k-{mode}", "value": {"a": [1]}})
        got = await client.call_tool("kv_get", {"key": f"k-{mode}"})
        said = await client.call_tool("generate", {"model": "bench", "prompt": "hello you", "max_tokens": 9})
        return tools, put, got, said, client.session.protocol_version

    tools, put, got, said, version = mcp.ask(work, mode=mode)
    assert version == {"auto": "2026-07-28", "legacy": "2025-11-25"}[mode]
    assert list(tools) == OWN + THEIRS
    assert (put.structured_content, put.is_error) == ({"key": f"k-{mode}"}, False)
    assert got.structured_content == {"key": f"k-{mode}", "value": {"a": [1]}}
    assert json.loads(got.content[0].text) == got.structured_content
    assert said.structured_content["text"] == "hello you"
    assert said.structured_content["usage"]["total_tokens"] == 5
    assert mcp.up.requests[-1].body["max_tokens"] == 9
    assert all(tools[name].output_schema is not None for name in OWN)
    assert tools["search"].input_schema["required"] == ["query"]
    hints = {name: tools[name].annotations for name in OWN}
    assert [name for name in OWN if hints[name].read_only_hint] == ["kv_get", "list_models", "recall", "search"]
    assert [name for name in OWN if hints[name].destructive_hint] == ["kv_put"]
    assert tools["docs__echo"].input_schema["required"] == ["text"]


def test_memory_search_and_resources(mcp: McpGateway) -> None:
    documents = [{"id": "1/a", "text": "The capital of France is Paris."}, {"id": "2", "text": "Bread is food."}]
    mcp.running.post("/collections/geo-docs/documents", {"documents": documents})

    async def work(client: Client) -> tuple[Any, ...]:
        await client.call_tool("remember", {"content": "Ann drinks tea.", "session_id": "s"})
        recalled = await client.call_tool("recall", {"query": "What does Ann drink?"})
        found = await client.call_tool("search", {"query": "capital France", "collection": "geo-docs", "top_k": 1})
        listed = await client.list_resources()
        read = [
            (await client.read_resource(uri)).contents[0].text
            for uri in (
                "sage://collections/geo-docs",
                "sage://collections/geo-docs/documents?limit=1",
                "sage://collections/geo-docs/documents/1%2Fa",
            )
        ]
        templates = await client.list_resource_templates()
        with pytest.raises(MCPError) as missing:
            await client.read_resource("sage://collections/nowhere")
        return recalled, found, listed, read, templates, missing.value

    recalled, found, listed, read, templates, missing = mcp.ask(work)
    assert recalled.structured_content["results"][0]["content"] == "Ann drinks tea."
    assert [each["id"] for each in found.structured_content["results"]] == ["1/a"]
    assert [str(each.uri) for each in listed.resources] == ["sage://collections/geo-docs"]
    assert json.loads(read[0])["documents"] == 2
    page = json.loads(read[1])
    assert ([each["id"] for each in page["documents"]], page["cursor"] is None) == (["1/a"], False)
    assert read[2] == "The capital of France is Paris."
    assert [each.name for each in templates.resource_templates] == ["collection", "documents", "document"]
    assert "nowhere" in missing.message


def test_a_key_sees_and_calls_what_its_scopes_and_patterns_say(mcp: McpGateway) -> None:
    assert mcp.names(mcp.key("kv")) == ["kv_get", "kv_put"]
    assert mcp.names(mcp.key("usage")) == []
    narrow = mcp.key("search", "tools", tools=["prog__e*"])
    assert mcp.names(narrow) == ["search", "prog__echo", "prog__environment"]
    for name in ("kv_get", "docs__echo", "nothing"):
        refused = mcp.call(name, {"key": "a", "text": "x"}, narrow)
        assert f"there is no tool '{name}' for this credential" in refused.message

    async def read(client: Client) -> str:
        with pytest.raises(MCPError) as refused:
            await client.read_resource("sage://collections/geo-docs")
        return refused.value.message

    assert "lacks the scope 'search'" in mcp.ask(read, mcp.key("kv"))


def test_tenants_see_only_their_own(mcp: McpGateway) -> None:
    ours, theirs = mcp.key("kv", "search"), mcp.key("kv", "search", tenant="rival")
    mcp.call("kv_put", {"key": "shared", "value": "ours"}, ours)
    assert mcp.call("kv_get", {"key": "shared"}, theirs).is_error
    assert mcp.call("kv_get", {"key": "shared"}, ours).structured_content["value"] == "ours"

    async def work(client: Client) -> list[str]:
        return [str(each.uri) for each in (await client.list_resources()).resources]

    mcp.running.post("/collections", {"name": "secret"})
    assert mcp.ask(work, theirs) == []


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("generate", {"model": "bench"}, "give either 'prompt' or 'messages'"),
        ("generate", {"model": "missing", "prompt": "x"}, "missing"),
        ("generate", {"model": "bench", "prompt": "x", "stream": True}, "unknown field 'stream'"),
        ("search", {"query": "x", "top_k": 1000}, "'top_k'"),
        ("kv_get", {"key": "never written"}, "there is no key 'never written'"),
        ("list_models", {"x": 1}, "unknown field 'x'"),
        ("kv_put", {"key": "a"}, "'value'"),
    ],
)
def test_what_a_tool_cannot_do_is_told_to_the_model(
    mcp: McpGateway, name: str, arguments: dict[str, Any], message: str
) -> None:
    result = mcp.call(name, arguments)
    assert result.is_error
    assert message in result.content[0].text


def test_limits_hold_for_generate(mcp: McpGateway) -> None:
    from sage.middleware.settings.limits import Limits

    key = mcp.key("generate", limits=Limits(rpm=1))
    assert not mcp.call("generate", {"model": "bench", "prompt": "a"}, key).is_error
    second = mcp.call("generate", {"model": "bench", "prompt": "b"}, key)
    assert (second.is_error, "rate limit" in second.content[0].text or "rpm" in second.content[0].text) == (True, True)
    rows = mcp.running.get("/usage?by=model").json()["rows"]
    assert sum(row["requests"] for row in rows if row["model"] == "bench") >= 1


def test_a_client_that_leaves_ends_the_call_of_the_model(mcp: McpGateway) -> None:
    mcp.up.hang(1)
    request = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "generate", "arguments": {"model": "bench", "prompt": "x"}},
    }
    headers = {"Accept": "application/json, text/event-stream", **mcp.running.headers()}
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(f"{mcp.running.url}/mcp", json=request, headers=headers, timeout=1)
    mcp.up.wait_closed()


def test_a_client_that_leaves_ends_the_call_of_a_servers_tool(mcp: McpGateway) -> None:
    started = threading.Event()

    async def slow(_: dict[str, Any]) -> dict[str, Any]:
        started.set()
        await asyncio.sleep(60)
        return {}

    mcp.docs.handlers["echo"] = slow
    request = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "docs__echo", "arguments": {"text": "x"}},
    }
    headers = {"Accept": "application/json, text/event-stream", **mcp.running.headers()}
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(f"{mcp.running.url}/mcp", json=request, headers=headers, timeout=1)
    assert started.wait(5)
    assert mcp.docs.cancelled.wait(5)
