"""Zhipu's own SDK: at the scripted wire, which so is shown to be the vendor's, and at the gateway."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zhipu_wire as wire
from upstream import Upstream

# zhipuai is the older name of the same SDK.
try:
    import zai as sdk
    from zai import ZhipuAiClient as Client
except ImportError:
    sdk = pytest.importorskip("zhipuai", reason="neither zai-sdk nor zhipuai is installed")
    Client = sdk.ZhipuAI

HELLO = [{"role": "user", "content": "hello out there"}]
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(24)).decode()
WEATHER = {"type": "function", "function": {"name": "weather", "description": "w", "parameters": {"type": "object"}}}


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        upstream.handler = wire.zhipu_like
        yield upstream


@pytest.fixture
def running(up: Upstream, gateway: Callable) -> Any:
    providers = {
        "zhipu": {"api_key": wire.KEY, "base_url": wire.base_url(up), "retries": 0},
        "other": {"kind": "openai", "base_url": up.url, "retries": 0},
    }
    return gateway(llm={"providers": providers})


@pytest.fixture(params=["wire", "gateway"])
def client(request: pytest.FixtureRequest, up: Upstream) -> Iterator[Any]:
    """The SDK at the wire itself, and at the gateway with the wire behind it."""
    if request.param == "wire":
        sdk = Client(base_url=wire.base_url(up), api_key=wire.PLAIN_KEY, max_retries=0)
    else:
        running = request.getfixturevalue("running")
        sdk = Client(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0)
    yield sdk
    sdk.close()


def ask(client: Any, **fields: Any) -> Any:
    fields = {"messages": [dict(message) for message in HELLO], **fields}
    return client.chat.completions.create(model="glm-4.6", **fields)


@pytest.mark.proves("zhipu", "SDK at the gateway", "chat", "usage", "reasoning")
def test_chat(up: Upstream, client: Any) -> None:
    answer = ask(client, thinking={"type": "enabled"}, temperature=0, max_tokens=9)
    assert answer.choices[0].message.content == "hello out there"
    assert answer.choices[0].message.reasoning_content == "hm"
    assert (answer.model, answer.choices[0].finish_reason, answer.usage.total_tokens) == ("glm-4.6", "stop", 10)
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    assert up.requests[0].body["do_sample"] is False


@pytest.mark.proves("zhipu", "SDK at the gateway", "streaming")
def test_stream(client: Any) -> None:
    chunks = list(ask(client, stream=True, thinking={"type": "enabled"}))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == "hello out there"
    assert "".join(delta.reasoning_content or "" for delta in deltas) == "hm"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.total_tokens == 10


@pytest.mark.proves("zhipu", "SDK at the gateway", "tools", "streamed tool arguments")
def test_tools(client: Any) -> None:
    call = ask(client, tools=[WEATHER], tool_choice="auto").choices[0].message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "weather-ville"})
    streamed = [
        delta.function.arguments
        for chunk in ask(client, tools=[WEATHER], stream=True, extra_body={"tool_stream": True})
        for delta in chunk.choices[0].delta.tool_calls or ()
    ]
    assert len(streamed) == 2
    assert "".join(streamed) == call.function.arguments


@pytest.mark.proves("zhipu", "SDK at the gateway", "images")
def test_images(up: Upstream, client: Any) -> None:
    """The SDK sends the base64 of a picture alone, and so it comes to the vendor."""
    parts = [
        {"type": "text", "text": "what is it"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    ]
    answer = ask(client, messages=[{"role": "user", "content": parts}])
    assert answer.choices[0].message.content == "what is it"
    assert up.requests[0].body["messages"][0]["content"][1] == {"type": "image_url", "image_url": {"url": PIXEL}}


@pytest.mark.proves("zhipu", "SDK at the gateway", "response_format json_object")
def test_json(client: Any) -> None:
    assert ask(client, response_format={"type": "json_object"}).choices[0].message.content == '{"echo": true}'


@pytest.mark.proves("zhipu", "SDK at the gateway", "embeddings", "dimensions")
def test_embeddings(client: Any) -> None:
    model = "zhipu/embedding-3" if str(client.base_url).endswith("/v1") else "embedding-3"
    answer = client.embeddings.create(model=model, input=["a", "bcd"], dimensions=3)
    assert [item.embedding for item in answer.data] == [[1.0, 0.0, 0.1], [3.0, 1.0, 0.1]]
    assert answer.usage.total_tokens == 10


@pytest.mark.slow
@pytest.mark.proves("zhipu", "SDK at the gateway", "errors")
def test_errors(up: Upstream, client: Any) -> None:
    up.use(wire.error("1210", "parameter", 400), times=1)
    with pytest.raises(sdk.core.APIRequestFailedError, match="parameter"):
        ask(client)
    up.use(wire.error("1302", "too many", 429), times=1)
    with pytest.raises(sdk.core.APIReachLimitError, match="too many"):
        ask(client)
    up.stream(
        [wire.chunk("glm-4.6", {"content": "half"}), {"error": {"code": "1234", "message": "it broke"}}], delay=0.05
    )
    chunks = ask(client, stream=True)
    assert next(iter(chunks)).choices[0].delta.content == "half"
    with pytest.raises(sdk.core.APIResponseError):
        list(chunks)


@pytest.mark.proves("zhipu", "SDK at the gateway", "errors")
def test_a_key_of_ours_that_is_wrong(up: Upstream, running: Any) -> None:
    client = Client(base_url=f"{running.url}/v1", api_key="sk-sage-wrong", max_retries=0)
    with client, pytest.raises(sdk.core.APIAuthenticationError):
        ask(client)
    assert up.requests == []


def test_a_picture_reaches_other_vendors_as_the_url_that_it_was(up: Upstream, running: Any) -> None:
    up.reply(wire.answer("m", {"role": "assistant", "content": "x"}))
    url = f"data:image/png;base64,{PIXEL}"
    with Client(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as client:
        parts = [{"type": "image_url", "image_url": {"url": url}}]
        client.chat.completions.create(model="other/m", messages=[{"role": "user", "content": parts}])
    assert up.requests[0].body["messages"][0]["content"][0]["image_url"]["url"] == url
