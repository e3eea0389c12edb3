"""What is plain goes a shorter way through Messages, and nobody can tell: each plain shape is held against another one
that says the same and has to be looked at."""

from __future__ import annotations

import copy
import json
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import UpstreamFailed
from sage.middleware.providers.wire.event_bytes import DONE
from sage.middleware.providers.wire.sse import EventRelay
from sage.middleware.routers.anthropic import answer as answers
from sage.middleware.routers.anthropic.events import MessageEvents
from sage.middleware.routers.anthropic.request import chat_request

_TEXT = st.text("ab {}[]:,'你é\U0001f600\u2028\n\r\"\\", max_size=8) | st.sampled_from(
    ["@", "[DONE]", "data: {", "\n\n"]
)
_NULL = st.none()
_COUNTS = st.integers(0, 2**53) | st.sampled_from([-1, 2**60, 1.5, True, None, "3"])
_FINISH = st.sampled_from(["stop", "length", "tool_calls", "content_filter", "eos", "STOP", "end_turn", None, 7, ""])
_STOPS = st.sampled_from([(), ("a",), ("a", "b")])


def _blocks(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


@given(
    turns=st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), _TEXT), min_size=1, max_size=5),
    system=_TEXT | _NULL,
    options=st.fixed_dictionaries(
        {"max_tokens": st.integers(1, 9)},
        optional={
            "temperature": st.floats(0, 1) | _NULL,
            "top_p": st.floats(0, 1) | _NULL,
            "top_k": st.integers(0, 9) | _NULL,
            "stream": st.booleans() | _NULL,
            "cache_control": _NULL,
            "something": st.integers() | _NULL,
            "stop_sequences": st.just(["a"]) | _NULL,
        },
    ),
    marks=st.booleans(),
)
def test_a_question_of_texts_is_that_of_their_blocks(
    turns: list[tuple[str, str]], system: str | None, options: dict[str, Any], marks: bool
) -> None:
    head = {"model": "m", "system": system, **options}
    plain = {**head, "messages": [{"role": role, "content": text} for role, text in turns]}
    looked_at = {
        **head,
        "system": None if system is None else _blocks(system),
        "messages": [{"name": "x", "content": _blocks(text), "role": role} for role, text in turns],
    }
    given = copy.deepcopy(plain)
    asked = chat_request(plain, marks=marks)
    assert asked == chat_request(looked_at, marks=marks)
    assert plain == given
    said = [{"role": role, "content": text} for role, text in turns]
    assert asked.body["messages"] == ([] if system is None else [{"role": "system", "content": system}]) + said
    rest = {name: value for name, value in options.items() if value is not None}
    stops = rest.pop("stop_sequences", None)
    expected = rest if stops is None else {**rest, "stop": stops}
    assert {name: value for name, value in asked.body.items() if name != "messages"} == {"model": "m", **expected}


@given(
    text=_TEXT,
    finish=_FINISH,
    stop=st.sampled_from(["a", "c", None]),
    stops=_STOPS,
    usage=st.fixed_dictionaries({"prompt_tokens": _COUNTS, "completion_tokens": _COUNTS, "total_tokens": _COUNTS})
    | _NULL,
    name=st.sampled_from(["chatcmpl-1", "msg_2", "3"]),
)
def test_an_answer_of_text_is_one_that_might_have_said_more(
    text: str, finish: Any, stop: str | None, stops: tuple[str, ...], usage: dict[str, Any] | None, name: str
) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    plain: dict[str, Any] = {"id": name, "model": "m", "choices": [{**choice, "stop_reason": stop}], "usage": usage}
    looked_at = copy.deepcopy(plain)
    looked_at["choices"][0]["message"] |= {"refusal": "", "reasoning": None, "tool_calls": [], "thinking_blocks": []}
    if usage is not None:
        looked_at["usage"]["prompt_tokens_details"] = {}
    assert orjson.dumps(answers.message(plain, stops, (5, 6))) == orjson.dumps(
        answers.message(looked_at, stops, (5, 6))
    )


def _chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "chatcmpl-1", "model": "theirs", "choices": [choice]}).encode() + b"\n\n"


def _translated(deltas: list[dict[str, Any]], cuts: list[int], *, by_shape: bool) -> bytes:
    """The stream for ``deltas``, of which as many come at once as ``cuts`` say. Without ``by_shape``, all are read."""
    relay = EventRelay("public", keep_usage=True, on_error=lambda error: UpstreamFailed(str(error)))
    events = MessageEvents("public", (), 1, "id", relay if by_shape else None)
    more: dict[str, Any] = (
        {} if by_shape else {"annotations": []}
    )  # no chunk is alike that may say something beside its text
    chunks = [_chunk({**delta, **more}) for delta in deltas] + [_chunk({}, "stop")]
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    chunks += [
        b"data: " + orjson.dumps({"id": "chatcmpl-1", "model": "theirs", "choices": [], "usage": usage}) + b"\n\n"
    ]
    chunks += [DONE]
    out, start = b"", 0
    for cut in [*cuts, len(chunks)]:
        out += events.translate(relay.feed(b"".join(chunks[start : start + cut])))
        start += cut
    assert relay.finished
    return out + events.end()


_DELTAS = st.sampled_from(["content"] * 6 + ["reasoning_content", "refusal"])


@given(
    pieces=st.lists(st.tuples(_DELTAS, _TEXT), max_size=16),
    with_role=st.sampled_from(["first", "each", "none"]),
    cuts=st.lists(st.integers(1, 6), max_size=20),
)
def test_a_stream_whose_chunks_are_alike_is_one_whose_chunks_are_all_read(
    pieces: list[tuple[str, str]], with_role: str, cuts: list[int]
) -> None:
    deltas: list[dict[str, Any]] = [{field: text} for field, text in pieces]
    for delta in deltas if with_role == "each" else deltas[:1] if with_role == "first" else []:
        delta["role"] = "assistant"
    assert _translated(deltas, cuts, by_shape=True) == _translated(deltas, [1] * len(deltas), by_shape=False)


def test_chunks_that_are_alike_are_not_read() -> None:
    """So the test above has something to compare."""
    relay = EventRelay("public", keep_usage=True, on_error=lambda error: UpstreamFailed(str(error)))
    events = MessageEvents("public", (), 1, "id", relay)
    for _ in range(3):
        events.translate(relay.feed(_chunk({"content": "a"})))
    sent = relay.feed(_chunk({"content": "b"}) + _chunk({"content": "c"}))
    assert relay.shape is not None
    assert relay.shape.sent is sent
    relay.shape.sent_texts = [b"from the relay"]
    assert json.loads(events.translate(sent).partition(b"data: ")[2])["delta"]["text"] == "from the relay"
