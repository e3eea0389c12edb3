"""What an upstream's bytes say reaches every surface: whole answers whole, broken ones broken, no text lost."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import ollama
import openai
import pytest
from running_gateway import Running
from shared_gateway import each_kind
from surfaces import CHATS, SURFACES, ask
from upstream import Upstream, stream

pytestmark = pytest.mark.slow  # each surface before each kind of upstream

KINDS = ("openai", "vllm", "zhipu", "ollama", "cohere", "anthropic", "gemini")
OF_OPENAIS_WIRE = ("openai", "vllm", "zhipu")
EMOJI = "\U0001f600"
LOST = "\ufffd"
NDJSON = {"content-type": "application/x-ndjson"}


def sections(up: Upstream) -> dict[str, Any]:
    return each_kind(up, KINDS, api_key="sk-upstream-key")


def sdk(running: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0)


def event(content: str | None, finish: str = "null", more: str = "") -> bytes:
    """One event, of a chat and of ``completions`` at once; ``content`` is a text as JSON has it, escapes and all."""
    delta = "{}" if content is None else f'{{"role":"assistant","content":"{content}"}}'
    choice = f'{{"index":0,"text":"{content or ""}","delta":{delta},"finish_reason":{finish}{more}}}'
    return f'data: {{"id":"c1","object":"chunk","created":1,"model":"theirs","choices":[{choice}]}}\n\n'.encode()


STOP = event(None, '"stop"')
DONE = b"data: [DONE]\n\n"


def surfaces_of(kind: str) -> tuple[str, ...]:
    return CHATS if kind in ("zhipu", "anthropic", "gemini") else SURFACES  # which have no completions


# When an answer is whole


def unfinished(name: str) -> list[bytes]:
    """Streams without ``[DONE]`` whose answer has not ended, though bytes in them look as if."""
    text = event("Hi")
    return {
        "empty": [event("Hi", '""'), event(" there", '""')],
        "empty, spaced": [event("Hi", ' "" '), event(" there", ' ""')],
        "null": [text, event(" there")],
        "blank": [event("Hi", '" "'), event(" there", '"null"'), event("!", '"None"')],
        "number": [text, event(None, "0")],
        "beside the choices": [text, text.replace(b'"id"', b'"meta":{"finish_reason":"stop"},"id"')],
        "deeper": [text, event("!", more=',"x":{"finish_reason":"stop"}')],
        "in another key": [text, event("!", more=',"native_finish_reason":"stop","last_finish_reason":"stop"')],
        "in a text": [text, event('\\"finish_reason\\":\\"stop\\"')],
        "in a comment": [text, b': "finish_reason":"stop"\n\n'],
        "cut": [text, STOP[: STOP.index(b'"stop"') + 6]],
    }[name]


UNFINISHED = (
    "empty",
    "empty, spaced",
    "null",
    "blank",
    "number",
    "beside the choices",
    "deeper",
    "in another key",
    "in a text",
    "in a comment",
    "cut",
)


@pytest.mark.parametrize("name", UNFINISHED)
def test_an_answer_that_has_not_ended_is_broken_on_every_surface(up: Upstream, running: Running, name: str) -> None:
    up.stream(unfinished(name), no_done=True)
    for surface in SURFACES:
        told = ask(running, surface, "openai")
        assert told.text.startswith("Hi"), surface
        assert not told.ended, (surface, told.raw)
        assert told.error in ("upstream_broken", "the upstream ended its stream before the answer was whole"), surface


@pytest.mark.parametrize("kind", OF_OPENAIS_WIRE)
def test_it_is_broken_from_every_vendor_of_the_wire(up: Upstream, running: Running, kind: str) -> None:
    up.stream(unfinished("empty"), no_done=True)
    for surface in surfaces_of(kind):
        assert not ask(running, surface, kind).ended, surface


@pytest.mark.parametrize(
    "end",
    [
        STOP.replace(b'"finish_reason":', b'"finish_reason" : '),
        STOP.replace(b'"finish_reason":', b'"finish_reason"\t:\t'),
        STOP.replace(b',"finish_reason"', b'\ndata: ,"finish_reason"\ndata: '),
        STOP.replace(b"data: ", b"data:"),
        STOP.removesuffix(b"\n\n"),
        b": ping\nid: 3\n" + STOP.removesuffix(b"\n"),
        event("\\ud83d", '"stop"'),
        STOP + STOP,
    ],
    ids=["space", "tabs", "lines", "no space", "no line end", "fields, one line end", "half a pair", "twice"],
)
def test_an_answer_that_has_ended_is_whole_without_done(up: Upstream, running: Running, end: bytes) -> None:
    up.stream([event("Hi"), end], no_done=True)
    for surface in SURFACES:
        told = ask(running, surface, "openai")
        assert told.ended, (surface, told.raw)
        assert told.text.removesuffix(LOST) == "Hi"
        assert told.finish in ("stop", "COMPLETE", "end_turn")


def test_an_answer_that_ends_twice_is_not_two(up: Upstream, running: Running) -> None:
    up.stream([event("Hi"), STOP, STOP], no_done=True)
    assert not ask(running, "/v1/chat/completions", "openai", n=2).ended
    up.reset()
    up.stream([event("Hi"), STOP, STOP.replace(b'"index":0', b'"index":1')], no_done=True)
    assert ask(running, "/v1/chat/completions", "openai", n=2).ended


# Texts that a strict reader refuses


def ollama_line(content: str, done: str = "false") -> bytes:
    message = f'"message":{{"role":"assistant","content":"{content}"}},"response":"{content}"'
    return f'{{"model":"theirs","created_at":"2026-01-01T00:00:00Z",{message},"done":{done}}}\n'.encode()


def cohere_event(content: str) -> bytes:
    delta = f'{{"message":{{"content":{{"text":"{content}"}}}}}}'
    return f'event: content-delta\ndata: {{"type":"content-delta","index":0,"delta":{delta}}}\n\n'.encode()


COHERE_END = b'data: {"type":"message-end","delta":{"finish_reason":"COMPLETE"}}\n\n'


def anthropic_events(*events: str) -> Any:
    """A stream of these events."""
    named = [f"event: {json.loads(data)['type']}\ndata: {data}\n\n".encode() for data in events]
    return stream(named, no_done=True)


ANTHROPIC_START = (
    '{"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"theirs","content":[],'
    '"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":3,"output_tokens":1}}}',
    '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
)
ANTHROPIC_END = (
    '{"type":"content_block_stop","index":0}',
    '{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":2}}',
    '{"type":"message_stop"}',
)


def anthropic_delta(content: str) -> str:
    return f'{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{content}"}}}}'


def gemini_event(content: str, finish: str = "") -> bytes:
    parts = f'[{{"text":"{content}"}}]' if content else "[]"
    return f'data: {{"candidates":[{{"content":{{"role":"model","parts":{parts}}}{finish},"index":0}}]}}\n\n'.encode()


GEMINI_END = gemini_event("", ',"finishReason":"STOP"')


def script(kind: str, texts: list[str]) -> Any:
    """A whole stream of these texts, which are escaped as in JSON, in the wire of ``kind``."""
    if kind == "ollama":
        return stream([*map(ollama_line, texts), ollama_line("", "true")], no_done=True, headers=NDJSON)
    if kind == "cohere":
        return stream([*map(cohere_event, texts), COHERE_END], no_done=True)
    if kind == "anthropic":
        return anthropic_events(*ANTHROPIC_START, *map(anthropic_delta, texts), *ANTHROPIC_END)
    if kind == "gemini":
        return stream([*map(gemini_event, texts), GEMINI_END], no_done=True)
    return stream([*map(event, texts), STOP])


HALVES = {
    "two chunks": (["a\\ud83d", "\\ude00b"], f"a{EMOJI}b"),
    "a chunk between": (["\\uD83D", "", "\\uDE00"], EMOJI),
    "one chunk": (["\\ud83d\\ude00"], EMOJI),
    "two, half and half": (["\\ud83d", "\\ude00\\ud83d", "\\ude00"], EMOJI * 2),
    "the first alone": (["a\\ud83d", "b"], f"a{LOST}b"),
    "the first at the end": (["a", "\\ud83d"], f"a{LOST}"),
    "the second alone": (["a", "\\ude00b"], f"a{LOST}b"),
    "no half at all": (["\\\\ud83d", "\\\\\\\\ude00"], "\\ud83d\\\\ude00"),
}


def _each_kind_and_half() -> Iterator[Any]:
    """All pairs; those are slow that add little to the others."""
    for kind in KINDS:
        for name in HALVES:
            fast = kind == "openai" or name == "two chunks" or (kind, name) == ("cohere", "the first at the end")
            yield pytest.param(kind, name, marks=() if fast else pytest.mark.slow)


@pytest.mark.parametrize(("kind", "name"), list(_each_kind_and_half()))
def test_halves_of_a_character_are_not_lost(up: Upstream, running: Running, kind: str, name: str) -> None:
    texts, expected = HALVES[name]
    up.use(script(kind, texts))
    for surface in CHATS:
        told = ask(running, surface, kind)
        assert (told.text, told.ended) == (expected, True), (surface, told.raw)


def test_halves_in_completions(up: Upstream, running: Running) -> None:
    up.use(script("openai", ["a\\ud83d", "\\ude00b"]))
    for surface in ("/v1/completions", "/api/generate raw"):
        assert ask(running, surface, "openai").text == f"a{EMOJI}b"


def test_the_sdk_gets_texts_that_can_be_written(up: Upstream, running: Running) -> None:
    up.use(script("openai", ["a\\ud83d", "\\ude00\\ud83d"]))
    with sdk(running) as client:
        chunks = client.chat.completions.create(
            model="openai", messages=[{"role": "user", "content": "x"}], stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.encode() == f"a{EMOJI}{LOST}".encode()


def test_ollamas_sdk_gets_them_too(up: Upstream, running: Running) -> None:
    client = ollama.Client(running.url, headers=running.headers(), trust_env=False)
    with contextlib.closing(client._client):
        for kind in KINDS:
            up.reset()
            up.use(script(kind, ["a\\ud83d", "\\ude00"]))
            parts = client.chat(kind, [{"role": "user", "content": "x"}], stream=True)
            assert "".join(part.message.content or "" for part in parts) == f"a{EMOJI}"


def test_halves_of_several_answers_and_arguments_find_each_other(up: Upstream, running: Running) -> None:
    def two(first: str, second: str) -> bytes:
        call = f'{{"index":0,"id":"a","type":"function","function":{{"name":"f","arguments":"{second}"}}}}'
        choices = [
            f'{{"index":0,"delta":{{"content":"{first}"}},"finish_reason":null}}',
            f'{{"index":1,"delta":{{"tool_calls":[{call}]}},"finish_reason":null}}',
        ]
        return b"".join(b'data: {"id":"1","choices":[%b]}\n\n' % choice.encode() for choice in choices)

    up.stream([two("\\ud83d", '{\\"x\\":\\"\\ud83d'), two("\\ude00", '\\ude00\\"}'), STOP])
    with sdk(running) as client:
        question = [{"role": "user", "content": "x"}]
        chunks = list(client.chat.completions.create(model="openai", messages=question, stream=True))
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices if choice.index == 0) == EMOJI
    calls = [call for choice in choices for call in choice.delta.tool_calls or ()]
    assert "".join(call.function.arguments for call in calls) == f'{{"x":"{EMOJI}"}}'


STRICT = {
    "no UTF-8": (event("aX").replace(b"aX", b"a\xf0\x9f"), f"a{LOST}"),
    "CESU-8": (event("aX").replace(b"aX", b"a\xed\xa0\xbd\xed\xb8\x80"), f"a{EMOJI}"),
    "NaN": (event("a", more=',"logprobs":{"content":[{"token":"a","logprob":NaN,"top_logprobs":[]}]}'), "a"),
    "-Infinity": (event("a", more=',"logprobs":{"content":[{"token":"a","logprob":-Infinity}]}'), "a"),
    "beyond a double": (event("a", more=',"logprobs":{"content":[{"token":"a","logprob":-1e999}]}'), "a"),
    "long number": (event("a", more=f',"seed":{10**30}'), "a"),
}


@pytest.mark.parametrize("name", STRICT)
def test_a_chunk_that_sdks_read_is_read(up: Upstream, running: Running, name: str) -> None:
    chunk, expected = STRICT[name]
    up.stream([chunk, STOP])
    for surface in CHATS:
        told = ask(running, surface, "openai")
        assert (told.text, told.ended) == (expected, True), (surface, told.raw)


@pytest.mark.parametrize(
    "garbage", [b'data: {"choices":[{"delta":{"content":"lost\n\n', b"data: lost\n\n", b"data: {]\n\n"]
)
def test_a_chunk_that_nobody_reads_is_an_error(up: Upstream, running: Running, garbage: bytes) -> None:
    up.stream([event("a"), garbage, event("b"), STOP])
    for surface in CHATS[1:]:
        told = ask(running, surface, "openai")
        assert not told.ended, (surface, told.raw)
        assert told.error


def test_errors_and_lists_of_models_are_read_as_answers_are(up: Upstream, running: Running) -> None:
    up.reply(status=400, body=b'\xef\xbb\xbf{"error":{"message":"no \\ud83d","limit":Infinity}}')
    told = ask(running, "/v1/chat/completions", "openai")
    assert json.loads(told.raw)["error"]["message"].endswith(f"answered 400: no {LOST}")


# Fields and comments of server-sent events


NOISE = (
    [b"id: 1\n" + event("a"), b": ping\n\n", b"id: 2\n" + event("b"), b":\n\n", STOP],
    [b": ping\n\n: ping\n\n", b"id: 1\n\n", event("a"), b"data:\n\n", b"data: \n\n", b"data\n\n", event("b"), STOP],
    [b"retry: 3000\n\n", event("a"), b"event: ping\n\n", b"event: message\nid: 4\n" + event("b"), STOP],
    [b"event: ping\ndata:\n\n", b"event: thread.x\n" + event("a"), b": x\n: y\nid: 1\n" + event("b"), STOP, b"id:\n\n"],
    [b"\n\n\n", event("a"), b"\n\n\n\n", event("b") + b"\n", STOP, b"\n"],
)


CRLF = pytest.param(b"\r\n", marks=pytest.mark.slow)


@pytest.mark.parametrize("number", range(len(NOISE)))
@pytest.mark.parametrize("ends", [b"\n", CRLF])
def test_fields_and_comments_between_events_hurt_no_sdk(
    up: Upstream, running: Running, number: int, ends: bytes
) -> None:
    up.stream([piece.replace(b"\n", ends) for piece in NOISE[number]])
    with sdk(running) as client:
        question = [{"role": "user", "content": "x"}]
        chunks = list(client.chat.completions.create(model="openai", messages=question, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "ab"
        pieces = list(client.completions.create(model="openai", prompt="x", stream=True))
        assert "".join(chunk.choices[0].text for chunk in pieces) == "ab"
    for surface in CHATS:
        told = ask(running, surface, "openai")
        assert (told.text, told.ended) == ("ab", True), surface


@pytest.mark.parametrize("kind", ["ollama", "cohere"])
def test_they_hurt_no_vendor_with_a_wire_of_its_own(up: Upstream, running: Running, kind: str) -> None:
    parts = {"ollama": [b"data: " + ollama_line("a"), ollama_line("b"), ollama_line("", "true")]}
    parts["cohere"] = [cohere_event("a"), cohere_event("b"), COHERE_END]
    noise = b": ping\n\nid: 1\n\ndata:\n\nretry: 5\n\nevent: ping\ndata: \n\n"
    for ends in (b"\n", b"\r\n", b"\r"):
        up.reset()
        up.stream([(noise + part).replace(b"\n", ends) for part in parts[kind]], no_done=True)
        for surface in CHATS:
            told = ask(running, surface, kind)
            assert (told.text, told.ended) == ("ab", True), (surface, told.raw)


# Whole answers


CHOICE = {"index": 0, "text": "a", "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
WHOLE = {"id": "c1", "object": "chat.completion", "created": 1, "model": "theirs", "choices": [CHOICE]}
ODD = {
    "half a pair": (json.dumps(WHOLE).replace('"a"', '"a\\ud83d"').encode(), f"a{LOST}"),
    "a byte order mark": (b"\xef\xbb\xbf" + json.dumps(WHOLE).encode(), "a"),
    "NaN": (json.dumps({**WHOLE, "x": [float("nan"), float("-inf")]}).encode(), "a"),
    "beyond a double": (json.dumps(WHOLE).replace('"created": 1', '"created": 1, "x": 1e400').encode(), "a"),
    "no UTF-8": (json.dumps(WHOLE).encode().replace(b'"a"', b'"a\xff"'), f"a{LOST}"),
    "UTF-16": (json.dumps(WHOLE).encode("utf-16"), "a"),
    "a tab in a text": (json.dumps(WHOLE).replace('"a"', '"a\tb"').encode(), "a\tb"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_whole_answer_that_sdks_read_is_read(up: Upstream, running: Running, name: str) -> None:
    body, expected = ODD[name]
    up.reply(body=body)
    for surface in SURFACES:
        told = ask(running, surface, "openai", stream=False)
        assert (told.text, told.ended) == (expected, True), (surface, told.raw)
    up.reset()
    up.reply(body=body.replace(b"theirs", b"openai"))  # the answer has the public name already
    assert ask(running, "/v1/chat/completions", "openai", stream=False).text == expected


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_read_from_every_vendor(up: Upstream, running: Running, kind: str) -> None:
    own = {
        "ollama": {"message": {"role": "assistant", "content": "a"}, "response": "a", "done": True},
        "cohere": {"message": {"content": [{"type": "text", "text": "a"}]}, "finish_reason": "COMPLETE"},
        "anthropic": {"type": "message", "content": [{"type": "text", "text": "a"}], "stop_reason": "end_turn"},
        "gemini": {"candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}]},
    }
    body = json.dumps({**own.get(kind, WHOLE), "x": float("nan")}).replace('"a"', '"a\\ud83d"')
    up.reply(body=b"\xef\xbb\xbf" + body.encode())
    assert ask(running, "/v1/chat/completions", kind, stream=False).text == f"a{LOST}"


def test_numbers_that_are_none_are_null_in_log_probabilities(up: Upstream, running: Running) -> None:
    logprobs = {"content": [{"token": "a", "logprob": float("-inf"), "bytes": None, "top_logprobs": []}]}
    up.reply(body=json.dumps({**WHOLE, "choices": [{**CHOICE, "logprobs": logprobs}]}).encode(), times=1)
    answer = running.chat("openai", logprobs=True).json()
    assert answer["choices"][0]["logprobs"]["content"][0]["logprob"] is None
    up.stream([event("a", more=f',"logprobs":{json.dumps(logprobs)}'), STOP])
    streamed = ask(running, "/v1/chat/completions", "openai", logprobs=True)
    assert streamed.ended
    assert "Infinity" not in streamed.raw
    assert '"logprob":null' in streamed.raw


def test_an_answer_that_is_no_json_is_an_error_still(up: Upstream, running: Running) -> None:
    for body in (b"", b"<html>", b"{", b'"text"', b"[" * 5000, b'{"choices": [NaN]}'):
        up.reset()
        up.reply(body=body)
        assert ask(running, "/v1/chat/completions", "openai", stream=False).error == "upstream_nonsense", body


# A whole answer where a stream was asked for


@pytest.mark.parametrize("indent", [2, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_answer_to_a_stream_becomes_one(up: Upstream, running: Running, kind: str, indent: int | None) -> None:
    own: dict[str, Any] = {
        "ollama": {"message": {"role": "assistant", "content": "a"}, "response": "a", "done": True, "eval_count": 2},
        "cohere": {
            "id": "c1",
            "message": {"content": [{"type": "text", "text": "a"}]},
            "finish_reason": "COMPLETE",
            "usage": {"tokens": {"input_tokens": 3, "output_tokens": 2}},
        },
        "anthropic": {
            "type": "message",
            "content": [{"type": "text", "text": "a"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 3, "output_tokens": 2},
        },
        "gemini": {
            "candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2},
        },
    }
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    body = json.dumps(own.get(kind, {**WHOLE, "usage": usage}), indent=indent)
    up.reply(body=f"\n {body}\n\n".encode())
    for surface in surfaces_of(kind) if kind not in ("ollama", "cohere") else CHATS:
        told = ask(running, surface, kind)
        assert (told.text, told.ended, told.error) == ("a", True, None), (surface, told.raw)
        assert told.finish in ("stop", "COMPLETE", "end_turn")
    with sdk(running) as client:
        question = [{"role": "user", "content": "x"}]
        chunks = list(
            client.chat.completions.create(
                model=kind, messages=question, stream=True, stream_options={"include_usage": True}
            )
        )
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk.model for chunk in chunks} == {kind}
    assert chunks[-1].usage.completion_tokens == 2
    assert running.chat(kind, stream=True).text.count('"usage"') == 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "before", [b": wait\n\n: wait\n\n", b"\xef\xbb\xbf\r\n", b":\r\r:\r\r"], ids=["comments", "mark", "returns"]
)
def test_what_comes_before_a_whole_answer_is_no_part_of_it(
    up: Upstream, running: Running, before: bytes, stream: bool
) -> None:
    up.reply(body=before + json.dumps(WHOLE, indent=1).replace('"a"', '"a\\ud83d"').encode())
    for surface in SURFACES:
        told = ask(running, surface, "openai", stream=stream)
        assert (told.text, told.ended, told.error) == (f"a{LOST}", True, None), (surface, told.raw)


def test_all_of_a_whole_answer_is_in_its_stream(up: Upstream, running: Running) -> None:
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "hm",
        "tool_calls": [call, {**call, "id": "t2"}],
    }
    first = {"index": 0, "message": message, "logprobs": {"content": []}, "finish_reason": "tool_calls"}
    up.reply({**WHOLE, "system_fingerprint": "fp", "choices": [first, {**CHOICE, "index": 1}]})
    with sdk(running) as client:
        question = [{"role": "user", "content": "x"}]
        chunks = list(client.chat.completions.create(model="openai", messages=question, stream=True, n=2))
    assert {chunk.system_fingerprint for chunk in chunks} == {"fp"}
    opening, other, end, other_end = (chunk.choices[0] for chunk in chunks)
    assert opening.delta.reasoning_content == "hm"
    assert [(c.index, c.id, c.function.name) for c in opening.delta.tool_calls] == [(0, "t1", "f"), (1, "t2", "f")]
    assert (other.index, other.delta.content) == (1, "a")
    assert (end.index, end.finish_reason) == (0, "tool_calls")
    assert (other_end.index, other_end.finish_reason) == (1, "stop")


def test_an_error_in_place_of_a_stream_is_that_error(up: Upstream, running: Running) -> None:
    for kind in KINDS:
        up.reset()
        up.reply(body=b'{\n  "error": {"message": "no such stream", "code": 404}\n}\n')
        told = ask(running, "/v1/chat/completions", kind)
        assert not told.ended
        assert "no such stream" in told.raw, kind


# A stream where a whole answer was asked for


@pytest.mark.parametrize("ends", [b"\n", CRLF])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_in_place_of_a_whole_answer_is_gathered(
    up: Upstream, running: Running, kind: str, ends: bytes
) -> None:
    written = script(kind, ["a\\ud83d", "\\ude00", "b"])
    body = b"".join(data.split(b"\r\n", 1)[1] for _, data in written.writes[1:])  # without sizes of HTTP's chunks
    events = b"".join(part for part in body.split(b"\r\n") if part and part != b"0")
    noise = b"" if kind == "ollama" else b": ping\n\nid: 1\n"
    up.reply(body=(noise + events).replace(b"\n", ends), headers={"content-type": "text/event-stream"})
    for surface in CHATS:
        told = ask(running, surface, kind, stream=False)
        assert (told.text, told.ended, told.error) == (f"a{EMOJI}b", True, None), (surface, told.raw)
        assert told.finish in ("stop", "COMPLETE", "end_turn")


def test_all_of_a_stream_is_in_the_whole_answer(up: Upstream, running: Running) -> None:
    def sent(delta: dict[str, Any], index: int = 0, finish: str | None = None, **beside: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "finish_reason": finish, **beside}
        return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "theirs", "choices": [choice]}

    def call(identity: str, name: str, arguments: str) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments}
        return {"tool_calls": [{"index": 0, "id": identity, "type": "function", "function": function}]}

    token = {"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": []}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    up.stream(
        [
            sent({"role": "assistant", "content": ""}),
            sent({"reasoning_content": "h"}),
            sent({"reasoning_content": "m"}),
            sent(call("t1", "f", '{"a":')),
            sent({"content": "x"}, 1, logprobs={"content": [token]}),
            sent(call("t1", "f", "1}")),
            sent(call("t2", "g", "{}")),
            sent({"content": "y"}, 1, logprobs={"content": [token]}),
            sent({"refusal": "I can"}, 2),
            sent({"refusal": "not"}, 2),
            sent({}, 2, "stop"),
            sent({}, 0, "tool_calls"),
            sent({}, 1, "length"),
            {**sent({}), "choices": [], "usage": usage, "system_fingerprint": "fp"},
        ]
    )
    with sdk(running) as client:
        question = [{"role": "user", "content": "x"}]
        answer = client.chat.completions.create(model="openai", messages=question, n=3)
    first, second, third = answer.choices
    assert (first.message.content, first.message.reasoning_content) == (None, "hm")
    assert first.finish_reason == "tool_calls"
    assert [(call.id, call.function.name, call.function.arguments) for call in first.message.tool_calls] == [
        ("t1", "f", '{"a":1}'),
        ("t2", "g", "{}"),
    ]
    assert (second.message.content, second.finish_reason) == ("xy", "length")
    assert [item.logprob for item in second.logprobs.content] == [-0.5, -0.5]
    assert third.message.refusal == "I cannot"
    assert (answer.usage.total_tokens, answer.model, answer.system_fingerprint) == (5, "openai", "fp")
    assert (answer.id, answer.object) == ("c1", "chat.completion")
    assert "stream" not in up.requests[0].body


def test_a_stream_of_completions_is_gathered(up: Upstream, running: Running) -> None:
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.1], "text_offset": [0], "top_logprobs": None}
    chunks = [
        {"model": "theirs", "choices": [{"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish}]}
        for text, finish in (("a", None), ("b", "stop"))
    ]
    up.stream(chunks)
    with sdk(running) as client:
        answer = client.completions.create(model="openai", prompt="x", logprobs=1)
    assert (answer.choices[0].text, answer.object) == ("ab", "text_completion")
    assert answer.choices[0].logprobs.token_logprobs == [-0.1, -0.1]
    assert ask(running, "/api/generate raw", "openai", stream=False).text == "ab"


def test_what_only_cohere_streams_is_gathered_too(up: Upstream, running: Running) -> None:
    plan = [{"type": "tool-plan-delta", "delta": {"message": {"tool_plan": text}}} for text in ("I ", "will")]
    function = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    calls = [{"type": "tool-call-start", "index": 0, "delta": {"message": {"tool_calls": function}}}]
    up.stream([*plan, *calls, COHERE_END], no_done=True)
    message = running.post("/v2/chat", {"model": "cohere", "messages": [{"role": "user", "content": "x"}]}).json()[
        "message"
    ]
    assert message["tool_plan"] == "I will"
    assert message["tool_calls"][0]["function"]["name"] == "f"


@pytest.mark.each_transport
def test_a_stream_that_breaks_is_no_whole_answer(up: Upstream, running: Running) -> None:
    parts = {
        "ollama": ollama_line("a") * 2,
        "cohere": cohere_event("a"),
        "anthropic": b"".join(b"data: %b\n\n" % data.encode() for data in (*ANTHROPIC_START, anthropic_delta("a"))),
        "gemini": gemini_event("a"),
    }
    for kind in KINDS:
        up.reset()
        up.reply(body=parts.get(kind, event("a")))
        for surface in CHATS:
            told = ask(running, surface, kind, stream=False)
            assert (told.ended, told.error) == (False, "upstream_broken"), (kind, surface, told.raw)
    up.reset()
    up.reply(body=event("a") + b'data: {"error":{"message":"in use","code":409}}\n\n')
    assert running.chat("openai").status_code == 409


@pytest.mark.parametrize("stream", [True, False])
def test_a_message_in_a_chunk_is_said_once(up: Upstream, running: Running, stream: bool) -> None:
    whole = event("ab", '"stop"').replace(b'"delta"', b'"message"').replace(b'"text":"ab",', b"")
    for events in ([whole], [event("a"), event("b"), whole]):
        up.reset()
        up.stream(events)
        for surface in CHATS:
            told = ask(running, surface, "openai", stream=stream)
            assert (told.text, told.ended) == ("ab", True), (surface, told.raw)


def test_a_call_in_a_last_event_without_line_end_is_told_once(up: Upstream, running: Running) -> None:
    call = b'{"tool_calls":[{"index":0,"id":"t1","type":"function","function":{"name":"f","arguments":"{}"}}]}'
    last = event("x", '"tool_calls"').replace(b'{"role":"assistant","content":"x"}', call).rstrip()
    up.stream([event("a"), last], no_done=True)
    with sdk(running) as client:
        question = [{"role": "user", "content": "x"}]
        chunks = list(client.chat.completions.create(model="openai", messages=question, stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [("t1", "f", "{}")]
