"""The relay of server-sent events: whatever the bytes' borders, the client gets the same whole events."""

from __future__ import annotations

import itertools
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import SageError, UpstreamFailed
from sage.middleware.providers.wire.chunks import JsonStream
from sage.middleware.providers.wire.event_bytes import DONE
from sage.middleware.providers.wire.sse import EventRelay
from sage.surrogates import mend_text


class Reported(SageError):
    pass


def relay(keep_usage: bool = True, choices: int = 1, model: str = "public") -> EventRelay:
    return EventRelay(model, keep_usage=keep_usage, choices=choices, on_error=lambda error: Reported(json.dumps(error)))


def chunk(text: str | None = None, finish: str | None = None, **extra: Any) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    return {"id": "1", "model": "theirs", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **extra}


def encode(events: list[dict[str, Any] | bytes], end: bytes = b"\n", spaced: bool = False) -> bytes:
    separators = (", ", ": ") if spaced else (",", ":")
    parts = []
    for event in events:
        data = event if isinstance(event, bytes) else json.dumps(event, separators=separators).encode()
        parts.append(data + end * 2 if isinstance(event, bytes) else b"data: " + data + end * 2)
    return b"".join(parts)


def parse(data: bytes) -> list[Any]:
    assert data == b"" or data.endswith(b"\n\n")
    return [
        "[DONE]" if part == b"data: [DONE]" else json.loads(part.removeprefix(b"data:"))
        for part in data.split(b"\n\n")
        if part.startswith(b"data:")
    ]


def run(reader: EventRelay, data: bytes, borders: list[int]) -> bytes:
    edges = sorted({0, len(data), *(border % (len(data) + 1) for border in borders)})
    out = b""
    for start, stop in itertools.pairwise(edges):
        piece = reader.feed(data[start:stop])
        assert piece == b"" or piece.endswith(b"\n\n")
        out += piece
    return out + reader.close()


tricky = st.text(max_size=20) | st.sampled_from(
    [
        '"model":"theirs"',
        '\\"model\\":',
        "data: [DONE]",
        "\n\ndata: [DONE]\n\n",
        '"usage":{"prompt_tokens":9}',
        '"error":1',
    ]
)


@pytest.mark.slow
@given(
    texts=st.lists(tricky, max_size=6),
    borders=st.lists(st.integers(0, 10_000), max_size=12),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    spaced=st.booleans(),
    comment=st.booleans(),
)
def test_any_borders_and_line_ends_give_the_same_events(
    texts: list[str], borders: list[int], end: bytes, spaced: bool, comment: bool
) -> None:
    sent: list[Any] = [chunk(text) for text in texts] + [chunk(None, "stop")]
    head = [b": ping"] if comment else []
    data = encode([*head, *sent, b"data: [DONE]"], end, spaced)
    reader = relay()
    seen = parse(run(reader, data, borders))
    assert seen == [{**event, "model": "public"} for event in sent] + ["[DONE]"]
    assert reader.finished
    assert reader.usage is None


@given(borders=st.lists(st.integers(0, 10_000), max_size=6), spaced=st.booleans(), keep=st.booleans())
def test_the_usage_is_read_and_shown_only_to_who_asked(borders: list[int], spaced: bool, keep: bool) -> None:
    counted = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    last = {"id": "1", "model": "theirs", "choices": [], "usage": counted}
    sent = [chunk("a", usage=None), chunk(None, "stop", usage=None), last]
    reader = relay(keep_usage=keep)
    seen = parse(run(reader, encode([*sent, b"data: [DONE]"], spaced=spaced), borders))
    assert (reader.usage.prompt_tokens, reader.usage.completion_tokens) == (7, 3)
    assert len(seen) == (4 if keep else 3)
    assert any(isinstance(event, dict) and event.get("usage") for event in seen) == keep


@pytest.mark.parametrize("theirs", ["public", "theirs", 'a"b\\c', "模型"])
@pytest.mark.parametrize("public", ["public", 'odd "name"', "模型/大"])
def test_models_of_any_name_are_renamed(theirs: str, public: str) -> None:
    sent = [chunk("x", model=theirs), chunk('"model":"theirs"', "stop", model=theirs, nested={"model": "inner"})]
    seen = parse(run(relay(model=public), encode([*sent, b"data: [DONE]"]), [30, 60]))
    assert [event["model"] for event in seen[:2]] == [public, public]
    assert seen[1]["nested"] == {"model": "inner"}
    assert seen[1]["choices"][0]["delta"]["content"] == '"model":"theirs"'


