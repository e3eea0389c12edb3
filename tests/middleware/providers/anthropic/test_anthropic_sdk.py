"""Anthropic's own SDK at the gateway, before Anthropic: nothing is translated, and everything is counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic_wire import (
    KEY,
    anthropic_like,
    block,
    end,
    events,
    failure,
    message,
    text_block,
    thinking_block,
    tool_block,
    usage,
)
from shared_gateway import PATIENT
from upstream import Upstream, reply

pytestmark = pytest.mark.slow  # Anthropic's SDK

HELLO: Any = [{"role": "user", "content": "hello out there"}]
CLOCK: Any = {"name": "clock", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}
COUNTED = usage(4, 3, cache_read_input_tokens=100, cache_creation_input_tokens=20)


def sections(up: Upstream) -> dict[str, Any]:
    provider = {"kind": "anthropic", "api_key": KEY, "base_url": f"http://127.0.0.1:{up.port}", "retries": 0}
    models = {
        "bench": {"deployments": [{"provider": "claude", "model": "claude-sonnet-4-5"}]},
        "newer": {"deployments": [{"provider": "claude", "model": "claude-opus-4-8"}]},
    }
    return {"llm": {"providers": {"claude": provider}, "models": models, "routing": PATIENT}}


@pytest.fixture
def claude(up: Upstream) -> Upstream:
    up.handler = anthropic_like
    return up


@pytest.fixture
def client(running: Any) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key=running.key, base_url=running.url, max_retries=0) as sdk:
        yield sdk


def rows(running: Any) -> list[tuple[int, int]]:
    """Tokens of the calls so far, the newest first."""
    listed = running.get("/usage/requests").json()["requests"]
    return [(row["prompt_tokens"], row["completion_tokens"]) for row in listed]


@pytest.mark.proves("anthropic", "SDK at the gateway")
def test_a_question_goes_on_as_it_is(claude: Upstream, client: anthropic.Anthropic) -> None:
    asked = {
        "max_tokens": 9,
        "messages": HELLO,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "tools": [CLOCK],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "metadata": {"user_id": "u"},
        "service_tier": "standard_only",
    }
    answer = client.messages.create(model="bench", **asked)
    assert (answer.content[0].text, answer.model, answer.id) == ("hello out there", "bench", "msg_01")
    sent = claude.requests[0]
    assert sent.body == {**asked, "model": "claude-sonnet-4-5"}
    assert sent.headers["anthropic-version"] == "2026-10-21"
    assert sent.headers["x-api-key"] == KEY
    assert "authorization" not in sent.headers
    beta = client.beta.messages.create(
        model="bench", max_tokens=9, messages=HELLO, betas=["interleaved-thinking-2025-05-14", "mcp-client-2025-11-20"]
    )
    assert beta.content[0].text == "hello out there"
    assert claude.requests[1].headers["anthropic-beta"] == "interleaved-thinking-2025-05-14"
    counted = client.messages.count_tokens(model="bench", messages=HELLO, tools=[CLOCK])
    assert counted.input_tokens == 6
    assert claude.requests[2].body == {"model": "claude-sonnet-4-5", "messages": HELLO, "tools": [CLOCK]}


def test_a_loop_of_tools_with_thoughts(claude: Upstream, client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"max_tokens": 2000, "tools": [CLOCK]}
    thinking = {"type": "enabled", "budget_tokens": 1024}
    hidden = {"type": "redacted_thinking", "data": "ZW5j"}
    stream = [*thinking_block("h", "m"), *block(hidden, index=1), *tool_block("clock", '{"a":', "1}", index=2)]
    claude.use(events(*stream, *end("tool_use", counted={"output_tokens": 3}), counted=COUNTED), times=1)
    with client.messages.stream(model="bench", messages=HELLO, thinking=thinking, **asked) as streaming:
        first = streaming.get_final_message()
    assert [part.to_dict() for part in first.content] == [
        {"type": "thinking", "thinking": "hm", "signature": "c2lnbg=="},
        hidden,
        {"type": "tool_use", "id": "toolu_01", "name": "clock", "input": {"a": 1}},
    ]
    assert (first.stop_reason, first.model, first.usage.cache_read_input_tokens) == ("tool_use", "bench", 100)
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_01", "content": "noon"}]}
    client.messages.create(model="bench", messages=[*HELLO, first.to_param(), result], thinking=thinking, **asked)
    assert claude.requests[1].body["messages"][1]["content"][:2] == [part.to_dict() for part in first.content[:2]]


def test_tokens_are_counted(claude: Upstream, client: anthropic.Anthropic, running: Any) -> None:
    claude.use(reply(message({"type": "text", "text": "x"}, counted=COUNTED)), times=1)
    client.messages.create(model="bench", max_tokens=9, messages=HELLO)
    claude.use(events(*text_block("x"), *end(counted={"output_tokens": 5}), counted=COUNTED), times=1)
    with client.messages.stream(model="bench", max_tokens=9, messages=HELLO) as streaming:
        assert streaming.get_final_text() == "x"
    assert rows(running)[:2] == [(124, 5), (124, 3)]
    with client.messages.stream(model="bench", max_tokens=9, messages=HELLO) as streaming:
        assert streaming.get_final_text() == "hello out there "
    assert claude.requests[-1].body["stream"] is True


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (404, "not_found_error", anthropic.NotFoundError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (500, "api_error", anthropic.InternalServerError),
        (529, "overloaded_error", anthropic.InternalServerError),
    ],
)
def test_errors(claude: Upstream, client: anthropic.Anthropic, status: int, kind: str, error: Any) -> None:
    claude.use(failure(status, kind, "so it is"))
    for stream in (False, True):
        with pytest.raises(error, match="so it is"):
            client.messages.create(model="bench", max_tokens=9, messages=HELLO, stream=stream)


def test_a_stream_that_fails_or_is_cut_off(claude: Upstream, client: anthropic.Anthropic) -> None:
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    for rest, told in (([overloaded], "Overloaded"), ([], "before the answer was whole")):
        claude.use(events(*text_block("half")[:2], *rest, delay=0.02), times=1)
        seen = []
        with (
            pytest.raises(anthropic.APIStatusError, match=told),
            client.messages.stream(model="bench", max_tokens=9, messages=HELLO) as streaming,
        ):
            seen += list(streaming.text_stream)
        assert streaming.current_message_snapshot.content[0].text == "half"


def test_a_tool_that_fetches_is_refused(claude: Upstream, client: anthropic.Anthropic) -> None:
    tool: Any = {"type": "web_search_20260318", "name": "web_search"}
    with pytest.raises(anthropic.BadRequestError, match="hosted_tools"):
        client.messages.create(model="bench", max_tokens=9, messages=HELLO, tools=[tool])
    assert not claude.requests


def test_an_answer_of_the_other_sort(claude: Upstream, client: anthropic.Anthropic) -> None:
    cited: Any = {
        "type": "char_location",
        "cited_text": "x",
        "document_index": 0,
        "document_title": "d",
        "start_char_index": 0,
        "end_char_index": 1,
        "file_id": None,
    }
    content: Any = [
        {"type": "thinking", "thinking": "hm", "signature": "c2lnbg=="},
        {"type": "redacted_thinking", "data": "ZW5j"},
        {"type": "text", "text": "grün", "citations": [cited]},
        {"type": "tool_use", "id": "toolu_01", "name": "clock", "input": {"a": 1}},
    ]
    whole = message(*content, stop="tool_use", counted=COUNTED)
    claude.use(reply(whole), times=1)
    with client.messages.stream(model="bench", max_tokens=9, messages=HELLO) as streaming:
        streamed = streaming.get_final_message()
    texts = [
        *thinking_block("h", "m"),
        *block(content[1], index=1),
        *block(
            {"type": "text", "text": "", "citations": []},
            *({"type": "text_delta", "text": piece} for piece in ("gr", "ün")),
            {"type": "citations_delta", "citation": cited},
            index=2,
        ),
        *tool_block("clock", '{"a"', ":1}", index=3),
    ]
    claude.use(events(*texts, *end("tool_use", counted={"output_tokens": 3}), counted=COUNTED), times=1)
    gathered = client.messages.create(model="bench", max_tokens=9, messages=HELLO)
    for answer in (streamed, gathered):
        assert [part.to_dict(exclude_none=False, exclude_unset=True) for part in answer.content] == content
        assert (answer.model, answer.stop_reason, answer.usage.output_tokens) == ("bench", "tool_use", 3)
        assert answer.usage.cache_read_input_tokens == 100
