"""``/generate`` over a scripted upstream."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from upstream import Upstream, chat_chunk, usage_chunk

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def test_a_prompt_in_a_text_out(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    body = {"model": "bench", "prompt": "hello you", "max_tokens": 9, "temperature": 0, "vendor": {"a": None}}
    answer = running.post("/generate", body).json()
    assert answer == {
        "id": "chatcmpl-1",
        "model": "bench",
        "text": "hello you",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        "provider": "up0",
    }
    assert up.requests[0].body == {
        "model": "theirs-0",
        "max_tokens": 9,
        "temperature": 0,
        "vendor": {"a": None},
        "messages": [{"role": "user", "content": "hello you"}],
    }


def test_messages_go_as_they_are(up: Upstream, upstreams: Callable) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    running = upstreams(up)
    assert running.post("/generate", {"model": "bench", "messages": messages}).json()["text"] == "hi"
    assert up.requests[0].body["messages"] == messages


def test_the_stream_has_texts_then_the_finish_then_done(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    answer = running.post("/generate", {"model": "bench", "prompt": "hello you", "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [part.removeprefix("data: ") for part in answer.text.split("\n\n") if part]
    assert [json.loads(event) for event in events[:-1]] == [
        {"text": "hello "},
        {"text": "you"},
        {
            "text": "",
            "finish_reason": "stop",
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        },
    ]
    assert events[-1] == "[DONE]"


@pytest.mark.parametrize("usage", [None, {}, {"total_tokens": None}])
def test_a_usage_that_nobody_told_is_unknown_and_not_zero(up: Upstream, upstreams: Callable, usage: object) -> None:
    running = upstreams(up)
    up.stream([chat_chunk("a"), chat_chunk(None, "stop"), {"choices": [], "usage": usage}], times=1)
    answer = running.post("/generate", {"model": "bench", "prompt": "x", "stream": True})
    last = json.loads(answer.text.split("\n\n")[-3].removeprefix("data: "))
    assert last == {"text": "", "finish_reason": "stop", "usage": None}
    choice = {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
    up.reply({"choices": [choice], "usage": usage})
    assert running.post("/generate", {"model": "bench", "prompt": "x"}).json()["usage"] is None


def test_finish_and_usage_in_one_last_chunk_are_kept(up: Upstream, upstreams: Callable) -> None:
    up.stream([chat_chunk("a"), chat_chunk(None, "length", usage=usage_chunk(2, 1)["usage"])])
    answer = upstreams(up).post("/generate", {"model": "bench", "prompt": "x", "stream": True})
    last = json.loads(answer.text.split("\n\n")[-3].removeprefix("data: "))
    assert last["finish_reason"] == "length"
    assert last["usage"]["total_tokens"] == 3


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "x"}, "model"),
        ({"model": "bench"}, None),
        ({"model": "bench", "prompt": "x", "messages": []}, None),
        ({"model": "bench", "prompt": 5}, "prompt"),
        ({"model": "bench", "prompt": "x", "max_tokens": "9"}, "max_tokens"),
        ({"model": "bench", "prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"model": "bench", "prompt": "x", "stream": 1}, "stream"),
        ({"model": "bench", "prompt": "x", "stop": 1}, "stop"),
        ({"model": "bench", "prompt": "x", "n": 2}, "n"),
        ({"model": "bench", "prompt": "x", "models": "other"}, "models"),
        ({"model": "bench", "messages": [{"content": "x"}]}, "messages[0]"),
        ({"model": "bench", "prompt": "x", "search": "c"}, "search"),
        ({"model": "bench", "prompt": "x", "search": {"collections": "c"}}, "search.collections"),
        ({"model": "bench", "prompt": "x", "search": {"top_k": 0}}, "search.top_k"),
        ({"model": "bench", "prompt": "x", "memory": "s"}, "memory"),
        ({"model": "bench", "prompt": "x", "memory": {}}, "memory.session_id"),
        ({"model": "bench", "prompt": "x", "memory": {"session_id": "s", "top": 5}}, "memory.top"),
        ({"model": "bench", "messages": [{"content": "x"}], "memory": {"session_id": "s"}}, "messages[0]"),
    ],
)
def test_bad_requests_name_their_field(up: Upstream, upstreams: Callable, body: dict, param: str | None) -> None:
    answer = upstreams(up).post("/generate", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert up.requests == []