def test_a_model_that_changes_its_name_in_mid_stream_keeps_ours() -> None:
    sent = [chunk("x", model="a"), chunk("y", model="b"), chunk(None, "stop", model="a")]
    seen = parse(run(relay(), encode([*sent, b"data: [DONE]"]), []))
    assert {event["model"] for event in seen[:3]} == {"public"}


@given(cut=st.integers(0, 300), borders=st.lists(st.integers(0, 400), max_size=4))
def test_a_stream_that_ends_early_is_never_whole(cut: int, borders: list[int]) -> None:
    sent = [chunk("first"), chunk("second"), chunk("third")]
    data = encode([*sent, chunk(None, "stop"), b"data: [DONE]"])
    complete = len(encode(sent))
    data = data[: min(cut, complete)]
    with pytest.raises(UpstreamFailed, match="before the answer was whole"):
        run(relay(), data, borders)


HALVES = st.sampled_from(
    [b"a", b"", b"\\ud83d", b"\\uDE00", b"\\ude00\\ud83d", b"\\ud83d\\ude00", b"\xe6\xb1", b"\\\\ud83d"]
)
NOISE = st.sampled_from([b": ping\n\n", b"id: 1\n\n", b"data:\n\n", b"event: x\nretry: 1\n\n", b"\n"])


@given(
    written=st.lists(NOISE | st.tuples(st.integers(0, 1), HALVES), max_size=8),
    borders=st.lists(st.integers(0, 10_000), max_size=8),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
)
def test_halves_and_noise_give_the_same_texts_at_any_borders(
    written: list[bytes | tuple[int, bytes]], borders: list[int], end: bytes
) -> None:
    data, texts = b"", ["", ""]
    for piece in written:
        if isinstance(piece, bytes):
            data += piece
            continue
        index, text = piece
        data += b'data: {"choices":[{"index":%d,"delta":{"content":"%b"}}]}\n\n' % (index, text)
        texts[index] += json.loads(f'"{text.decode(errors="replace")}"')
    out = run(relay(), (data + b"data: [DONE]\n\n").replace(b"\n", end), borders)
    lines = [line for line in out.split(b"\n") if line and not line.startswith(b":")]
    *chunks, last = (line.removeprefix(b"data: ") for line in lines)
    assert last == b"[DONE]"
    seen = ["", ""]
    for choice in (orjson.loads(chunk)["choices"][0] for chunk in chunks):
        seen[choice["index"]] += choice["delta"]["content"]
    assert seen == [mend_text(text) for text in texts]


def test_what_waits_for_its_other_half_comes_before_an_error_or_an_end() -> None:
    half = b'data: {"choices":[{"index":0,"delta":{"content":"a\\ud83d"},"finish_reason":null}]}\n\n'
    for error in (b'data: {"error":{"message":"boom"}}\n\n', b"event: error\ndata: boom\n\n", b"error: boom\n\n"):
        reader = relay()
        assert reader.feed(half) == b""
        assert parse(reader.feed(error))[0]["choices"][0]["delta"]["content"] == "a\ufffd"
        assert isinstance(reader.error, Reported)
        assert "boom" in reader.error.message
    reader = relay()
    assert reader.feed(half) == b""
    assert parse(reader.feed(b"data: lost\n\n"))[0]["choices"][0]["delta"]["content"] == "a\ufffd"
    assert reader.error is not None
    reader = relay()
    assert reader.feed(half + half.replace(b"null", b'"stop"')) == b""
    assert len(parse(reader.close())) == 3


def test_data_that_is_no_object_is_no_chunk() -> None:
    for data in (b"5", b'"Hello"', b"[1]", b"true", b"Hello"):
        reader = relay()
        assert reader.feed(b"data: %b\n\n" % data) == b""
        assert reader.error is not None, data
    reader = relay()
    assert reader.feed(b"data: null\n\n" + encode([chunk("a")])).startswith(b"data: {")
    assert reader.error is None


