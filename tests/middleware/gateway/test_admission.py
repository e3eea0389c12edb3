"""What a request may ask for: what multiplies work is bounded, what diverts it is refused, each naming its field."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from upstream import Upstream

from sage.errors import InvalidRequest
from sage.middleware.gateway.admission import CHOICE_FIELDS, TOKEN_FIELDS, check
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.settings.settings import RequestLimits

LIMITS = RequestLimits(max_tokens=100, max_choices=4, max_inputs=3, image_hosts=("img.example", "img.example:81"))
MESSAGES = [{"role": "user", "content": "x"}]


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def refused(operation: Operation, body: dict[str, Any]) -> InvalidRequest | None:
    try:
        check(ModelCall(operation, body, "m"), LIMITS)
    except InvalidRequest as exc:
        return exc
    return None


@pytest.mark.parametrize("field", TOKEN_FIELDS)
@pytest.mark.parametrize("value", [101, -1, 1.5, "7", True, [1], 10**30])
def test_tokens_are_bounded_under_every_name(field: str, value: Any) -> None:
    error = refused(Operation.CHAT, {"messages": MESSAGES, field: value})
    assert error is not None
    assert error.param == field
    assert refused(Operation.CHAT, {"messages": MESSAGES, field: 100}) is None


@pytest.mark.parametrize("field", CHOICE_FIELDS)
def test_choices_are_bounded_under_every_name(field: str) -> None:
    assert refused(Operation.CHAT, {"messages": MESSAGES, field: 5}).param == field
    assert refused(Operation.CHAT, {"messages": MESSAGES, field: 4}) is None
    assert refused(Operation.CHAT, {"messages": MESSAGES, field: None}) is None


def test_prompts_times_choices_are_bounded() -> None:
    assert refused(Operation.COMPLETIONS, {"prompt": ["a"] * 4}) is None
    assert refused(Operation.COMPLETIONS, {"prompt": ["a"] * 5}).param == "prompt"
    assert refused(Operation.COMPLETIONS, {"prompt": ["a", "b"], "n": 3}).param == "prompt"
    assert refused(Operation.COMPLETIONS, {"prompt": ["a", "b"], "best_of": 2}) is None
    # A list of tokens is one prompt.
    assert refused(Operation.COMPLETIONS, {"prompt": [1, 2, 3, 4, 5, 6]}) is None
    assert refused(Operation.COMPLETIONS, {"prompt": []}).param == "prompt"


def test_inputs_are_bounded() -> None:
    assert refused(Operation.EMBEDDINGS, {"input": ["a"] * 3}) is None
    assert refused(Operation.EMBEDDINGS, {"input": ["a"] * 4}).param == "input"
    assert refused(Operation.EMBEDDINGS, {"input": [1] * 9}) is None
    assert refused(Operation.EMBEDDINGS, {}).param == "input"


def image(url: Any, kind: str = "image_url") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": kind, kind: url}]}]}


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://other.example/a.png",
        "file:///etc/passwd",
        "ftp://img.example/a.png",
        "https://img.example.evil.example/a.png",
        "https://img.example@evil.example/a.png",
        "https://evil.example#@img.example/",
        "//img.example/a.png",
        "https://[bad/a.png",
        "https://img.example:8443/a.png",
        "http://evil.example\\@img.example/a",
        "http:/evil.example/a",
        " http://evil.example/a",
        "https://img.example/a\tb",
        7,
        None,
    ],
)
@pytest.mark.parametrize("kind", ["image_url", "video_url", "audio_url"])
def test_no_upstream_is_made_to_fetch_from_elsewhere(url: Any, kind: str) -> None:
    error = refused(Operation.CHAT, image({"url": url}, kind))
    assert error is not None
    assert error.param == f"messages[0].content[0].{kind}"
    assert refused(Operation.CHAT, image(url, kind)) is not None


@pytest.mark.parametrize(
    "url",
    ["data:image/png;base64,AAAA", "https://img.example/a.png", "http://IMG.example:80/x", "http://img.example:81/x"],
)
def test_data_and_allowed_hosts_go(url: str) -> None:
    assert refused(Operation.CHAT, image({"url": url})) is None


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "http://169.254.169.254/"},
        {"type": "image", "source": {"type": "url", "url": "http://evil.example/"}},
        {"type": "file", "file": {"file_url": "https://evil.example/"}},
        {"type": "file", "file": {"uri": "s3:bucket"}},
        {"type": "input_audio", "input_audio": {"data": "http://evil.example/a.wav"}},
        {"type": "image", "image": "\x01ht\ttps://evil.example/a"},
        {"type": "images", "images": ["data:image/png;base64,AA", "//evil.example/a"]},
        {"type": "video", "video": [{"frame": "FILE:///etc/passwd"}]},
        {"type": "image_embeds", "image_embeds": "AAAA"},
        {"type": "text", "text": {"url": "http://evil.example/"}},
    ],
)
def test_every_spelling_of_a_fetch_is_seen(part: dict[str, Any]) -> None:
    for body in (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, part]}]},
        {"messages": [{"role": "user", "content": [part]}], "input": "x"},
    ):
        for operation in (Operation.CHAT, Operation.EMBEDDINGS):
            error = refused(operation, body)
            assert error is not None
            assert error.param.startswith("messages[0].content[")
    assert refused(Operation.EMBEDDINGS, {"input": [part]}) is not None
    assert refused(Operation.CHAT, {"messages": [{"role": "user", "content": part}]}) is not None


def test_a_url_in_plain_text_is_not_fetched() -> None:
    parts = [
        {"type": "text", "text": "see http://evil.example/ and file:///etc/passwd"},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": "//uQZAAAAAAAAAAA/+/AA==", "format": "mp3"}},
        {"type": "image", "image": "/9j/4AAQSkZJRgABAQAAAQABAAD"},
        {"type": "tool_result", "content": "Note: all is well", "id": "call:1"},
    ]
    assert refused(Operation.CHAT, {"messages": [{"role": "user", "content": parts}]}) is None


def test_names_to_fall_back_on_are_bounded(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    for path, body in (("/generate", {"prompt": "x"}), ("/v1/chat/completions", {"messages": MESSAGES})):
        answer = running.post(path, {"model": "bench", **body, "models": ["up0/" + "x" * 300]})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "models"
    assert running.get("/models/up0/" + "x" * 300).status_code == 400
    assert up.requests == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
known_fields = st.sampled_from(["messages", "prompt", "input", "n", "best_of", "max_tokens", "content", "image_url"])


@given(
    operation=st.sampled_from(list(Operation)), body=st.dictionaries(known_fields | st.text(max_size=5), json_values)
)
def test_whatever_comes_is_admitted_or_refused_with_a_field(operation: Operation, body: dict[str, Any]) -> None:
    error = refused(operation, body)
    assert error is None or error.param


def test_refusals_reach_the_caller_and_nothing_is_sent_upstream(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up, llm={"limits": {"max_choices": 2, "max_tokens": 10}})
    for fields, param in (({"n": 3}, "n"), ({"max_completion_tokens": 11}, "max_completion_tokens")):
        answer = running.chat(**fields)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param
    answer = running.post("/generate", {"model": "bench", "prompt": "x", "max_tokens": 11})
    assert answer.json()["error"]["param"] == "max_tokens"
    assert up.requests == []
