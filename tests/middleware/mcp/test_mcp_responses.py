"""Tools of MCP servers in ``/v1/responses``: items, events and refusals."""

from __future__ import annotations

from typing import Any

import pytest
from mcp_gateway import McpGateway
from response_oracle import check_events, check_response, events_of
from test_mcp_answers import call_tools

pytestmark = pytest.mark.slow  # they share a gateway with servers behind it
DOCS = {"type": "mcp", "server_label": "docs", "require_approval": "never", "allowed_tools": ["echo"]}
FUNCTION = {"type": "function", "name": "mine", "parameters": {"type": "object"}}


def create(mcp: McpGateway, input: Any = "say hi", **fields: Any) -> dict[str, Any]:
    answer = mcp.running.post("/v1/responses", {"model": "bench", "input": input, "tools": [DOCS], **fields})
    assert answer.status_code == 200, answer.text
    if fields.get("stream"):
        return check_events(events_of(answer.content))
    return check_response(answer.json())


@pytest.mark.parametrize("stream", [False, True])
def test_tools_run_and_the_conversation_goes_on(mcp: McpGateway, stream: bool) -> None:
    call_tools(mcp.up, "docs__echo", streamed=stream)
    response = create(mcp, stream=stream)
    listed, called, message = response["output"]
    assert (listed["type"], listed["server_label"]) == ("mcp_list_tools", "docs")
    assert [tool["name"] for tool in listed["tools"]] == ["echo"]
    assert listed["tools"][0]["input_schema"]["required"] == ["text"]
    assert (called["type"], called["name"], called["server_label"]) == ("mcp_call", "echo", "docs")
    assert (called["arguments"], called["output"], called["error"], called["status"]) == (
        *('{"text": "hi"}', "hi", None),
        "completed",
    )
    assert message["content"][0]["text"] == "hi"
    again = create(mcp, "and?", previous_response_id=response["id"], stream=stream)
    assert [item["type"] for item in again["output"]] == ["message"], "what tools there are was told already"
    history = mcp.up.requests[-1].body["messages"]
    assert [each["role"] for each in history] == ["user", "assistant", "tool", "assistant", "user"]
    assert history[1]["tool_calls"][0]["function"] == {"name": "docs__echo", "arguments": '{"text": "hi"}'}


def test_the_callers_own_calls_come_back_beside(mcp: McpGateway) -> None:
    call_tools(mcp.up, "docs__echo", "mine", streamed=True)
    response = create(mcp, tools=[DOCS, FUNCTION], stream=True)
    kinds = sorted(item["type"] for item in response["output"])
    assert kinds == ["function_call", "mcp_call", "mcp_list_tools"]
    call_tools(mcp.up, "docs__echo", "mine")
    kinds = sorted(item["type"] for item in create(mcp, tools=[DOCS, FUNCTION])["output"])
    assert kinds == ["function_call", "mcp_call", "mcp_list_tools"]


def test_one_tool_is_chosen_and_refusals_name_the_field(mcp: McpGateway) -> None:
    call_tools(mcp.up, "docs__echo")
    create(mcp, tool_choice={"type": "mcp", "server_label": "docs", "name": "echo"})
    assert mcp.up.requests[0].body["tool_choice"] == {"type": "function", "function": {"name": "docs__echo"}}
    count = len(mcp.up.requests)
    for tool, status, param in (
        ({**DOCS, "require_approval": "sometimes"}, 400, "tools[0].require_approval"),
        ({**DOCS, "require_approval": {"always": {"read_only": True}}}, 400, "tools[0].require_approval.always"),
        ({**DOCS, "server_url": "https://elsewhere.example"}, 400, "tools[0].server_url"),
        ({**DOCS, "server_label": "nothing"}, 404, None),
        ({"type": "mcp", "server_label": 7}, 400, "tools[0].server_label"),
    ):
        refused = mcp.running.post("/v1/responses", {"model": "bench", "input": "x", "tools": [tool]})
        assert refused.status_code == status, refused.text
        assert param is None or refused.json()["error"]["param"] == param
    assert len(mcp.up.requests) == count
