"""Whatever dialect a server streams its calls of tools in, the same calls come out, and nothing breaks the reader."""

from __future__ import annotations

import itertools
import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.errors import UpstreamFailed
from sage.middleware.providers.wire.gathering import AnswerGathering
from sage.middleware.providers.wire.messages import DeltaReader, read_message
from sage.middleware.providers.wire.normal import NormalRelay, normalise_choices
from sage.middleware.providers.wire.sse import payloads

pytestmark = pytest.mark.slow
NAMES = st.sampled_from(["f", "get_weather", "ff"])
VALUES = st.recursive(
    st.one_of(st.integers(-9, 9), st.text('{}"a', max_size=4)), lambda inner: st.lists(inner), max_leaves=3
)
CALLS = st.lists(st.tuples(NAMES, st.dictionaries(st.text('{}"a', max_size=3), VALUES, max_size=2)), max_size=4)
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["index", "id", "function", "custom", "name", "arguments", "tool_calls", "content", "refusal"]
            )
            | st.text(max_size=2),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def fragments(calls: list[tuple[str, dict[str, Any]]], cuts: list[int], dialect: set[str]) -> list[dict[str, Any]]:
    """The entries of ``tool_calls`` that stream ``calls``, one after the other."""
    entries = []
    for number, (name, arguments) in enumerate(calls):
        text = json.dumps(arguments)
        edges = sorted({0, *(cut % (len(text) + 1) for cut in cuts), len(text)})
        parts: list[Any] = [text[a:b] for a, b in itertools.pairwise(edges)]
        if "objects" in dialect:
            parts = [arguments]
        for place, part in enumerate(parts):
            entry: dict[str, Any] = {"function": {"arguments": part}}
            if "no index" not in dialect:
                entry["index"] = 0 if "one index" in dialect else number
            if not place or "repeats" in dialect:
                entry["id"] = number if "numbers" in dialect else f"call-{number}"
                entry["function"]["name"] = name
            entries.append(entry)
    return entries


@settings(max_examples=200)
@given(
    CALLS,
    st.lists(st.integers(0, 40), max_size=4),
    st.sets(st.sampled_from(["objects", "one index", "no index", "repeats", "numbers"])),
    st.booleans(),
)
def test_calls_are_the_same_in_every_dialect(
    calls: list[tuple[str, dict[str, Any]]], cuts: list[int], dialect: set[str], together: bool
) -> None:
    entries = fragments(calls, cuts, dialect)
    deltas = [{"tool_calls": entries}] if together else [{"tool_calls": [entry]} for entry in entries]
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    gathering, reader = AnswerGathering(chat=True), DeltaReader()
    for chunk in chunks:
        gathering.add(chunk)
        reader.read(chunk["choices"][0]["delta"])
    relay = NormalRelay("m", keep_usage=True, on_error=lambda error: UpstreamFailed(str(error)))
    mended = relay.feed(b"".join([b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks]))
    again: dict[int, tuple[str, str]] = {}
    for chunk in payloads(mended):
        for call in chunk["choices"][0]["delta"]["tool_calls"]:
            name, text = again.get(call["index"], ("", ""))
            function = call["function"]
            again[call["index"]] = (name + function.get("name", ""), text + function["arguments"])
    message = gathering.answer()["choices"][0]["message"] if calls else {}
    assert [(call.name, json.loads(call.arguments)) for call in reader.calls] == calls
    assert [(call.name, json.loads(call.arguments)) for call in read_message(message).calls] == calls
    assert [(name, json.loads(text)) for _, (name, text) in sorted(again.items())] == calls
    assert sorted(again) == list(range(len(calls)))


@settings(max_examples=200)
@given(
    st.lists(
        st.fixed_dictionaries(
            {}, optional={"tool_calls": JSON, "function_call": JSON, "content": JSON, "reasoning": JSON}
        ),
        max_size=4,
    )
)
def test_no_delta_or_message_breaks_the_reader(deltas: list[dict[str, Any]]) -> None:
    relay = NormalRelay("m", keep_usage=True, on_error=lambda error: UpstreamFailed(str(error)))
    gathering, reader = AnswerGathering(chat=True), DeltaReader()
    for delta in deltas:
        chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        assert payloads(relay.feed(b"data: " + orjson.dumps(chunk) + b"\n\n"))
        read, whole = reader.read(delta), read_message(delta)
        gathering.add(chunk)
        assert isinstance(read.shown + read.reasoning + whole.shown + whole.reasoning, str)
        assert normalise_choices([{"message": delta}]) in (True, False)
    assert all(isinstance(call.id, str) and isinstance(call.arguments, str) for call in reader.calls)
    assert len({call.id for call in reader.calls}) == len(reader.calls)
    orjson.dumps(gathering.answer())
