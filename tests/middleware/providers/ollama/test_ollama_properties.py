"""Ollama's translations on anything: a good answer, or an error of ours, and never another exception."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ollama_wire import chat_end, chat_line, check, tool_call
from ollama_wire import types as sdk

from sage.errors import InvalidRequest, SageError
from sage.middleware.providers.base import ModelCall, Operation, UpstreamModel
from sage.middleware.providers.ollama.provider import OllamaProvider
from sage.middleware.routers.ollama import translation as surface
from sage.middleware.settings.providers import OllamaSettings

pytestmark = pytest.mark.slow  # made examples

PROVIDER = OllamaProvider("ollama", OllamaSettings(base_url="http://127.0.0.1:11434"))
TARGET = UpstreamModel("theirs", drop_unsupported=True)
WORDS = (
    "role content type text image_url url function name arguments id index tool_calls tool_call_id tool_name message "
    "messages response thinking done done_reason error images logprobs top_logprobs token logprob embeddings embedding "
    "data choices delta finish_reason usage eval_count prompt input options format stop tools json_schema schema "
    "response_format think reasoning_effort reasoning suffix raw n num_predict tokens token_logprobs"
)
KEYS = st.sampled_from(WORDS.split())
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-5, 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        ["", "x", "tool", "assistant", "user", "function", "text", "image_url", "stop", "load", "data:,x"]
    )
)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5))
OBJECTS = st.dictionaries(KEYS, JSON, max_size=8)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
        optional={
            "content": st.text(max_size=5) | st.lists(OBJECTS, max_size=3),
            "tool_calls": JSON,
            "tool_call_id": JSON,
            "name": st.text(max_size=5),
        },
    ),
    min_size=1,
    max_size=4,
)
OPERATIONS = st.sampled_from([Operation.CHAT, Operation.COMPLETIONS, Operation.EMBEDDINGS])


def call_of(operation: Operation, body: dict[str, Any], *, stream: bool = False) -> ModelCall:
    return ModelCall(operation, {"model": "m", **body}, "m", stream=stream, wants_usage=True)


@given(operation=OPERATIONS, body=OBJECTS, messages=MESSAGES)
def test_any_request_is_refused_or_made(operation: Operation, body: dict[str, Any], messages: list[Any]) -> None:
    call = call_of(operation, {**body, "messages": messages} if operation is Operation.CHAT else body)
    try:
        request = PROVIDER.encode(call, TARGET, PROVIDER.endpoints[0])
    except InvalidRequest:
        return
    sent = orjson.loads(request.body)
    assert sent["model"] == "theirs"
    if operation is Operation.CHAT:
        assert [message["role"] for message in sent["messages"]] == [message["role"] for message in messages]
        assert all(isinstance(message["content"], str) for message in sent["messages"])


@given(operation=OPERATIONS, answer=OBJECTS | JSON)
def test_any_answer_is_refused_or_read(operation: Operation, answer: Any) -> None:
    try:
        body, _ = PROVIDER.decode(call_of(operation, {"input": "x"}), orjson.dumps(answer))
    except SageError:
        return
    assert orjson.loads(body)["model"] == "m"


@given(chat=st.booleans(), lines=st.lists(OBJECTS | JSON, max_size=5))
def test_any_stream_ends_well_or_with_an_error(chat: bool, lines: list[Any]) -> None:
    relay = PROVIDER.relay(call_of(Operation.CHAT if chat else Operation.COMPLETIONS, {}, stream=True))
    events = b""
    try:
        for line in lines:
            events += relay.feed(orjson.dumps(line) + b"\n")
        events += relay.close()
    except SageError:
        pass
    assert relay.finished == (b"[DONE]" in events)
    assert not (relay.finished and relay.error)


STREAM = b"".join(
    json.dumps(line, ensure_ascii=False).encode() + b"\n"
    for line in (
        chat_line(thinking="Hm, 世界"),
        chat_line("Grüße"),
        chat_line(tool_calls=[tool_call("f", {"a": "b"}) | {"id": "call_1"}]),
        chat_end(),
    )
)


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_where_the_bytes_are_torn_changes_nothing(cuts: list[int]) -> None:
    def events(edges: list[int]) -> list[Any]:
        relay = PROVIDER.relay(call_of(Operation.CHAT, {}, stream=True))
        pieces = [STREAM[a:b] for a, b in zip([0, *edges], [*edges, len(STREAM)], strict=True)]
        relayed = b"".join(relay.feed(piece) for piece in pieces) + relay.close()
        chunks = [line[6:] for line in relayed.split(b"\n") if line.startswith(b"data: {")]
        return [{**orjson.loads(chunk), "id": "", "created": 0} for chunk in chunks]

    assert events(sorted(cuts)) == events([])


@given(asked=OBJECTS, messages=MESSAGES, chat=st.booleans())
def test_any_request_of_ollamas_is_refused_or_made(asked: dict[str, Any], messages: list[Any], chat: bool) -> None:
    try:
        if chat:
            surface.chat_body({**asked, "messages": messages})
        else:
            surface.generate_body(asked)
            surface.embed_body(asked, "input")
    except InvalidRequest:
        pass


@given(answer=st.fixed_dictionaries({"choices": st.lists(st.fixed_dictionaries({"message": OBJECTS}), max_size=2)}))
def test_any_answer_of_openais_is_told_or_an_error(answer: Any) -> None:
    reply = surface.OllamaAnswer(call_of(Operation.CHAT, {}), chat=True)
    try:
        report = orjson.loads(reply.body(orjson.dumps(answer)))
    except SageError:
        return
    assert sdk.ChatResponse(**report).done is True


@given(chunks=st.lists(OBJECTS, max_size=4))
def test_any_stream_of_openais_is_told_or_an_error(chunks: list[Any]) -> None:
    reply = surface.OllamaAnswer(call_of(Operation.CHAT, {}, stream=True), chat=True)
    try:
        report = b"".join(reply.translate(b"data: " + orjson.dumps(chunk) + b"\n\n") for chunk in chunks) + reply.end()
    except SageError:
        return
    parts = [sdk.ChatResponse(**orjson.loads(line)) for line in report.splitlines()]
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]


ARGUMENTS = st.dictionaries(st.text(max_size=4), st.text(max_size=4) | st.integers(-9, 9), max_size=3)
TALK = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["system", "user"]), "content": st.text(min_size=1, max_size=9)}
        ),
        st.builds(
            lambda calls, thought: {
                "role": "assistant",
                "content": "",
                "thinking": thought,
                "tool_calls": [{"function": {"name": "f", "arguments": given}} for given in calls],
            },
            st.lists(ARGUMENTS, min_size=1, max_size=3),
            st.text(min_size=1, max_size=5),
        ),
        st.fixed_dictionaries(
            {"role": st.just("user"), "content": st.just("see"), "images": st.just(["iVBORw0KGgo="])}
        ),
    ),
    min_size=1,
    max_size=5,
)


@given(talk=TALK)
def test_ollamas_messages_come_back_as_they_were(talk: list[dict[str, Any]]) -> None:
    """Through OpenAI's shape and back; only the calls' ids are new."""
    body = surface.chat_body({"messages": talk})
    request = PROVIDER.encode(call_of(Operation.CHAT, body), UpstreamModel("theirs"), PROVIDER.endpoints[0])
    sent = orjson.loads(request.body)
    assert check(sdk.ChatRequest, sent) is None
    for message in sent["messages"]:
        for call in message.get("tool_calls", ()):
            assert call.pop("id").startswith("call_")
    assert sent["messages"] == talk


@pytest.mark.parametrize("keep_alive", [0, 0.0, "0", "0s", "0m"])
def test_what_unloads(keep_alive: Any) -> None:
    assert surface.wants_unload(keep_alive)
    assert not any(map(surface.wants_unload, (None, -1, "5m", 300, [])))
