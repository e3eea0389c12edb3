"""OpenAI's surface, with OpenAI's own SDK as the client and a scripted upstream behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import openai
import pytest
import requests
from upstream import Upstream, chat_chunk, usage, usage_chunk


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def sdk(running, key: str | None = None) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=key or running.key, max_retries=0)


HELLO = [{"role": "user", "content": "hello out there"}]


def test_chat(up: Upstream, upstreams: Callable) -> None:
    with sdk(upstreams(up)) as client:
        answer = client.chat.completions.create(model="bench", messages=HELLO)
    assert answer.choices[0].message.content == "hello out there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "bench"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 3)
    sent = up.requests[0]
    assert sent.body == {"model": "theirs-0", "messages": HELLO}
    assert sent.headers["authorization"] == "Bearer sk-upstream"


def test_chat_stream_with_and_without_usage(up: Upstream, upstreams: Callable) -> None:
    with sdk(upstreams(up)) as client:
        plain = list(client.chat.completions.create(model="bench", messages=HELLO, stream=True))
        counted = list(
            client.chat.completions.create(
                model="bench", messages=HELLO, stream=True, stream_options={"include_usage": True}
            )
        )
    for chunks in (plain, counted):
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == "hello out there"
        assert {chunk.model for chunk in chunks} == {"bench"}
    assert all(chunk.choices for chunk in plain)
    assert counted[-1].choices == []
    assert counted[-1].usage.total_tokens == 7
    assert len(counted) == len(plain) + 1
    # The upstream is asked for the usage in either case: what is not shown is still counted.
    assert [request.body["stream_options"] for request in up.requests] == [{"include_usage": True}] * 2


def test_usage_of_streams_is_counted_though_not_asked_for(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    with sdk(running) as client:
        list(client.chat.completions.create(model="bench", messages=HELLO, stream=True))
    metrics = running.get("/metrics").text
    assert 'sage_tokens_total{model="bench",type="prompt"} 4.0' in metrics
    assert 'sage_tokens_total{model="bench",type="completion"} 3.0' in metrics
    assert 'sage_requests_total{model="bench",status="200"} 1.0' in metrics
    assert 'sage_requests_in_flight{model="bench"} 0.0' in metrics
    assert 'sage_time_to_first_token_seconds_count{model="bench"} 1.0' in metrics


def test_completions_and_embeddings(up: Upstream, upstreams: Callable) -> None:
    with sdk(upstreams(up)) as client:
        text = client.completions.create(model="bench", prompt="once upon")
        streamed = "".join(
            chunk.choices[0].text for chunk in client.completions.create(model="bench", prompt="once upon", stream=True)
        )
        floats = client.embeddings.create(model="bench", input=["a", "bcd"], encoding_format="float")
        packed = client.embeddings.create(model="bench", input=["a", "bcd"])
    assert text.choices[0].text == streamed == "once upon"
    assert [item.embedding for item in floats.data] == [[1.0, 0.0, 1.0], [3.0, 1.0, 1.0]]
    assert [item.embedding for item in packed.data] == [[1.0, 0.0, 1.0], [3.0, 1.0, 1.0]]
    assert floats.model == packed.model == "bench"


def test_models(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    with sdk(running) as client:
        assert "bench" in [model.id for model in client.models.list()]
        assert client.models.retrieve("bench").owned_by == "up0"
        assert client.models.retrieve("up0/org/some-model").id == "up0/org/some-model"
        with pytest.raises(openai.NotFoundError, match="registered: bench"):
            client.models.retrieve("nothing")


def test_unknown_fields_pass_through_both_ways(up: Upstream, upstreams: Callable) -> None:
    answer = {
        "id": "chatcmpl-7",
        "object": "chat.completion",
        "created": 1,
        "model": "theirs-0-2026-01-01",
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "message": {
                    "role": "assistant",
                    "content": None,
                    "reasoning_content": "hm \u4e2d\u6587",
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
                    ],
                },
            }
        ],
        "usage": usage(3, 2) | {"prompt_tokens_details": {"cached_tokens": 1}},
        "service_tier": "flex",
    }
    up.reply(answer, times=1)
    running = upstreams(up)
    body = {
        "model": "bench",
        "messages": [{"role": "user", "content": "x", "name": "me"}],
        "thinking": {"type": "enabled"},
        "vendor_field": [1, {"deep": None}],
        "temperature": 0.1,
    }
    received = running.post("/v1/chat/completions", body).json()
    assert up.requests[0].body == body | {"model": "theirs-0"}
    assert received == answer | {"model": "bench"}


def test_nothing_is_added_to_a_request(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    running.post("/v1/embeddings", {"model": "bench", "input": "x"})
    assert up.requests[0].body == {"model": "theirs-0", "input": "x"}


def test_unknown_fields_of_stream_chunks_stay(up: Upstream, upstreams: Callable) -> None:
    chunk = chat_chunk("x", system_fingerprint="fp", vendor={"model": "inner"}, model="theirs-0")
    up.stream([chunk, chat_chunk(None, "stop", model="theirs-0"), usage_chunk(1, 1) | {"model": "theirs-0"}])
    with sdk(upstreams(up)) as client:
        first = next(iter(client.chat.completions.create(model="bench", messages=HELLO, stream=True)))
    assert first.model == "bench"
    assert first.system_fingerprint == "fp"
    assert first.vendor == {"model": "inner"}


def test_a_doubled_key_cannot_carry_a_second_model_past_the_check(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    key = running.new_key(models=["bench"])
    body = b'{"model":"bench","model":"up0/secret","messages":[{"role":"user","content":"x"}]}'
    answer = requests.post(f"{running.url}/v1/chat/completions", data=body, headers=running.headers(key), timeout=10)
    assert answer.status_code == 403
    body = b'{"model":"up0/secret","model":"bench","messages":[{"role":"user","content":"x"}]}'
    answer = requests.post(f"{running.url}/v1/chat/completions", data=body, headers=running.headers(key), timeout=10)
    assert answer.status_code == 200
    assert up.requests[0].raw.count(b'"model"') == 1
    assert up.requests[0].body["model"] == "theirs-0"


def test_what_was_chosen_is_in_the_head(up: Upstream, upstreams: Callable) -> None:
    answer = upstreams(up).chat()
    assert answer.headers["x-sage-deployment"] == "up0/theirs-0"
    assert answer.headers["x-sage-attempts"] == "1"


@pytest.mark.slow
def test_chinese_text_is_whole_however_the_bytes_are_torn(up: Upstream, upstreams: Callable) -> None:
    text = "你好，世界。模型 🙂"
    up.stream([chat_chunk(text), chat_chunk(None, "stop")], split=tuple(range(1, 600, 7)))
    with sdk(upstreams(up)) as client:
        chunks = list(client.chat.completions.create(model="bench", messages=HELLO, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
