"""Servers of OpenAI's wire that are not OpenAI: what OpenAI's SDK gets to read through each kind of provider."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from shared_gateway import each_kind
from upstream import Upstream, chat_chunk, usage_chunk

KINDS = ("openai", "vllm", "zhipu", "deepseek")
HELLO: Any = [{"role": "user", "content": "hello out there"}]


def sections(up: Upstream) -> dict[str, Any]:
    return each_kind(up, KINDS)


@pytest.fixture
def client(running: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as sdk:
        yield sdk


def call(name: str, arguments: Any, identity: Any = None, index: Any = None, **more: Any) -> Any:
    """A call of a tool, or a fragment of one."""
    entry = {"index": index, "id": identity, "type": "function"}
    function = {"name": name, "arguments": arguments}
    return {**{k: v for k, v in entry.items() if v is not None}, "function": function, **more}


def calls_delta(*calls: Any) -> dict[str, Any]:
    return delta(tool_calls=list(calls))


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return chat_chunk(None, choices=[{"index": 0, "delta": fields, "finish_reason": finish}])


def whole(message: Any, finish: str | None = "stop", **choice: Any) -> dict[str, Any]:
    """A whole answer with one choice."""
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "theirs"}
    return {**head, "choices": [{"index": 0, "message": message, "finish_reason": finish, **choice}]}


def stream_calls(client: openai.OpenAI, model: str) -> list[tuple[str, str, str]]:
    """The calls as the SDK's own gathering of a stream makes them: ``(id, name, arguments)``."""
    with client.chat.completions.stream(model=model, messages=HELLO) as stream:
        message = stream.get_final_completion().choices[0].message
    return [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()]


