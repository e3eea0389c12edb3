"""Events that differ only in their text go on as if each of them had been looked at."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import UpstreamFailed
from sage.middleware.providers.wire.event_bytes import DONE
from sage.middleware.providers.wire.normal import NormalRelay
from sage.middleware.providers.wire.repeated_events import EventShape, in_runs
from sage.middleware.providers.wire.sse import EventRelay

_FIELDS = st.sampled_from(["content", "content", "content", "reasoning_content", "refusal"])
_MORE = st.sampled_from([{}, {}, {}, {}, {"obfuscation": "x"}, {"usage": None}, {"created": 2}, {"model": "other"}])
_TEXTS = st.text("ab {}[]:,'你é\U0001f600\u2028", max_size=6) | st.sampled_from(
    ['"', '","finish_reason":"stop', "\\", "\n\n", "\r", '"model":"theirs"', "data: [DONE]", "\\ud83d", "}]}"]
)


def _relay() -> EventRelay:
    return EventRelay("public", keep_usage=False, on_error=lambda error: UpstreamFailed(str(error)))


def _event(chunk: dict[str, Any], ensure_ascii: bool = True) -> bytes:
    return b"data: " + json.dumps(chunk, separators=(",", ":"), ensure_ascii=ensure_ascii).encode() + b"\n\n"


def _chunk(text: str, field: str = "content", finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {field: text}, "finish_reason": finish}
    return {"id": "1", "model": "theirs", "choices": [choice], **more}


def _payloads(events: bytes) -> list[Any]:
    return [json.loads(event.removeprefix(b"data: ")) for event in events.removesuffix(DONE).split(b"\n\n") if event]


@given(pieces=st.lists(st.tuples(_TEXTS, _FIELDS, _MORE, st.booleans()), max_size=24), at_once=st.integers(1, 8))
def test_all_events_come_through_under_our_name(
    pieces: list[tuple[str, str, dict[str, Any], bool]], at_once: int
) -> None:
    chunks = [_chunk(text, field, **more) for text, field, more, _ in pieces]
    events = [_event(chunk, ascii_only) for chunk, (*_, ascii_only) in zip(chunks, pieces, strict=True)]
    relay, out = _relay(), b""
    for start in range(0, len(events), at_once):
        out += relay.feed(b"".join(events[start : start + at_once]))
    assert not relay.finished
    out += relay.feed(_event(_chunk("", finish="stop")) + DONE)
    assert relay.finished
    assert _payloads(out) == [{**chunk, "model": "public"} for chunk in (*chunks, _chunk("", finish="stop"))]


def test_a_finish_a_usage_and_an_error_are_seen_after_many_like_events() -> None:
    relay = _relay()
    for number in range(20):
        assert _payloads(relay.feed(_event(_chunk(str(number))))) == [{**_chunk(str(number)), "model": "public"}]
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    assert relay.feed(_event({"id": "1", "model": "theirs", "choices": [], "usage": usage})) == b""
    assert relay.usage is not None
    assert (relay.usage.prompt_tokens, relay.usage.completion_tokens) == (3, 4)
    assert _payloads(relay.feed(_event(_chunk("more")))) == [{**_chunk("more"), "model": "public"}]
    assert relay.feed(_event({"error": {"message": "broken"}})) == b""
    assert relay.error is not None


@pytest.mark.parametrize("at_once", [1, 3])
def test_bytes_that_are_no_text_are_mended_after_many_like_events(at_once: int) -> None:
    relay = _relay()
    relay.feed(_event(_chunk("one")) * 5)
    broken = _event(_chunk("AB")).replace(b"AB", b"\xe4\xbd"), _event(_chunk("AB")).replace(b"AB", b"\xa0")
    out = relay.feed(b"".join([*broken, _event(_chunk("last"))][:at_once]))
    assert "\ufffd" in _payloads(out)[0]["choices"][0]["delta"]["content"]


def test_half_a_character_is_mended_after_many_like_events() -> None:
    relay = _relay()
    relay.feed(_event(_chunk("one")) * 5)
    out = relay.feed(_event(_chunk("AB")).replace(b"AB", b"\\ud83d")) + relay.feed(_event(_chunk("last")))
    texts = [chunk["choices"][0]["delta"]["content"] for chunk in _payloads(out)]
    assert texts == ["\ufffd", "last"]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\n\n"])
def test_a_line_end_within_a_text_ends_the_event_after_many_like_ones(end: bytes) -> None:
    relay = _relay()
    relay.feed(_event(_chunk("one")) * 5)
    assert relay.feed(_event(_chunk("AB")).replace(b"AB", b"A" + end + b"B")) == b""
    assert isinstance(relay.error, UpstreamFailed)


def test_another_event_between_like_ones_is_looked_at() -> None:
    relay = _relay()
    relay.feed(_event(_chunk("one")) * 5)
    chunks = [_chunk("two"), _chunk("three", finish="stop"), _chunk("four", "refusal"), _chunk("five")]
    out = relay.feed(b"".join(map(_event, chunks)))
    assert _payloads(out) == [{**chunk, "model": "public"} for chunk in chunks]
    assert relay.close() == DONE


@pytest.mark.parametrize("beside", [[], [_chunk("after")]])
def test_what_stands_beside_a_text_is_looked_at(beside: list[dict[str, Any]]) -> None:
    relay = NormalRelay("public", keep_usage=False, on_error=lambda error: UpstreamFailed(str(error)))
    relay.feed(_event(_chunk("one")) * 5)
    thinking = _chunk("two")
    thinking["choices"][0]["delta"]["reasoning"] = "why"
    first = _payloads(relay.feed(b"".join(map(_event, [thinking, *beside]))))[0]
    assert first["choices"][0]["delta"] == {"content": "two", "reasoning": "why", "reasoning_content": "why"}


def test_comments_between_like_events_do_not_add_up() -> None:
    relay, comment = _relay(), b": " + b"x" * 2**17 + b"\n\n"
    for number in range(20):
        assert _payloads(relay.feed(_event(_chunk(str(number))))) == [{**_chunk(str(number)), "model": "public"}]
        relay.feed(comment)
    assert relay.error is None


def test_an_event_in_two_halves_after_many_like_events_comes_whole() -> None:
    relay = _relay()
    relay.feed(_event(_chunk("one")) * 5)
    event = _event(_chunk("two"))
    for cut in range(1, len(event)):
        first, second = relay.feed(event[:cut]), relay.feed(event[cut:])
        assert _payloads(first + second) == [{**_chunk("two"), "model": "public"}]


_KINDS = {
    "text": _event(_chunk("a")),
    "more": _event(_chunk("b", created=2)),
    "tool": _event({"id": "1", "model": "theirs", "choices": [{"delta": {"tool_calls": []}, "finish_reason": None}]}),
    "finish": _event(_chunk("", finish="stop")),
    "usage": _event({"id": "1", "model": "theirs", "choices": [], "usage": {"prompt_tokens": 3}}),
    "error": _event({"error": {"message": "broken"}}),
    "comment": b": ping\n\n",
    "half": _event(_chunk("\ud83d")),
    "done": DONE,
}


@given(
    kinds=st.lists(st.sampled_from(["text", "text", "text", *_KINDS]), min_size=1, max_size=12),
    chat=st.booleans(),
)
def test_events_that_come_at_once_are_those_that_come_one_by_one(kinds: list[str], chat: bool) -> None:
    def relay() -> EventRelay:
        made = NormalRelay if chat else EventRelay
        return made("public", keep_usage=False, on_error=lambda error: UpstreamFailed(str(error)))

    at_once, single = relay(), relay()
    out, expected = at_once.feed(b"".join(map(_KINDS.__getitem__, kinds))), b""
    for kind in kinds:
        if single.error is None and not single.finished:
            expected += single.feed(_KINDS[kind])

    def said(events: bytes) -> list[bytes]:
        """Without comments: of several in one read the last may go on alone."""
        return [event for event in events.split(b"\n\n") if not event.startswith(b":")]

    assert said(out) == said(expected)
    assert (at_once.finished, at_once.usage, str(at_once.error)) == (single.finished, single.usage, str(single.error))


class _Known:
    """Who knows the shape of ``_chunk``'s events."""

    shape = EventShape.under(b"content", _event(_chunk("seen")))


