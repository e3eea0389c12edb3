"""Gemini behind Anthropic's surface: a loop of tools keeps Google's signatures, which Anthropic's SDK carries."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic_wire import KEY as CLAUDES_KEY
from anthropic_wire import anthropic_like
from gemini_wire import KEY, answer, called, events, gemini_like
from shared_gateway import PATIENT
from upstream import Received, Script, Upstream, reply

pytestmark = pytest.mark.slow  # both vendors' SDKs

HELLO: Any = [{"role": "user", "content": "hello out there"}]
CLOCK: Any = {"name": "clock", "input_schema": {"type": "object"}}
SIGNED = base64.b64encode(b"signature").decode()
SPEAKS = {"bench": ("google", "gemini-3.1-pro-preview"), "claude": ("claude", "claude-sonnet-4-5")}


def sections(up: Upstream) -> dict[str, Any]:
    base_url = f"http://127.0.0.1:{up.port}"
    providers = {
        "google": {"kind": "gemini", "api_key": KEY, "base_url": base_url},
        "claude": {"kind": "anthropic", "api_key": CLAUDES_KEY, "base_url": base_url},
    }
    models = {name: {"deployments": [{"provider": at, "model": model}]} for name, (at, model) in SPEAKS.items()}
    return {"llm": {"providers": providers, "models": models, "routing": PATIENT}}


@pytest.fixture
def client(running: Any, up: Upstream) -> Iterator[anthropic.Anthropic]:
    def either(request: Received) -> Script:
        return anthropic_like(request) if request.path.startswith("/v1/") else gemini_like(request)

    up.handler = either
    with anthropic.Anthropic(api_key=running.key, base_url=running.url, max_retries=0) as sdk:
        yield sdk


def test_thoughts_are_shown_once_also_when_their_signature_follows_a_text(
    up: Upstream, client: anthropic.Anthropic
) -> None:
    asked: dict[str, Any] = {"model": "bench", "max_tokens": 2000, "tools": [CLOCK], "messages": HELLO}
    thought = {"text": "hm", "thought": True}
    later = answer({"text": " so", "thought": True}, called("clock", {}, SIGNED), called("clock", {"b": 1}))
    up.use(events(answer(thought, finish=None), answer({"text": "I look."}, finish=None), later), times=1)
    with client.messages.stream(**asked) as streaming:
        blocks = [block.to_dict() for block in streaming.get_final_message().content]
    assert [block.get("thinking") or block.get("text") for block in blocks] == ["hm", "I look.", " so", None, None]
    turn = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": b["id"]} for b in blocks[3:]]}
    client.messages.create(**{**asked, "messages": [*HELLO, {"role": "assistant", "content": blocks}, turn]})
    parts = up.requests[-1].body["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [None, SIGNED, None]


@pytest.mark.parametrize("stream", [True, False])
def test_a_loop_of_tools(up: Upstream, client: anthropic.Anthropic, stream: bool) -> None:
    thought, call = {"text": "hm", "thought": True}, called("clock", {"a": 1}, SIGNED)
    asked: dict[str, Any] = {"model": "bench", "max_tokens": 2000, "tools": [CLOCK]}
    asked["extra_body"] = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    if stream:
        up.use(events(answer(thought, finish=None), answer(call)), times=1)
        with client.messages.stream(messages=HELLO, **asked) as streaming:
            first = streaming.get_final_message()
    else:
        up.use(reply(answer(thought, call)), times=1)
        first = client.messages.create(messages=HELLO, **asked)
    assert [block.type for block in first.content] == ["thinking", "tool_use"]
    assert first.stop_reason == "tool_use"
    used = first.content[1]
    result = {"type": "tool_result", "tool_use_id": used.id, "content": "noon"}
    chat: Any = [*HELLO, first.to_param(), {"role": "user", "content": [result]}]
    client.messages.create(messages=chat, **asked)
    assert up.requests[1].body["contents"][1:] == [
        {"role": "model", "parts": [called("clock", {"a": 1}, SIGNED, used.id)]},
        {
            "role": "user",
            "parts": [{"functionResponse": {"id": used.id, "name": "clock", "response": {"output": "noon"}}}],
        },
    ]
    client.messages.create(
        **{**asked, "model": "claude", "extra_body": {}}, messages=chat
    )  # which gets no such thought
    assert [block["type"] for block in up.requests[2].body["messages"][1]["content"]] == ["tool_use"]