CITY = ('{"city":"SF"}', '{"city":"NY"}')
STREAMS: dict[str, tuple[list[Any], list[tuple[str | None, str, str]]]] = {
    "another id under the same index": (
        [calls_delta(call("get_weather", text, id_, 0)) for id_, text in zip("ab", CITY, strict=True)],
        [("a", "get_weather", CITY[0]), ("b", "get_weather", CITY[1])],
    ),
    "another id under the same index, in fragments": (
        [
            calls_delta(call("get_weather", "", "a", 0)),
            calls_delta({"index": 0, "function": {"arguments": CITY[0]}}),
            calls_delta(call("get_weather", "", "b", 0)),
            calls_delta({"index": 0, "function": {"arguments": CITY[1][:4]}}),
            calls_delta({"index": 0, "function": {"arguments": CITY[1][4:]}}),
        ],
        [("a", "get_weather", CITY[0]), ("b", "get_weather", CITY[1])],
    ),
    "a third call under its own index": (
        [
            calls_delta(call("f", CITY[0], "a", 0), call("f", CITY[1], "b", 0)),
            calls_delta(call("g", "{}", "c", 1)),
            calls_delta({"index": 1, "id": "c", "function": {"arguments": ""}}),
        ],
        [("a", "f", CITY[0]), ("b", "f", CITY[1]), ("c", "g", "{}")],
    ),
    "interleaved by id alone": (
        [
            calls_delta(call("f", "", "a"), call("g", "", "b")),
            calls_delta({"id": "a", "function": {"arguments": CITY[0]}}),
            calls_delta({"id": "b", "function": {"arguments": CITY[1]}}),
        ],
        [("a", "f", CITY[0]), ("b", "g", CITY[1])],
    ),
    "name and id in each fragment": (
        [calls_delta(call("get_weather", part, "a", 0)) for part in ('{"ci', 'ty":', '"SF"}')],
        [("a", "get_weather", CITY[0])],
    ),
    "name in pieces": (
        [calls_delta(call("get_", "", "a", 0)), calls_delta(call("weather", "", None, 0)), calls_delta(call("", "{}"))],
        [("a", "get_weather", "{}")],
    ),
    "no ids, whole calls under one index": (
        [calls_delta(call("f", CITY[0], index=0)), calls_delta(call("f", CITY[1], index=0))],
        [(None, "f", CITY[0]), (None, "f", CITY[1])],
    ),
    "no ids and no indexes in one delta": (
        [calls_delta(call("f", ""), call("g", "{}"))],
        [(None, "f", ""), (None, "g", "{}")],
    ),
    "one id for all calls": (
        [calls_delta(call("f", CITY[0], "x", 0)), calls_delta(call("f", CITY[1], "x", 0))],
        [("x", "f", CITY[0]), (None, "f", CITY[1])],
    ),
    "arguments as an object": (
        [calls_delta(call("f", {"city": "SF"}, "a", 0)), calls_delta(call("g", {}, "b", 1))],
        [("a", "f", CITY[0]), ("b", "g", "{}")],
    ),
    "the whole call twice": (
        [calls_delta(call("f", CITY[0], "a", 0)), calls_delta(call("f", CITY[0], "a", 0))],
        [("a", "f", CITY[0])],
    ),
    "a brace that only looks like an end": (
        [calls_delta(call("f", '{"code":"}', "a", 0)), calls_delta(call("f", '{"}', "a", 0))],
        [("a", "f", '{"code":"}{"}')],
    ),
    "ids that are numbers": (
        [calls_delta(call("f", CITY[0], 1, 0)), calls_delta(call("f", CITY[1], 2, 0))],
        [("1", "f", CITY[0]), ("2", "f", CITY[1])],
    ),
    "an index that is text, and a function that is null": (
        [
            calls_delta(call("f", "", "a", "0")),
            calls_delta({"index": "0", "function": None}, None),
            calls_delta({"index": "0", "function": {"arguments": CITY[0]}}),
        ],
        [("a", "f", CITY[0])],
    ),
    "a name after the first arguments": (
        [
            calls_delta({"index": 0, "id": "a", "function": {"arguments": CITY[0][:3]}}),
            calls_delta(call("f", CITY[0][3:], "a", 0)),
        ],
        [("a", "f", CITY[0])],
    ),
    "an id that comes late": (
        [calls_delta(call("f", CITY[0][:3], index=0)), calls_delta(call("f", CITY[0][3:], "a", 0))],
        [(None, "f", CITY[0])],
    ),
    "numbers from one": (
        [calls_delta(call("f", CITY[0], "a", 1)), calls_delta(call("g", CITY[1], "b", 2))],
        [("a", "f", CITY[0]), ("b", "g", CITY[1])],
    ),
    "one call without its list": ([delta(tool_calls=call("f", CITY[0], "a", 0))], [("a", "f", CITY[0])]),
}


