"""Chats and ``/generate`` in which the gateway runs tools of MCP servers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mcp_gateway import McpGateway
from upstream import Upstream, chat_chunk, reply, stream, usage

pytestmark = pytest.mark.slow  # they share a gateway with servers behind it
CHAT = "/v1/chat/completions"


def call_tools(up: Upstream, *names: str, streamed: bool = False) -> None:
    """The model calls tools, then says what they said."""
    calls = [
        {
            "index": number,
            "id": f"c{number}",
            "type": "function",
            "function": {"name": name, "arguments": '{"text": "hi"}'},
        }
        for number, name in enumerate(names)
    ]
    if streamed:
        chunk = chat_chunk(None)
        chunk["choices"][0]["delta"] = {"role": "assistant", "tool_calls": calls}
        up.use(stream([chunk, chat_chunk(None, "tool_calls")]), 1)
        return
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    up.use(
        reply(
            {
                "id": "c",
                "object": "chat.completion",
                "created": 1,
                "model": "x",
                "choices": [choice],
                "usage": usage(5, 2),
            }
        ),
        1,
    )


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "bench", "messages": [{"role": "user", "content": "say hi"}], **fields}


def test_a_chat_runs_tools_here_and_goes_on(mcp: McpGateway) -> None:
    call_tools(mcp.up, "docs__echo", "prog__echo")
    answer = mcp.running.post(CHAT, body(mcp=["docs", {"server": "prog", "tools": ["echo"]}])).json()
    assert answer["choices"][0]["message"]["content"] == "hi", "the scripted model says the last message again"
    assert [(run["server"], run["tool"], run["output"]) for run in answer["tool_runs"]] == [
        ("docs", "echo", "hi"),
        ("prog", "echo", "hi"),
    ]
    assert answer["usage"] == usage(5 + 2, 2 + 1)
    first, second = (request.body for request in mcp.up.requests)
    assert {tool["function"]["name"] for tool in first["tools"]} == {"docs__echo", "docs__other", "prog__echo"}
    assert "mcp" not in first
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "tool", "tool"]
    assert mcp.docs.calls == [("echo", {"text": "hi"})]


def test_a_stream_tells_of_runs_and_ends_once(mcp: McpGateway) -> None:
    call_tools(mcp.up, "docs__echo", streamed=True)
    answer = mcp.running.post(CHAT, body(mcp="docs", stream=True))
    events = [part.removeprefix("data: ") for part in answer.text.split("\n\n") if part]
    chunks = [json.loads(event) for event in events[:-1]]
    assert events[-1] == "[DONE]"
    assert [run["status"] for chunk in chunks for run in chunk.get("tool_runs", ())] == ["running", "completed"]
    assert not any(chunk["choices"][0]["delta"].get("tool_calls") for chunk in chunks)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks].count("stop") == 1
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "hi"


def test_generate_runs_tools_whole_and_streaming(mcp: McpGateway) -> None:
    call_tools(mcp.up, "docs__echo")
    answer = mcp.running.post("/generate", {"model": "bench", "prompt": "say hi", "mcp": ["docs"], "cost": True}).json()
    assert (answer["text"], answer["tool_runs"][0]["output"]) == ("hi", "hi")
    assert (answer["cost"], answer["priced"]) == (None, False)
    mcp.up.reset()
    call_tools(mcp.up, "docs__echo", streamed=True)
    answer = mcp.running.post("/generate", {"model": "bench", "prompt": "say hi", "mcp": ["docs"], "stream": True})
    events = [json.loads(part.removeprefix("data: ")) for part in answer.text.split("\n\n")[:-2] if part != ":"]
    assert [run["status"] for event in events for run in event.get("tool_runs", ())] == ["running", "completed"]
    assert "".join(event["text"] for event in events) == "hi"
    assert events[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("mcp_field", "status", "text"),
    [
        (["nowhere"], 404, "there is no MCP server 'nowhere'; configured: docs, prog"),
        ([{"server": "docs", "tools": ["missing"]}], 404, "has no tool 'missing'"),
        ([{"server": "docs", "url": "http://evil.example"}], 400, "unknown field 'mcp[0].url'"),
        ([{"server_url": "http://evil.example/mcp"}], 400, "must be a server's name"),
        ([], 400, "must name 1 to 16 servers"),
        ([7], 400, "must be a server's name"),
    ],
)
def test_what_is_not_there_is_refused_before_the_model_is_asked(
    mcp: McpGateway, mcp_field: Any, status: int, text: str
) -> None:
    for path in (CHAT, "/generate"):
        answer = mcp.running.post(path, body(mcp=mcp_field))
        assert (answer.status_code, text in answer.text) == (status, True), answer.text
    assert mcp.up.requests == []


def test_a_key_reaches_only_its_own_tools(mcp: McpGateway) -> None:
    narrow = mcp.key("generate", "tools", tools=["docs__ech*"])
    call_tools(mcp.up, "docs__echo")
    answer = mcp.running.post(CHAT, body(mcp=["docs"]), key=narrow)
    assert answer.json()["tool_runs"][0]["output"] == "hi"
    assert [tool["function"]["name"] for tool in mcp.up.requests[0].body["tools"]] == ["docs__echo"]
    refused = mcp.running.post(CHAT, body(mcp=["prog"]), key=narrow)
    assert (refused.status_code, "reaches no tool of the MCP server 'prog'" in refused.text) == (403, True)
    refused = mcp.running.post(CHAT, body(mcp=["docs"]), key=mcp.key("generate"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_scope")


def test_limits_count_each_turn_and_end_the_answer(mcp: McpGateway) -> None:
    from sage.middleware.settings.limits import Limits

    key = mcp.key("generate", "tools", limits=Limits(rpm=1))
    call_tools(mcp.up, "docs__echo")
    answer = mcp.running.post(CHAT, body(mcp=["docs"]), key=key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert len(mcp.up.requests) == 1
    assert mcp.docs.calls == [("echo", {"text": "hi"})]


def test_the_error_of_a_tool_goes_to_the_model(mcp: McpGateway) -> None:
    mcp.docs.handlers["echo"] = lambda _: "no such page"
    call_tools(mcp.up, "docs__echo")
    answer = mcp.running.post(CHAT, body(mcp=["docs"])).json()
    assert answer["tool_runs"][0]["status"] == "failed"
    assert mcp.up.requests[1].body["messages"][-1]["content"] == "the MCP server 'docs' answered: no such page"