def _written(texts: list[bytes]) -> bytes:
    return b"".join(b"<%b>" % text for text in texts)


@given(st.lists(st.sampled_from(["ab", "é", "", "a\nb", '"'])), st.lists(st.integers(0, 9), max_size=4))
def test_events_that_are_alike_go_on_together_and_the_others_one_by_one(texts: list[str], odd: list[int]) -> None:
    events = [_event(_chunk(text), ensure_ascii=False) for text in texts]
    for place in odd:
        events.insert(place, _event({"id": "1", "choices": [], "usage": {"total_tokens": place}}))
    expected = b""
    for event in events:
        found = json.loads(event[6:])["choices"]
        text = found[0]["delta"]["content"] if found else '"'
        expected += b"(%b)" % event if set(text) & {"\n", '"'} else b"<%b>" % text.encode()
    assert in_runs(b"".join(events), _Known(), _written, lambda event: b"(%b)" % event) == expected


def test_a_run_is_written_at_once() -> None:
    odd = _event({"usage": 1})
    run = b"".join(_event(_chunk(text)) for text in "abc")
    alone: list[bytes] = []
    runs: list[list[bytes]] = []

    def write(texts: list[bytes]) -> bytes:
        runs.append(texts)
        return b""

    def translate(event: bytes) -> bytes:
        alone.append(event)
        return b""

    in_runs(odd + run + odd, _Known(), write, translate)
    assert (alone, runs) == ([odd, odd], [[b"a", b"b", b"c"]])


@given(pieces=st.lists(st.lists(_TEXTS, max_size=3)), theirs=st.sampled_from(["theirs", "public"]))
def test_the_texts_that_a_relay_has_read_are_those_of_its_events(pieces: list[list[str]], theirs: str) -> None:
    relay = _relay()
    seen = b"".join(relay.feed(_event({**_chunk("seen"), "model": theirs})) for _ in range(3))
    shape = EventShape.under(b"content", seen[: seen.index(b"\n\n") + 2])
    assert shape is not None
    for texts in pieces:
        events = relay.feed(b"".join(_event({**_chunk(text), "model": theirs}) for text in texts))
        assert shape.texts_sent(relay, events) == shape.texts(events)
        other = b"".join(_event(_chunk(text + "more")) for text in texts)  # not what it has sent last
        assert shape.texts_sent(relay, other) == shape.texts(other)


def test_events_of_another_shape_than_the_relay_has_sent_have_no_texts() -> None:
    relay = _relay()
    for _ in range(3):
        events = relay.feed(_event(_chunk("a", "reasoning_content")) * 2)
    shape = EventShape.under(b"content", _event({**_chunk("seen"), "model": "public"}))
    assert shape is not None
    assert relay.shape is not None
    assert relay.shape.sent is events
    assert shape.texts_sent(relay, events) is None