@pytest.mark.parametrize("case", STREAMS)
def test_streamed_calls_of_tools(case: str, client: openai.OpenAI, up: Upstream) -> None:
    events, expected = STREAMS[case]
    up.stream([*events, delta("tool_calls"), usage_chunk(3, 2)])
    calls = stream_calls(client, "openai")
    assert [call[1:] for call in calls] == [call[1:] for call in expected]
    assert [got[0] for got, want in zip(calls, expected, strict=True) if want[0]] == [w[0] for w in expected if w[0]]
    assert len({call[0] for call in calls} - {"", None}) == len(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_this_wire_reads_calls_alike(kind: str, client: openai.OpenAI, up: Upstream) -> None:
    for case in ("another id under the same index", "name and id in each fragment", "arguments as an object"):
        events, expected = STREAMS[case]
        up.reset()
        up.stream([*events, delta("tool_calls"), usage_chunk(3, 2)])
        assert stream_calls(client, kind) == expected
    up.reset()
    up.reply(whole({"role": "assistant", "content": None, "tool_calls": [call("f", {"city": "SF"}, "a")]}))
    message = client.chat.completions.create(model=kind, messages=HELLO).choices[0].message
    assert [(c.id, c.function.arguments) for c in message.tool_calls or ()] == [("a", CITY[0])]


def test_a_stream_that_needs_no_mending_keeps_its_bytes(running: Any, up: Upstream) -> None:
    first = call("f", "", "a", 0)
    later = [{"index": 0, "function": {"arguments": part}} for part in ('{"a": ', "1}")]
    events = [calls_delta(first), *map(calls_delta, later), delta("tool_calls")]
    texts = [json.dumps(event | {"model": "openai"}, separators=(",", ":")) for event in events]
    sent = [f"data: {text}  \n\n".encode() for text in texts]
    up.stream(sent)
    assert running.chat("openai", stream=True).content == b"".join(sent) + b"data: [DONE]\n\n"


def test_calls_of_custom_tools_go_on_as_they_are(running: Any, up: Upstream) -> None:
    custom = {"index": 0, "id": "c", "type": "custom", "custom": {"name": "x", "input": "raw"}}
    up.stream([calls_delta(custom), calls_delta(call("f", {"city": "SF"}, "a", 1)), delta("tool_calls")])
    lines = running.chat("openai", stream=True).text.split("\n\n")
    made = [json.loads(line[6:])["choices"][0]["delta"].get("tool_calls") for line in lines if line[:7] == "data: {"]
    assert made == [[custom], [call("f", CITY[0], "a", 1)], None]


def test_a_call_in_an_event_that_ends_with_the_stream_is_read_once(client: openai.OpenAI, up: Upstream) -> None:
    last = delta("tool_calls", tool_calls=[call("f", CITY[0], "a", 0)])
    up.stream([f"data: {json.dumps(last)}\n".encode()], no_done=True)
    assert stream_calls(client, "openai") == [("a", "f", CITY[0])]


def test_a_call_beside_halves_of_a_character_is_mended(client: openai.OpenAI, up: Upstream) -> None:
    texts = [json.dumps(calls_delta(call("f", part, "a", 0))) for part in ('{"x":"\\ud83d', '\\ude00"}')]
    up.stream([text.replace("\\\\ud", "\\ud") for text in texts] + [delta("tool_calls")])
    assert stream_calls(client, "openai") == [("a", "f", '{"x":"\U0001f600"}')]


def test_whole_calls_of_tools(client: openai.OpenAI, up: Upstream) -> None:
    sent = [
        call("f", {"city": "SF"}, "a"),
        call("f", CITY[1], "a"),
        call("g", None),
        {"id": "", "function": {"name": "h", "arguments": ["x"]}},
    ]
    up.reply(whole({"role": "assistant", "content": "", "tool_calls": sent}, "tool_calls"))
    calls = client.chat.completions.create(model="openai", messages=HELLO).choices[0].message.tool_calls
    assert [c.function.arguments for c in calls] == [CITY[0], CITY[1], "{}", '["x"]']
    assert calls[0].id == "a"
    assert len({c.id for c in calls}) == 4
    assert {c.type for c in calls} == {"function"}


def test_legacy_calls_of_functions(client: openai.OpenAI, up: Upstream) -> None:
    legacy = {"name": "f", "arguments": {"city": "SF"}}
    up.reply(whole({"role": "assistant", "content": None, "function_call": legacy}, "function_call"), times=1)
    message = client.chat.completions.create(model="openai", messages=HELLO).choices[0].message
    assert (message.function_call.name, message.function_call.arguments) == ("f", CITY[0])
    parts = [{"name": "f", "arguments": part} for part in ('{"city":', '"SF"}')]
    up.stream([*(delta(function_call=part) for part in parts), delta("function_call")])
    chunks = list(client.chat.completions.create(model="openai", messages=HELLO, stream=True))
    called = [c.choices[0].delta.function_call for c in chunks if c.choices[0].delta.function_call]
    assert ([c.name for c in called], "".join(c.arguments for c in called)) == (["f", None], CITY[0])


PARTS = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "2"}, {"type": "text", "text": "+2"}]},
    {"type": "text", "text": "4"},
]


