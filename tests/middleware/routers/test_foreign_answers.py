"""Answers as other vendors' servers send them in OpenAI's wire: nothing is lost, nothing cut short ends well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import ollama
import openai
import pytest
from shared_gateway import each_kind
from surfaces import CHATS, ask
from upstream import Upstream, chat_chunk

pytestmark = pytest.mark.slow  # each surface before each kind of upstream

KINDS = ("openai", "zhipu")
HELLO: Any = [{"role": "user", "content": "hello"}]


def sections(up: Upstream) -> dict[str, Any]:
    """A provider of each kind at ``up``, each with a model of its name; nothing is asked again."""
    made = each_kind(up, (*KINDS, "ollama"), retries=0)
    made["llm"]["providers"]["ollama"]["base_url"] = up.url.removesuffix("/v1")
    return made


def delta_chunk(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return chat_chunk(None, choices=[{"index": 0, "delta": delta, "finish_reason": finish, **fields}])


def call_chunk(
    arguments: str | None, name: str | None = None, *, index: int | None = 0, **fields: Any
) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return delta_chunk({"tool_calls": [{"index": index, "function": function, **fields}]})


def whole(message: dict[str, Any] | None, finish: str | None = "stop", **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "finish_reason": finish, **fields}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "theirs", "choices": [choice]}


def stream(up: Upstream, *events: Any) -> None:
    """The next answer is a stream of ``events``."""
    up.stream(events, times=1)


def reply(up: Upstream, answer: Any) -> None:
    """The next answer is ``answer``."""
    up.reply(answer, times=1)


@pytest.fixture
def client(running: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=running.url + "/v1", api_key=running.key, max_retries=0) as sdk:
        yield sdk


ERRORS = {
    "object": {"object": "error", "message": "no memory left", "type": "invalid_request_error", "code": 400},
    "choice": delta_chunk({"content": ""}, error={"message": "no memory left", "code": 400}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ERRORS)
def test_an_error_in_another_shape_is_no_end_of_an_answer(up: Upstream, running: Any, kind: str, shape: str) -> None:
    for surface in CHATS:
        stream(up, chat_chunk("Hel"), ERRORS[shape])
        told = ask(running, surface, kind)
        assert not told.ended
        assert "no memory left" in told.raw
        assert told.finish in (None, "ERROR")


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_an_error_ended_is_not_whole(up: Upstream, running: Any, kind: str) -> None:
    for surface in CHATS:
        stream(up, chat_chunk("Hel"), chat_chunk(None, "error"))
        assert not ask(running, surface, kind).ended
        reply(up, whole({"role": "assistant", "content": "Hel"}, "error"))
        assert ask(running, surface, kind, stream=False).error == "upstream_failed"
    reply(up, whole({"role": "assistant", "content": ""}, None, error={"code": 413, "message": "too much"}))
    answer = running.chat(kind)
    assert (answer.status_code, "too much" in answer.text) == (413, True)


def test_an_error_with_status_200_keeps_its_text_and_no_choice_is_no_answer(up: Upstream, running: Any) -> None:
    reply(up, {"object": "error", "message": "too long", "type": "BadRequestError", "code": 400})
    answer = running.chat("openai")
    assert (answer.status_code, "too long" in answer.text) == (400, True)
    for surface in CHATS:
        reply(up, {"id": "c", "object": "chat.completion", "choices": []})
        assert ask(running, surface, "openai", stream=False).error == "upstream_nonsense"


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_after_the_end_is_no_answer(up: Upstream, running: Any, kind: str) -> None:
    for surface in CHATS:
        stream(up, chat_chunk("Hello"), chat_chunk(None, "stop"), "[DONE]", chat_chunk(" more"))
        told = ask(running, surface, kind)
        assert (told.text, told.ended) == ("Hello", True)


FINISHES = {
    "end_turn": ("stop", "stop", "COMPLETE"),
    "eos": ("stop", "stop", "COMPLETE"),
    "STOP": ("stop", "stop", "COMPLETE"),
    "max_tokens": ("length", "length", "MAX_TOKENS"),
    "MAX_TOKENS": ("length", "length", "MAX_TOKENS"),
    "model_length": ("length", "length", "MAX_TOKENS"),
    "SAFETY": ("content_filter", "content_filter", "CONTENT_FILTER"),
    "content_filter: PROHIBITED_CONTENT": ("content_filter", "content_filter", "CONTENT_FILTER"),
    "tool_use": ("tool_calls", "stop", "TOOL_CALL"),
    "vendors_own": ("vendors_own", "vendors_own", "VENDORS_OWN"),
}


@pytest.mark.parametrize("reason", FINISHES)
def test_why_an_answer_ended_is_told_in_the_words_of_each_surface(up: Upstream, running: Any, reason: str) -> None:
    expected = dict(zip(("/generate", "/api/chat", "/v2/chat"), FINISHES[reason], strict=True))
    expected["/v1/chat/completions"] = reason  # a server's own words stay
    for surface, finish in expected.items():
        stream(up, chat_chunk("Hi"), chat_chunk(None, reason))
        assert ask(running, surface, "openai").finish == finish
        reply(up, whole({"role": "assistant", "content": "Hi"}, reason))
        assert ask(running, surface, "openai", stream=False).finish == finish


@pytest.mark.parametrize("kind", KINDS)
def test_text_in_parts_is_one_text_for_the_sdk(up: Upstream, client: openai.OpenAI, kind: str) -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    stream(
        up,
        delta_chunk({"content": [thinking]}),
        delta_chunk({"content": [{"type": "text", "text": "Hel"}]}),
        chat_chunk("lo", "stop"),
    )
    with client.chat.completions.stream(model=kind, messages=HELLO) as streamed:
        message = streamed.get_final_completion().choices[0].message
    assert message.content == "Hello"
    assert getattr(message, "reasoning_content", None) == "hm"
    for part, read in (
        ([thinking, {"type": "text", "text": "Hi"}], ("Hi", None)),
        ([{"type": "refusal", "refusal": "No"}], ("", "No")),
        (
            [{"type": "image_url", "image_url": {"url": "data:,"}}],
            ([{"type": "image_url", "image_url": {"url": "data:,"}}], None),
        ),
    ):
        reply(up, whole({"role": "assistant", "content": part}))
        message = client.chat.completions.create(model=kind, messages=HELLO).choices[0].message
        assert (message.content, message.refusal) == read


def test_log_probabilities_are_no_text_in_parts(up: Upstream, running: Any) -> None:
    logprobs = {"content": [{"token": "Hi", "logprob": -0.5, "bytes": None, "top_logprobs": []}]}
    stream(up, delta_chunk({"content": "Hi"}, logprobs=logprobs), chat_chunk(None, "stop"))
    assert json.dumps(logprobs) in running.chat("openai", stream=True, logprobs=True).text


def test_a_new_id_for_each_fragment_starts_no_call_without_a_name(up: Upstream, client: openai.OpenAI) -> None:
    for index in (0, None):
        events = [
            call_chunk("", "f", index=index, id="a"),
            call_chunk('{"x"', index=index, id="b"),
            call_chunk(": 1}", index=index, id="c"),
            call_chunk("{}", "g", index=index, id="d"),
            chat_chunk(None, "tool_calls"),
        ]
        stream(up, *events)
        with client.chat.completions.stream(model="openai", messages=HELLO) as streamed:
            calls = streamed.get_final_completion().choices[0].message.tool_calls or []
        assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
            ("a", "f", '{"x": 1}'),
            ("d", "g", "{}"),
        ]


def test_a_call_without_the_object_around_its_function_is_a_call(
    up: Upstream, running: Any, client: openai.OpenAI
) -> None:
    call = {"id": "a", "name": "f", "arguments": '{"x": 1}'}
    reply(up, whole({"role": "assistant", "content": None, "tool_calls": [dict(call)]}, "tool_calls"))
    message = client.chat.completions.create(model="openai", messages=HELLO).choices[0].message
    stream(up, delta_chunk({"tool_calls": [{"index": 0, **call}]}), chat_chunk(None, "tool_calls"))
    with client.chat.completions.stream(model="openai", messages=HELLO) as streamed:
        other = streamed.get_final_completion().choices[0].message
    for calls in (message.tool_calls or [], other.tool_calls or []):
        assert [(c.id, c.function.name, c.function.arguments) for c in calls] == [("a", "f", '{"x": 1}')]
    for surface in ("/api/chat", "/v2/chat", "/generate"):
        stream(up, delta_chunk({"tool_calls": [{"index": 0, **call}]}), chat_chunk(None, "tool_calls"))
        assert '"name":"f"' in ask(running, surface, "openai").raw


def test_a_name_that_comes_last_is_told(up: Upstream, running: Any) -> None:
    stream(up, call_chunk('{"x": 1}', id="a"), call_chunk(None, "f"), chat_chunk(None, "tool_calls"))
    raw = ask(running, "/v2/chat", "openai").raw
    assert '"name":"f"' in raw
    assert raw.count("tool-call-start") == 2  # the event and its type


def test_a_null_option_of_ollamas_is_none(up: Upstream, running: Any) -> None:
    options = {"num_predict": None, "temperature": None, "seed": 7}
    body = {"model": "openai", "messages": HELLO, "stream": False, "options": options}
    assert running.post("/api/chat", body).status_code == 200
    assert {"temperature", "max_tokens", "seed"} & up.requests[0].body.keys() == {"seed"}


def test_blank_lines_between_lines_of_json_are_a_stream_too(up: Upstream, running: Any) -> None:
    lines = [{"message": {"content": "Hi"}, "done": False}, {"message": {"content": ""}, "done": True}]
    for between in (b"\n", b"\n\n", b"\n \r\n"):
        up.reset()
        up.reply(body=between.join(json.dumps(line).encode() for line in lines), times=1)
        answer = running.chat("ollama")
        assert answer.json()["choices"][0]["message"]["content"] == "Hi"


def test_a_call_that_the_limit_cut_is_no_failure_at_ollamas_surface(up: Upstream, running: Any) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": '}}
    stream(up, chat_chunk("So"), delta_chunk({"tool_calls": [{"index": 0, **call}]}), chat_chunk(None, "length"))
    told = ask(running, "/api/chat", "openai")
    assert (told.text, told.finish, told.error, "tool_calls" in told.raw) == ("So", "length", None, False)
    reply(up, whole({"role": "assistant", "content": "So", "tool_calls": [call]}, "length"))
    told = ask(running, "/api/chat", "openai", stream=False)
    assert (told.text, told.finish, told.error) == ("So", "length", None)


def test_line_ends_of_unicode_do_not_break_ollamas_sdk(up: Upstream, running: Any) -> None:
    text = "a\u2028b\u2029c\x85d\u2019e日本"
    stream(up, chat_chunk(text), chat_chunk(None, "stop"))
    with ollama.Client(host=running.url, headers=running.headers(), trust_env=False) as sdk:
        assert "".join(part.message.content or "" for part in sdk.chat("openai", HELLO, stream=True)) == text


def test_usage_in_anthropics_words_is_counted(up: Upstream, running: Any) -> None:
    reply(up, {**whole({"role": "assistant", "content": "Hi"}), "usage": {"input_tokens": 3, "output_tokens": 4}})
    answer = running.post("/api/chat", {"model": "openai", "messages": HELLO, "stream": False}).json()
    assert (answer["prompt_eval_count"], answer["eval_count"]) == (3, 4)


def test_fewer_vectors_than_texts_are_no_answer(up: Upstream, running: Any) -> None:
    one = {"object": "embedding", "index": 0, "embedding": [1.0, 0.5]}
    for data in ([], [one], [one] * 3):
        reply(up, {"object": "list", "data": data, "model": "theirs"})
        answer = running.post("/v1/embeddings", {"model": "openai", "input": ["a", "b"]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_nonsense")
    for single in ("a", ["a"], [1, 2, 3], [[1, 2, 3]]):
        reply(up, {"object": "list", "data": [one], "model": "theirs"})
        assert running.post("/v1/embeddings", {"model": "openai", "input": single}).status_code == 200
