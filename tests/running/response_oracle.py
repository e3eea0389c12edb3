"""What a response and its events have to be: OpenAI's own types, strictly, and what Open Responses demands beyond."""

from __future__ import annotations

import json
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
# Fields that Open Responses requires of every response (schema/responses.tsp, ResponseResource), null where nothing is.
_REQUIRED = {
    *("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "previous_response_id"),
    *("instructions", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p"),
    *("presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning", "usage", "store"),
    *("max_output_tokens", "max_tool_calls", "background", "service_tier", "metadata", "safety_identifier"),
    "prompt_cache_key",
}
_ITEMS = {
    "message": {"id", "type", "status", "role", "content"},
    "function_call": {"id", "type", "status", "call_id", "name", "arguments"},
    "custom_tool_call": {"id", "type", "status", "call_id", "name", "input"},
    "reasoning": {"id", "type", "summary"},
    "file_search_call": {"id", "type", "status", "queries"},
    "mcp_list_tools": {"id", "type", "server_label", "tools"},
    "mcp_call": {"id", "type", "server_label", "name", "arguments"},
    "mcp_approval_request": {"id", "type", "server_label", "name", "arguments"},
}
_END = {"completed": "response.completed", "incomplete": "response.incomplete", "failed": "response.failed"}


def check_response(response: dict[str, Any]) -> dict[str, Any]:
    Response.model_validate(response, strict=True)
    assert response.keys() >= _REQUIRED, _REQUIRED - response.keys()
    assert response["status"] in {"completed", "incomplete", "failed", "in_progress", "queued", "cancelled"}
    assert type(response["created_at"]) is int
    assert all(isinstance(response[name], int | float) for name in ("temperature", "top_p", "presence_penalty"))
    for item in response["output"]:
        assert item.keys() >= _ITEMS[item["type"]], item
    ids = [item["id"] for item in response["output"]]
    assert len(ids) == len(set(ids))
    for tool in response["tools"]:
        assert tool["type"] != "function" or tool.keys() >= {"name", "description", "parameters", "strict"}
    if response["usage"] is not None:
        usage = response["usage"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    return response


def events_of(body: bytes) -> list[dict[str, Any]]:
    """The events of a stream, each named as its type says."""
    events = []
    for block in body.decode().split("\n\n"):
        if not block or block.startswith(":"):
            continue
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def check_events(events: list[dict[str, Any]], first: int = 0) -> dict[str, Any]:
    """The response at the end of ``events``, which have every event, in order, and say what it says."""
    for event in events:
        _EVENT.validate_python(event, strict=True)
    assert [event["sequence_number"] for event in events] == list(range(first, first + len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    for event in events[:2]:
        assert check_response(event["response"])["status"] == "in_progress"
        assert event["response"]["output"] == []
    response = check_response(events[-1]["response"])
    assert kinds[-1] == _END[response["status"]]
    assert {event["response"]["id"] for event in events if "response" in event} == {response["id"]}
    assert _rebuilt(events[2:-1], failed=response["status"] == "failed") == response["output"]
    return response


def _rebuilt(events: list[dict[str, Any]], *, failed: bool) -> list[dict[str, Any]]:
    """The items as a client gathers them: each is whole before the next begins."""
    done: list[dict[str, Any]] = []
    item: dict[str, Any] | None = None
    texts: dict[tuple[str, int], str] = {}
    for event in events:
        kind, index = event["type"], event["output_index"]
        assert index == len(done)
        if kind == "response.output_item.added":
            assert item is None
            item, texts = event["item"], {}
            continue
        assert item is not None
        if kind == "response.output_item.done":
            assert event["item"]["id"] == item["id"]
            _check_texts(event["item"], texts)
            done.append(event["item"])
            item = None
            continue
        assert event["item_id"] == item["id"]
        place = (kind.rsplit(".", 1)[0], event.get("content_index", event.get("summary_index", 0)))
        if kind.endswith(".delta"):
            texts[place] = texts.get(place, "") + event["delta"]
        elif kind.endswith(".done") and "part" not in event:
            whole = next(event[name] for name in ("text", "refusal", "arguments", "input") if name in event)
            assert texts.get(place, "") == whole
    assert item is None or failed
    return done


def _check_texts(item: dict[str, Any], texts: dict[tuple[str, int], str]) -> None:
    if item["type"] == "message":
        for number, part in enumerate(item["content"]):
            kind = part["type"]
            text = part["text"] if kind == "output_text" else part["refusal"]
            assert texts.get((f"response.{kind}", number), "") == text
    elif item["type"] == "function_call":
        assert texts["response.function_call_arguments", 0] == item["arguments"]
    elif item["type"] == "custom_tool_call":
        assert texts.get(("response.custom_tool_call_input", 0), "") == item["input"]
    elif item["type"] == "reasoning":
        for field, kind in (("content", "reasoning_text"), ("summary", "reasoning_summary_text")):
            for number, part in enumerate(item.get(field, ())):
                assert texts[f"response.{kind}", number] == part["text"]
