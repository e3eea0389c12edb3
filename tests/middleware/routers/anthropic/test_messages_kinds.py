"""Messages over each kind of provider, whole and streamed: what docs/surfaces.md says is kept, is kept."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest
from kind_answers import KINDS, NY, SF, answer_of_kind, every_kind
from surface_losses import FEATURES, KEPT
from upstream import Upstream

pytestmark = pytest.mark.slow  # Anthropic's SDK

PIXEL = "iVBORw0KGgo="
WEATHER: Any = {
    "name": "weather",
    "description": "WEATHER-OF-A-CITY",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def sections(up: Upstream) -> dict[str, Any]:
    return every_kind(up)


QUESTION: dict[str, Any] = {
    "max_tokens": 2000,
    "system": [{"type": "text", "text": "BE-BRIEF", "cache_control": {"type": "ephemeral"}}],
    "stop_sequences": ["STOP-HERE"],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "tools": [WEATHER],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "LOOK-AT-THIS"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "I read.", "signature": "c2ln"},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "PARIS"}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "SUN-AND-WIND"}]},
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_over_each_kind(running: Any, up: Upstream, kind: str) -> None:
    assert KEPT["messages", kind] == FEATURES
    up.handler = lambda request: answer_of_kind(kind, request)
    with anthropic.Anthropic(api_key=running.key, base_url=running.url, max_retries=0) as client:
        whole = client.messages.create(model=kind, **QUESTION)
        with client.messages.stream(model=kind, **QUESTION) as events:
            streamed = events.get_final_message()
    for message in (whole, streamed):
        blocks = [block.to_dict() for block in message.content]
        assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use", "tool_use"]
        assert (blocks[0]["thinking"], blocks[1]["text"]) == ("Hm.", "I look.")
        assert [block["input"] for block in blocks[2:]] == [SF, NY]
        assert blocks[2]["id"] != blocks[3]["id"]
        assert (message.stop_reason, message.model) == ("tool_use", kind)
        assert message.usage.input_tokens > 0
        assert message.usage.output_tokens > 0
    for request in up.requests:
        sent = json.dumps(request.body)
        for word in ("BE-BRIEF", "LOOK-AT-THIS", PIXEL, "PARIS", "SUN-AND-WIND", "WEATHER-OF-A-CITY", "STOP-HERE"):
            assert word in sent, (word, sent)
        assert ("cache_control" in sent) == (kind == "anthropic")
        assert ('"c2ln"' in sent) == (kind in ("anthropic",)) or kind == "gemini"


def test_what_an_earlier_answer_found_is_no_address_to_fetch(running: Any, up: Upstream) -> None:
    """A model at Anthropic gets its own searches, citations and signatures back as they were; pictures have hosts."""
    up.handler = lambda request: answer_of_kind("anthropic", request)
    url = "https://pages.example/a"
    cited = {"type": "web_search_result_location", "url": url, "title": "A", "encrypted_index": "i", "cited_text": "c"}
    found = {"type": "web_search_result", "url": url, "title": "A", "encrypted_content": "e", "page_age": None}
    said = [
        {"type": "thinking", "thinking": "Hm.", "signature": "/c2ln/Zm9v"},
        {"type": "redacted_thinking", "data": "/b3Bh/cXVl"},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": url}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [found]},
        {"type": "text", "text": "A.", "citations": [cited]},
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"path": "/etc/hosts"}},
    ]
    page = {"type": "search_result", "source": url, "title": "/A", "content": [{"type": "text", "text": "B"}]}
    results = [{"type": "tool_result", "tool_use_id": "t1", "content": [page]}]
    messages = [
        {"role": "user", "content": "Search."},
        {"role": "assistant", "content": said},
        {"role": "user", "content": results},
    ]
    body = {"model": "anthropic", "max_tokens": 9, "messages": messages, "tools": [WEATHER]}
    answer = running.post("/v1/messages", body)
    assert answer.status_code == 200, answer.text
    assert up.requests[-1].body["messages"] == messages
    picture = {"type": "image", "source": {"type": "url", "url": "http://169.254.169.254/"}}
    for content in ([picture], [{"type": "tool_result", "tool_use_id": "t1", "content": [picture]}]):
        refused = running.post(
            "/v1/messages", {**body, "messages": [*messages[:2], {"role": "user", "content": content}]}
        )
        assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
    assert len(up.requests) == 1
