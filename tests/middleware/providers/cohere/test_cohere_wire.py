"""The script of Cohere's wire is true: Cohere's own SDK reads it, and it refuses what Cohere refuses."""

from __future__ import annotations

from collections.abc import Iterator

import cohere
import pytest
from cohere.errors import UnauthorizedError, UnprocessableEntityError
from cohere_wire import KEY, called, chat_answer, chat_stream, cohere_like, end, text_events
from upstream import Upstream

HELLO = [{"role": "user", "content": "hello out there"}]


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        upstream.handler = cohere_like
        yield upstream


def client(up: Upstream, key: str = KEY) -> cohere.ClientV2:
    return cohere.ClientV2(api_key=key, base_url=f"http://127.0.0.1:{up.port}", max_retries=0)


def test_the_sdk_reads_a_chat(up: Upstream) -> None:
    with client(up) as sdk:
        answer = sdk.chat(model="command-a", messages=HELLO)
    assert answer.message.content[0].text == "hello out there"
    assert answer.finish_reason == "COMPLETE"
    assert (answer.usage.tokens.input_tokens, answer.usage.tokens.output_tokens) == (4, 3)


def test_the_sdk_reads_a_stream(up: Upstream) -> None:
    up.use(chat_stream(*text_events("a ", "b"), *called(0, "look", '{"q":', "1}"), end("TOOL_CALL")))
    with client(up) as sdk:
        events = list(sdk.chat_stream(model="command-a", messages=HELLO))
    assert [item.type for item in events] == [
        "message-start",
        "content-start",
        "content-delta",
        "content-delta",
        "content-end",
        "tool-call-start",
        "tool-call-delta",
        "tool-call-delta",
        "tool-call-end",
        "message-end",
    ]
    assert events[2].delta.message.content.text == "a "
    assert events[5].delta.message.tool_calls.function.name == "look"
    assert events[6].delta.message.tool_calls.function.arguments == '{"q":'
    assert events[-1].delta.finish_reason == "TOOL_CALL"


def test_the_sdk_reads_vectors_ranks_and_models(up: Upstream) -> None:
    with client(up) as sdk:
        embedded = sdk.embed(model="e", input_type="clustering", texts=["abc"], embedding_types=["float", "int8"])
        ranked = sdk.rerank(model="r", query="red car", documents=["a blue car", "a red car"], top_n=1)
        models = [model.name for model in sdk.models.list().models]
        tokens = sdk.tokenize(text="ab", model="command-a", offline=False)
    assert embedded.embeddings.float_ == [[3.0, 0.0, 1.0]]
    assert embedded.embeddings.int8 == [[3, 0, 1]]
    assert [(item.index, item.relevance_score) for item in ranked.results] == [(1, 1.0)]
    assert models == ["command-a", "embed-v4.0"]
    assert tokens.tokens == [97, 98]


def test_what_cohere_does_not_know_is_refused(up: Upstream) -> None:
    with client(up, "wrong") as sdk, pytest.raises(UnauthorizedError):
        sdk.chat(model="command-a", messages=HELLO)
    with client(up) as sdk:
        for messages in (
            [{"role": "user", "content": "x", "name": "me"}],
            [{"role": "user", "content": [{"type": "input_audio"}]}],
            [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1", "type": "function"}]}],
        ):
            with pytest.raises(UnprocessableEntityError):
                sdk.chat(model="command-a", messages=messages)


def test_a_scripted_answer_that_is_not_coheres_fails_the_test() -> None:
    with pytest.raises(AssertionError, match="not Cohere's wire"):
        chat_answer("x", reasoning_content="OpenAI's")
