"""A request in Anthropic's own wire: it goes on with another model, and what comes back is read by Anthropic's SDK."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import orjson
import pytest
from anthropic._streaming import SSEDecoder
from anthropic.types import Message, RawMessageStreamEvent
from anthropic_wire import encoded, end, message, start, text_block, thinking_block, tool_block, usage
from pydantic import TypeAdapter

from sage.errors import InvalidRequest, SageError, Unavailable, UpstreamFailed
from sage.middleware.providers.anthropic.provider import AnthropicProvider
from sage.middleware.providers.base import ModelCall, Native, Operation, UpstreamModel
from sage.middleware.settings.providers import AnthropicSettings

pytestmark = pytest.mark.slow  # Anthropic's SDK

PROVIDER = AnthropicProvider("claude", AnthropicSettings(api_key="sk-ant-0123456789"))
TARGET = UpstreamModel("claude-sonnet-4-5")
OWN = {
    "model": "public",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    "tools": [{"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"}],
    "some_new_field": {"a": [1]},
}
CHAT = {"model": "public", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
STREAM = [*thinking_block("hm"), *text_block("grün", index=1), *tool_block("f", "{}", index=2), *end("tool_use")]
_EVENT = TypeAdapter[Any](RawMessageStreamEvent)


def call(operation: Operation = Operation.CHAT, body: Any = OWN, **headers: str) -> ModelCall:
    return ModelCall(operation, dict(CHAT), "public", stream=True, native=Native("anthropic", body, headers))


def sent(asked: ModelCall, provider: AnthropicProvider = PROVIDER) -> Any:
    return provider.encode(asked, TARGET, provider.endpoints[0])


def relayed(data: bytes, step: int = 0) -> tuple[list[Any], Any]:
    """The events that come out of ``data``, which comes in pieces of so many bytes, and the relay."""
    relay = PROVIDER.relay(call())
    edges = range(0, len(data) + step, step) if step else (0, len(data))
    out = b"".join(relay.feed(data[a:b]) for a, b in pairwise(edges))
    if relay.error is None:
        out += relay.close()
    return [(event.event, orjson.loads(event.data)) for event in SSEDecoder().iter_bytes(iter([out]))], relay


def test_the_body_goes_on_with_another_model() -> None:
    request = sent(call(**{"anthropic-version": "2026-10-21"}))
    assert request.url == "https://api.anthropic.com/v1/messages"
    assert orjson.loads(request.body) == {**OWN, "model": "claude-sonnet-4-5"}
    assert request.headers["anthropic-version"] == "2026-10-21"
    assert request.headers["x-api-key"] == "sk-ant-0123456789"
    assert sent(call()).headers["anthropic-version"] == "2023-06-01"
    assert sent(call(**{"anthropic-version": "x\r\ny: z"})).headers["anthropic-version"] == "2023-06-01"
    counted = sent(call(Operation.TOKENIZE))
    assert counted.url.endswith("/v1/messages/count_tokens")
    assert orjson.loads(counted.body).keys() == {"model", "messages", "tools"}
    assert "anthropic-version" in PROVIDER.endpoints[0].headers
    assert PROVIDER.endpoints[0].headers["anthropic-version"] == "2023-06-01"


def test_only_features_in_beta_that_are_allowed_go_on() -> None:
    wanted = (
        "interleaved-thinking-2025-05-14, mcp-client-2025-11-20,fast-mode-2026-02-01,context-1m-2025-08-07,\r\nx: y"
    )
    allowed = "interleaved-thinking-2025-05-14,context-1m-2025-08-07"
    assert sent(call(**{"anthropic-beta": wanted})).headers["anthropic-beta"] == allowed
    assert "anthropic-beta" not in sent(call(**{"anthropic-beta": "mcp-client-2025-11-20"})).headers
    settings = AnthropicSettings(api_key="k" * 9, betas=("fast-*",), headers={"Anthropic-Beta": "own-1"})
    configured = AnthropicProvider("claude", settings)
    assert (
        sent(call(**{"anthropic-beta": wanted}), configured).headers["anthropic-beta"] == "own-1,fast-mode-2026-02-01"
    )


def test_tools_that_fetch_are_refused_in_this_wire_too() -> None:
    for field, value, param in (
        ("mcp_servers", [{"type": "url", "url": "https://x.example", "name": "x"}], "mcp_servers"),
        ("tools", [{"type": "web_fetch_20260318", "name": "web_fetch"}], "tools[0]"),
        ("tools", [{"type": "web_search_20250305", "name": "web_search"}], "tools[0]"),
        ("extra_headers", {"x": "y"}, "extra_headers"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            sent(call(body={**OWN, field: value}))
        assert caught.value.param == param
    allowed = AnthropicProvider("claude", AnthropicSettings(api_key="k" * 9, hosted_tools=("web_search*",)))
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    assert orjson.loads(sent(call(body={**OWN, "tools": tools}), allowed).body)["tools"] == tools


def test_thoughts_of_other_vendors_do_not_go_on() -> None:
    signed = {"type": "thinking", "thinking": "mine", "signature": "c2ln"}
    turn = {"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": ""}, signed]}
    body = {**OWN, "messages": [*OWN["messages"], turn, "nonsense"]}
    assert orjson.loads(sent(call(body=body)).body)["messages"][1:] == [
        {"role": "assistant", "content": [signed]},
        "nonsense",
    ]
    assert turn["content"][0]["thinking"] == "x"


def test_a_whole_answer_keeps_all_but_the_models_name() -> None:
    counts = usage(4, 3, cache_read_input_tokens=10, cache_creation_input_tokens=2, service_tier="standard")
    answer = message({"type": "text", "text": "x"}, counted=counts, container=None, some_new_field=1)
    body, counted = PROVIDER.decode(call(), orjson.dumps(answer))
    assert orjson.loads(body) == {**answer, "model": "public"}
    assert list(orjson.loads(body)) == list(answer)
    assert Message.model_validate_json(body).model == "public"
    assert (counted.prompt_tokens, counted.completion_tokens) == (16, 3)
    assert counted.details() == (10, 0, {"cache_write_tokens": 2})


@pytest.mark.parametrize("step", [0, 1, 7])
def test_a_stream_keeps_all_but_the_models_name(step: int) -> None:
    whole = [start(usage(4, 1, cache_read_input_tokens=10)), {"type": "ping"}, {"type": "news", "a": 1}, *STREAM]
    data = b"".join(
        encoded(item) if item["type"] != "news" else b'data: {"type":"news",\r\ndata: "a":1}\r\n\r\n' for item in whole
    )
    events, relay = relayed(data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") if step == 7 else data, step)
    whole[0]["message"]["model"] = "public"
    assert events == [(item["type"], item) for item in whole]
    for _, item in events:
        if item["type"] not in ("ping", "news"):
            _EVENT.validate_python(item)
    assert relay.finished
    assert (relay.usage.prompt_tokens, relay.usage.completion_tokens, relay.usage.details()[0]) == (14, 3, 10)


def test_nothing_goes_on_before_the_first_content() -> None:
    relay = PROVIDER.relay(call())
    assert relay.feed(encoded(start()) + encoded({"type": "ping"})) == b""
    first = relay.feed(encoded(text_block("x")[0]))
    assert [line for line in first.split(b"\n") if line.startswith(b"event")] == [
        b"event: message_start",
        b"event: ping",
        b"event: content_block_start",
    ]
    relay = PROVIDER.relay(call())
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    assert relay.feed(encoded(start()) + encoded(overloaded)) == b""
    assert isinstance(relay.error, Unavailable)


def test_a_stream_that_is_cut_off_has_not_ended() -> None:
    for kept in range(len(STREAM) - 1):
        relay = PROVIDER.relay(call())
        relay.feed(b"".join(map(encoded, (start(), *STREAM[:kept]))))
        if kept < len(STREAM) - 1 and not relay.finished:
            with pytest.raises(UpstreamFailed, match="before the answer was whole"):
                relay.close()
    events, relay = relayed(b"".join(map(encoded, (start(), *STREAM[:-1]))))
    assert relay.finished
    assert events[-1] == ("message_stop", {"type": "message_stop"})
    relay = PROVIDER.relay(call())
    relay.feed(encoded(start()) + encoded({"type": "message_stop"}))
    assert isinstance(relay.error, UpstreamFailed)


def test_what_is_no_event_is_an_error() -> None:
    for nonsense in (
        b"data: 5\n\n",
        b"data: {\n\n",
        b'data: {"type":"a b"}\n\n',
        b'data: {"error":{"message":"x"}}\n\n',
    ):
        relay = PROVIDER.relay(call())
        relay.feed(encoded(start()) + nonsense)
        assert isinstance(relay.error, UpstreamFailed), nonsense
    for body in (b"{}", b"5", b'{"type":"message"}', b'{"type":"error","error":{"type":"api_error","message":"x"}}'):
        with pytest.raises(SageError) as caught:
            PROVIDER.decode(call(), body)
        assert caught.value.status == 502
