"""Calls of MCP tools in ``/v1/responses`` that wait for the caller's approval."""

from __future__ import annotations

from typing import Any

import pytest
from mcp_gateway import McpGateway
from test_mcp_answers import call_tools
from test_mcp_responses import DOCS, FUNCTION, create

from sage.errors import InvalidRequest
from sage.middleware.gateway.tools.mcp_request import parse_mcp_tool

pytestmark = pytest.mark.slow  # they share a gateway with servers behind it
ASKED = {name: value for name, value in DOCS.items() if name != "require_approval"}
"""A server whose tools need approval, which is OpenAI's default."""


def asked(mcp: McpGateway, *names: str, stream: bool = False, **fields: Any) -> dict[str, Any]:
    """A response in which the model calls ``docs__echo``, and tools of those ``names`` before it."""
    call_tools(mcp.up, *names, "docs__echo", streamed=stream)
    return create(mcp, stream=stream, **{"tools": [ASKED], **fields})


def answer(request: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": True, **fields}


def refused(mcp: McpGateway, status: int, code: str, *, key: str | None = None, **fields: Any) -> Any:
    body = {"model": "bench", "tools": [ASKED], **fields}
    told = mcp.running.post("/v1/responses", body, key=key)
    assert told.status_code == status, told.text
    assert told.json()["error"]["code"] == code
    return told.json()["error"]["param"]


def roles(mcp: McpGateway) -> list[str]:
    return [each["role"] for each in mcp.up.requests[-1].body["messages"]]


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_waits_runs_once_and_the_conversation_goes_on(mcp: McpGateway, stream: bool) -> None:
    first = asked(mcp, stream=stream)
    _, request = first["output"]
    assert first["status"] == "completed"
    assert {**request, "id": ""} == {
        **{"id": "", "type": "mcp_approval_request", "server_label": "docs", "name": "echo"},
        "arguments": '{"text": "hi"}',
    }
    assert mcp.docs.calls == []
    again = {"input": [answer(request)], "previous_response_id": first["id"], "tools": [ASKED], "stream": stream}
    second = create(mcp, **again, tool_choice="required")
    called, message = second["output"]
    assert (called["type"], called["approval_request_id"], called["output"]) == ("mcp_call", request["id"], "hi")
    assert called["arguments"] == '{"text": "hi"}'
    assert message["content"][0]["text"] == "hi"
    assert (roles(mcp), len(mcp.docs.calls)) == (["user", "assistant", "tool"], 1)
    assert mcp.up.requests[-1].body["tool_choice"] == "auto", "the call that was asked for has been made"
    create(mcp, "and?", previous_response_id=second["id"], stream=stream, tools=[ASKED])
    assert roles(mcp) == ["user", "assistant", "tool", "assistant", "user"]
    history = mcp.up.requests[-1].body["messages"]
    assert history[1]["tool_calls"][0]["id"] == history[2]["tool_call_id"]
    assert len(history[2]["tool_call_id"]) <= 40, "OpenAI takes no longer one"
    refused(mcp, 409, "approval_used", **again)
    assert len(mcp.docs.calls) == 1


def test_the_model_is_told_of_a_refusal(mcp: McpGateway) -> None:
    first = asked(mcp)
    request = first["output"][1]
    fields = {"previous_response_id": first["id"], "tools": [ASKED]}
    response = create(mcp, [answer(request, approve=False, reason="not today")], **fields)
    assert [item["type"] for item in response["output"]] == ["message"]
    told = mcp.up.requests[-1].body["messages"][-1]
    assert told["role"] == "tool"
    assert told["content"].endswith("so it was not run: not today")
    create(mcp, "why?", previous_response_id=response["id"], tools=[])
    assert roles(mcp) == ["user", "assistant", "tool", "assistant", "user"]
    assert mcp.docs.calls == []
    create(mcp, "never mind", **fields)
    assert roles(mcp) == ["user", "user"], "what nobody has answered is not told"


@pytest.mark.parametrize("stream", [False, True])
def test_items_that_are_sent_back_are_the_gateways_own(mcp: McpGateway, stream: bool) -> None:
    first = asked(mcp, stream=stream, store=False)
    _, request = first["output"]
    said = {"role": "user", "content": "say hi"}
    fields = {"store": False, "tools": [ASKED], "stream": stream}
    for forged in (
        {**request, "arguments": '{"text": "bye"}'},
        {**request, "name": "other"},
        {**request, "id": request["id"][:-1] + ("0" if request["id"][-1] != "0" else "1")},
        {**request, "id": "mcpr_1"},
    ):
        tools = [{**ASKED, "allowed_tools": ["echo", "other"]}]
        param = refused(mcp, 400, "approval_not_found", input=[said, forged, answer(forged)], store=False, tools=tools)
        assert param == "input[2].approval_request_id"
    elsewhere = mcp.key("generate", "tools", tenant="elsewhere")
    refused(mcp, 400, "approval_not_found", key=elsewhere, input=[said, request, answer(request)])
    refused(mcp, 400, "approval_not_found", input=[said, answer(request)])
    refused(mcp, 400, "invalid_request", input=[said, request, answer(request)], tools=[FUNCTION])
    assert mcp.docs.calls == []
    sent = [said, *first["output"], answer(request)]
    second = create(mcp, sent, **fields)
    assert [item["type"] for item in second["output"]] == ["mcp_call", "message"]
    create(mcp, [*sent, *second["output"], {"role": "user", "content": "and?"}], **fields)
    assert roles(mcp) == ["user", "assistant", "tool", "assistant", "user"]
    assert len(mcp.docs.calls) == 1, "what the answer has gone on from does not run again"


def test_a_kept_request_is_its_teams_alone(mcp: McpGateway) -> None:
    first = asked(mcp)
    request = first["output"][1]
    elsewhere = mcp.key("generate", "tools", tenant="elsewhere")
    refused(mcp, 400, "approval_not_found", key=elsewhere, input=[request, answer(request)])
    changed = {**request, "arguments": "{}"}
    refused(mcp, 400, "approval_not_found", input=[changed, answer(request)])
    assert mcp.docs.calls == []
    output = create(mcp, [request, answer(request)], tools=[ASKED])["output"]
    assert [item["output"] for item in output if item["type"] == "mcp_call"] == ["hi"]


def test_calls_that_need_no_approval_and_the_callers_own_stand_beside(mcp: McpGateway) -> None:
    tools = [{**ASKED, "allowed_tools": ["echo", "other"], "require_approval": {"never": {"tool_names": ["other"]}}}]
    first = asked(mcp, "docs__other", "mine", tools=[*tools, FUNCTION])
    items = {item["type"]: item for item in first["output"]}
    assert set(items) == {"mcp_list_tools", "mcp_call", "mcp_approval_request", "function_call"}
    assert items["mcp_call"]["name"] == "other"
    done = {"type": "function_call_output", "call_id": items["function_call"]["call_id"], "output": "done"}
    answers = [answer(items["mcp_approval_request"]), {"role": "user", "content": "go on"}, done]
    create(mcp, [answers[0], done, answers[1]], previous_response_id=first["id"], tools=[*tools, FUNCTION])
    assert roles(mcp) == ["user", "assistant", "tool", "tool", "tool", "user"]
    message = mcp.up.requests[-1].body["messages"][1]
    results = {each["tool_call_id"] for each in mcp.up.requests[-1].body["messages"] if each["role"] == "tool"}
    assert {call["id"] for call in message["tool_calls"]} == results


@pytest.mark.parametrize(
    ("required", "waiting"),
    [
        (None, {"echo", "other"}),
        ("always", {"echo", "other"}),
        ("never", set()),
        ({}, {"echo", "other"}),
        ({"never": None}, {"echo", "other"}),
        ({"always": {"tool_names": ["echo"]}}, {"echo"}),
        ({"never": {"tool_names": ["echo"]}}, {"other"}),
        ({"never": {"tool_names": ["echo", "other"]}, "always": {"tool_names": ["echo"]}}, {"echo"}),
    ],
)
def test_who_needs_approval(required: Any, waiting: set[str]) -> None:
    request = parse_mcp_tool({"type": "mcp", "server_label": "docs", "require_approval": required}, "tools[0]")
    assert {tool for tool in ("echo", "other") if request.needs_approval(tool)} == waiting


def test_a_filter_that_is_not_understood_is_refused() -> None:
    for wrong in ({"always": {"read_only": True}}, {"never": {"tool_names": ["a"], "read_only": True}}, {"other": {}}):
        with pytest.raises(InvalidRequest, match="require_approval"):
            parse_mcp_tool({"type": "mcp", "server_label": "docs", "require_approval": wrong}, "tools[0]")