@pytest.mark.parametrize("kind", ["openai", "zhipu", "deepseek"])
@pytest.mark.parametrize("sent", [{"reasoning": "2+2", "content": "4"}, {"content": PARTS}], ids=["field", "parts"])
def test_reasoning_is_reasoning_content(kind: str, sent: Any, client: openai.OpenAI, up: Upstream) -> None:
    up.reply(whole({"role": "assistant", **sent}), times=1)
    message = client.chat.completions.create(model=kind, messages=HELLO).choices[0].message.to_dict(warnings=False)
    assert message == {"role": "assistant", **sent, "content": "4", "reasoning_content": "2+2"}
    up.stream([delta(**sent), delta("stop")])
    chunk = next(iter(client.chat.completions.create(model=kind, messages=HELLO, stream=True)))
    assert chunk.choices[0].delta.to_dict(warnings=False) == {**sent, "content": "4", "reasoning_content": "2+2"}


def test_messages_in_place_of_deltas_are_read_for_every_kind(client: openai.OpenAI, up: Upstream) -> None:
    said = {"role": "assistant", "content": "4"}
    for kind in KINDS:
        up.reset()
        up.stream([chat_chunk(None, choices=[{"index": 0, "message": said, "finish_reason": "stop"}])])
        (chunk,) = client.chat.completions.create(model=kind, messages=HELLO, stream=True)
        assert chunk.choices[0].delta.content == "4"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", [{"message": None}, {}], ids=["null", "none"])
def test_a_filtered_answer_needs_no_message(kind: str, choice: Any, running: Any, up: Upstream) -> None:
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "theirs"}
    up.reply({**head, "choices": [{"index": 0, "finish_reason": "content_filter", **choice}]})
    answer = running.chat(kind)
    assert answer.status_code == 200, answer.text
    (told,) = answer.json()["choices"]
    assert (told["finish_reason"], told["message"]["content"]) == ("content_filter", None)
    up.reset()
    up.stream([chat_chunk(None, choices=[{"index": 0, "delta": None, "finish_reason": "content_filter"}])])
    lines = running.chat(kind, stream=True).text.split("\n\n")
    assert json.loads(lines[0].removeprefix("data: "))["choices"][0]["delta"] == {}
    assert lines[-2] == "data: [DONE]"


@pytest.mark.parametrize("finish", ["stop", "length", "content_filter", "tool_calls"])
def test_the_last_chunk_of_an_answer_needs_no_delta(finish: str, client: openai.OpenAI, up: Upstream) -> None:
    up.stream([delta(content="4"), chat_chunk(None, choices=[{"index": 0, "finish_reason": finish}])])
    chunks = list(client.chat.completions.create(model="openai", messages=HELLO, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "4"
    assert chunks[-1].choices[0].finish_reason == finish


def test_usage_that_is_null_until_the_end_is_read(running: Any, client: openai.OpenAI, up: Upstream) -> None:
    events = [delta(content="4") | {"usage": None}, delta("stop") | {"usage": None}, usage_chunk(3, 2)]
    up.stream(events)
    asked: Any = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="openai", messages=HELLO, stream=True, stream_options=asked))
    assert [chunk.usage.total_tokens if chunk.usage else None for chunk in chunks] == [None, None, 5]
    lines = running.chat("openai", stream=True).text.split("\n\n")
    assert [json.loads(line[6:])["usage"] for line in lines[:-2]] == [None, None]


def test_a_filtered_completion_has_an_empty_text(client: openai.OpenAI, up: Upstream) -> None:
    head = {"id": "c", "object": "text_completion", "created": 1, "model": "theirs"}
    up.reply({**head, "choices": [{"index": 0, "text": None, "finish_reason": "content_filter"}]})
    (choice,) = client.completions.create(model="openai", prompt="once").choices
    assert (choice.text, choice.finish_reason) == ("", "content_filter")


def test_a_choice_that_has_not_ended_needs_a_message(running: Any, up: Upstream) -> None:
    for choice in (
        {"message": None},
        {"message": "text", "finish_reason": "stop"},
        {"message": None, "finish_reason": ""},
    ):
        up.reset()
        up.reply({"model": "theirs", "choices": [{"index": 0, **choice}]})
        answer = running.chat("openai")
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_nonsense")