def test_without_done_every_choice_must_have_ended() -> None:
    def ending(index: int) -> dict[str, Any]:
        return {"model": "m", "choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]}

    assert run(relay(choices=2), encode([ending(0), ending(1)]), []).endswith(DONE)
    with pytest.raises(UpstreamFailed):
        run(relay(choices=2), encode([ending(0)]), [])


def test_the_last_line_ends_may_be_missing() -> None:
    data = encode([chunk("a"), chunk(None, "stop"), b"data: [DONE]"]).removesuffix(b"\n")
    seen = parse(run(relay(), data, []))
    assert seen[-1] == "[DONE]"
    data = encode([chunk("a"), chunk(None, "stop")]).removesuffix(b"\n\n")
    assert parse(run(relay(), data, []))[-1] == "[DONE]"


def test_an_error_event_is_kept_apart_and_what_came_before_it_given_out() -> None:
    reader = relay()
    out = reader.feed(encode([chunk("before"), {"error": {"message": "boom"}}, chunk("after")]))
    assert [event["choices"][0]["delta"]["content"] for event in parse(out)] == ["before"]
    assert isinstance(reader.error, Reported)
    assert "boom" in reader.error.message


def test_error_null_is_no_error() -> None:
    reader = relay()
    assert len(parse(reader.feed(encode([chunk("x", error=None)])))) == 1
    assert reader.error is None


def test_a_plain_json_error_instead_of_a_stream_is_that_error() -> None:
    reader = relay()
    assert reader.feed(b'{"error": {"message": "no stream for you"}}') == b""
    with pytest.raises(Reported, match="no stream for you"):
        reader.close()


def test_an_event_without_end_is_not_kept_for_ever() -> None:
    reader = relay()
    for _ in range(16):
        reader.feed(b"x" * 2**20)
    with pytest.raises(UpstreamFailed, match="more than"):
        reader.feed(b"x")


@pytest.mark.slow
@pytest.mark.parametrize("nothing", [b"\n", b":\n\n", b"id: 1\n\n", b"data:\n\n"])
def test_nothing_for_ever_is_an_error(nothing: bytes) -> None:
    piece, reader, lines = nothing * (2**15 // len(nothing)), relay(), JsonStream()
    reader.feed(encode([chunk("a")]))
    for _ in range(30):
        reader.feed(piece)
        assert list(lines.feed(piece)) == []
    assert reader.error is None
    reader.feed(encode([chunk("a")]) + piece)
    assert len(list(lines.feed(b"{}\n" + piece))) == 1
    for _ in range(35):
        reader.feed(piece)
    assert isinstance(reader.error, UpstreamFailed)
    with pytest.raises(UpstreamFailed, match="without an event"):
        list(itertools.chain.from_iterable(lines.feed(piece) for _ in range(35)))


def test_a_finish_counts_once_however_the_events_are_read() -> None:
    def ending(index: int, model: str) -> dict[str, Any]:
        return {"model": model, "choices": [{"index": index, "delta": {"content": "x"}, "finish_reason": "stop"}]}

    # The second name of a model makes the relay parse: the finish in those events must not count twice.
    data = encode([chunk("a", model="one"), ending(0, "two")])
    with pytest.raises(UpstreamFailed, match="before the answer was whole"):
        run(relay(choices=2), data, [])


def test_a_model_within_comes_through_where_it_stands_first() -> None:
    sent = [{"provider_metadata": {"model": "zz"}, "model": "m1", "choices": []} for _ in range(2)]
    seen = parse(run(relay(), encode([*sent, chunk(None, "stop", model="m1"), b"data: [DONE]"]), []))
    assert [event["provider_metadata"]["model"] for event in seen[:2]] == ["zz", "zz"]
    assert [event["model"] for event in seen[:3]] == ["public"] * 3


def test_names_and_ids_of_events_are_left_out() -> None:
    data = b'event: delta\nid: 7\ndata: {"model":"m","error":null,"choices":[]}\n\n'
    assert relay().feed(data) == b'data: {"model":"public","error":null,"choices":[]}\n\n'


def test_a_byte_order_mark_is_no_part_of_the_first_event() -> None:
    assert relay().feed(b"\xef\xbb\xbf" + encode([chunk("x")])).startswith(b"data: ")


def test_a_large_event_in_small_pieces_is_read_once() -> None:
    data = encode([chunk("x" * 2_000_000), chunk(None, "stop"), b"data: [DONE]"])
    reader = relay()
    out = b"".join(reader.feed(data[at : at + 1000]) for at in range(0, len(data), 1000)) + reader.close()
    assert len(parse(out)[0]["choices"][0]["delta"]["content"]) == 2_000_000
