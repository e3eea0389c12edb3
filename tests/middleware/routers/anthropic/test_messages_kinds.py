"""Messages over each kind of provider, whole and streamed: what docs/surfaces.md says is kept, is kept."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import anthropic_wire
import cohere_wire
import gemini_wire
import ollama_wire
import pytest
from shared_gateway import PATIENT
from surface_losses import FEATURES, KEPT
from upstream import Received, Script, Upstream, chat_chunk, reply, stream, usage_chunk

pytestmark = pytest.mark.slow  # Anthropic's SDK

KINDS = [kind for surface, kind in KEPT if surface == "messages"]
PIXEL = "iVBORw0KGgo="
SF, NY = {"city": "SF"}, {"city": "NY"}
WEATHER: Any = {
    "name": "weather",
    "description": "WEATHER-OF-A-CITY",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def sections(up: Upstream) -> dict[str, Any]:
    root = up.url.removesuffix("/v1")
    keyed = {kind: {"kind": kind, "base_url": up.url, "api_key": "sk-upstream"} for kind in KINDS}
    keyed["ollama"]["base_url"] = keyed["anthropic"]["base_url"] = keyed["gemini"]["base_url"] = root
    models = {kind: {"deployments": [{"provider": kind, "model": MODELS.get(kind, "theirs-0")}]} for kind in KINDS}
    return {"llm": {"providers": keyed, "models": models, "routing": PATIENT}}


MODELS = {"anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-pro"}


def openai_answer(streams: bool) -> Script:
    calls = [
        {"index": n, "id": f"c{n}", "type": "function", "function": {"name": "weather", "arguments": json.dumps(city)}}
        for n, city in enumerate((SF, NY))
    ]
    if not streams:
        message = {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.", "tool_calls": calls}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        counted = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
        return reply({"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], "usage": counted})
    deltas = [{"reasoning_content": "Hm."}, {"content": "I look."}, *({"tool_calls": [call]} for call in calls)]
    made = [chat_chunk(None, choices=[{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas]
    return stream([*made, chat_chunk(None, "tool_calls"), usage_chunk(9, 5)])


def ollama_answer(streams: bool) -> Script:
    calls = [ollama_wire.tool_call("weather", SF), ollama_wire.tool_call("weather", NY, 1)]
    if not streams:
        return reply(ollama_wire.whole_chat("I look.", thinking="Hm.", tool_calls=calls))
    said = [ollama_wire.chat_line(thinking="Hm."), ollama_wire.chat_line("I look.")]
    return ollama_wire.lines(*said, ollama_wire.chat_line(tool_calls=calls), ollama_wire.chat_end())


def cohere_answer(streams: bool) -> Script:
    calls = [
        {"id": f"c{n}", "type": "function", "function": {"name": "weather", "arguments": json.dumps(city)}}
        for n, city in enumerate((SF, NY))
    ]
    if not streams:
        content = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "I look."}]
        return reply(cohere_wire.chat_answer(content=content, tool_calls=calls, finish="TOOL_CALL"))
    return cohere_wire.chat_stream(
        *cohere_wire.text_events("Hm.", kind="thinking"),
        *cohere_wire.text_events("I look.", index=1),
        *cohere_wire.called(0, "weather", json.dumps(SF)),
        *cohere_wire.called(1, "weather", json.dumps(NY)),
        cohere_wire.end("TOOL_CALL"),
    )


def anthropic_answer(streams: bool) -> Script:
    if not streams:
        return reply(
            anthropic_wire.message(
                {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "c0", "name": "weather", "input": SF},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": NY},
                stop="tool_use",
            )
        )
    return anthropic_wire.events(
        *anthropic_wire.thinking_block("Hm.", signature="c2ln"),
        *anthropic_wire.text_block("I ", "look.", index=1),
        *anthropic_wire.tool_block("weather", json.dumps(SF), index=2, identity="c0"),
        *anthropic_wire.tool_block("weather", json.dumps(NY), index=3, identity="c1"),
        *anthropic_wire.end("tool_use"),
    )


def gemini_answer(streams: bool) -> Script:
    parts = [
        {"text": "Hm.", "thought": True},
        {"text": "I look."},
        gemini_wire.called("weather", SF),
        gemini_wire.called("weather", NY),
    ]
    if not streams:
        return reply(gemini_wire.answer(*parts))
    return gemini_wire.events(*(gemini_wire.answer(part, finish=None) for part in parts), gemini_wire.answer())


ANSWERS = {
    "ollama": ollama_answer,
    "cohere": cohere_answer,
    "anthropic": anthropic_answer,
    "gemini": gemini_answer,
}


def asks_for_a_stream(request: Received) -> bool:
    return "streamGenerateContent" in request.path or bool(request.body.get("stream"))


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
    up.handler = lambda request: ANSWERS.get(kind, openai_answer)(asks_for_a_stream(request))
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
    up.handler = lambda request: anthropic_answer(asks_for_a_stream(request))
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
