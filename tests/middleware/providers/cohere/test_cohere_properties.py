"""Cohere's translations whatever comes: one error tree, no torn event, nothing lost on the way there and back."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

import pytest
from cohere_wire import called, end, event, fault, text_events
from cohere_wire import start as begin
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import SageError
from sage.middleware.gateway import admission
from sage.middleware.providers.base import ModelCall, Operation, UpstreamModel
from sage.middleware.providers.cohere.provider import CohereProvider
from sage.middleware.providers.wire.sse import payloads
from sage.middleware.routers.cohere.events import ChatEvents
from sage.middleware.routers.cohere.inference import chat_call
from sage.middleware.settings.providers import RemoteProvider
from sage.middleware.settings.settings import RequestLimits

pytestmark = pytest.mark.slow  # made examples

PROVIDER = CohereProvider("co", RemoteProvider(kind="cohere", api_key="co-key-0123456789"))
ENDPOINT = PROVIDER.endpoints[0]
scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.text(max_size=5)
FIELDS = (
    *("type", "text", "function", "name", "arguments", "image_url", "url", "content", "thinking", "document", "mode"),
    *("json_schema", "schema", "allowed_tools", "tools", "index", "id", "logprobs", "token_ids", "citations", "error"),
    *("tool_calls", "tool_plan", "message", "usage", "tokens", "input_tokens", "finish_reason", "sources", "delta"),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=8,
)
kinds = st.sampled_from(["text", "image_url", "refusal", "document", "thinking", "function", "json_schema"])
parts = st.lists(
    st.builds(
        lambda part, kind: {**part, "type": kind}, st.dictionaries(st.sampled_from(FIELDS), anything, max_size=3), kinds
    ),
    max_size=3,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"])},
        optional={
            "content": st.none() | st.text(max_size=5) | parts,
            **dict.fromkeys(
                ("tool_calls", "tool_plan", "tool_call_id", "refusal", "reasoning_content", "name", "citations"),
                anything,
            ),
        },
    ),
    min_size=1,
    max_size=3,
)
bodies = st.fixed_dictionaries(
    {"messages": messages},
    optional=dict.fromkeys(
        (
            *("tools", "tool_choice", "response_format", "stop", "top_p", "top_k", "n", "logprobs", "top_logprobs"),
            *("strict_tools", "thinking", "reasoning_effort", "stop_sequences", "p", "k", "documents"),
        ),
        anything,
    ),
)


@given(bodies, st.booleans())
def test_any_chat_is_sent_or_refused(body: dict[str, Any], drop: bool) -> None:
    call = ModelCall(Operation.CHAT, body, "m")
    with contextlib.suppress(SageError):
        admission.check(call, RequestLimits())
        PROVIDER.encode(call, UpstreamModel("m", drop_unsupported=drop), ENDPOINT)


@given(bodies)
def test_any_chat_of_coheres_wire_is_sent_or_refused(body: dict[str, Any]) -> None:
    with contextlib.suppress(SageError):
        call = chat_call({"model": "m", **body})
        admission.check(call, RequestLimits())
        sent = json.loads(PROVIDER.encode(call, UpstreamModel("theirs"), ENDPOINT).body)
        assert sent["messages"] == body["messages"]


simple = st.fixed_dictionaries(
    {"messages": st.just([{"role": "user", "content": "x"}])},
    optional={
        "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=2),
        "top_p": st.floats(0, 1),
        "seed": st.integers(0, 9),
        "max_tokens": st.integers(1, 9),
        "tool_choice": st.sampled_from(["auto", "none", None]),
        "tools": st.lists(
            st.fixed_dictionaries(
                {
                    "type": st.just("function"),
                    "function": st.fixed_dictionaries(
                        {"name": st.just("f")}, optional={"strict": st.booleans(), "description": st.none() | st.text()}
                    ),
                }
            ),
            max_size=2,
        ),
        "reasoning_effort": st.sampled_from(["none", "low", "high"]),
        "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
    },
)


@given(simple)
def test_what_is_sent_is_coheres_wire(body: dict[str, Any]) -> None:
    sent = json.loads(PROVIDER.encode(ModelCall(Operation.CHAT, body, "m"), UpstreamModel("m"), ENDPOINT).body)
    assert fault("/v2/chat", sent) is None


@given(st.dictionaries(st.sampled_from(("id", "finish_reason", "message", "usage", "logprobs")), anything))
def test_any_answer_is_read_or_refused(answer: dict[str, Any]) -> None:
    for operation in (Operation.CHAT, Operation.EMBEDDINGS, Operation.RERANK, Operation.TOKENIZE, Operation.DETOKENIZE):
        with contextlib.suppress(SageError):
            body, _ = PROVIDER.decode(ModelCall(operation, {"input": "x"}, "m"), json.dumps(answer).encode())
            assert isinstance(json.loads(body), dict)


TYPES = ("message-start", "content-start", "content-delta", "tool-plan-delta", "tool-call-start", "tool-call-delta")
events = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from((*TYPES, "citation-start", "message-end", "new"))},
        optional={
            "index": anything,
            "logprobs": anything,
            "delta": anything | st.fixed_dictionaries({"message": anything}),
        },
    )
    | anything,
    max_size=4,
)


def sse(items: list[Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(item).encode() + b"\n\n" for item in items)


@given(events)
def test_any_stream_is_relayed_or_refused(items: list[Any]) -> None:
    relay = PROVIDER.relay(ModelCall(Operation.CHAT, {}, "m", stream=True))
    out = b""
    with contextlib.suppress(SageError):
        out = relay.feed(sse(items))
        out += relay.close()
    assert (b"[DONE]" in out) == relay.finished
    ChatEvents().translate(out)


@given(events)
def test_any_chunk_of_another_wire_becomes_events(items: list[Any]) -> None:
    chunks = [{"choices": [{"delta": item, "finish_reason": None, "logprobs": item}]} for item in items]
    payload = ChatEvents().translate(sse([*items, *chunks]))
    assert all(isinstance(item["type"], str) for item in payloads(payload))


WHOLE = [
    begin(),
    *text_events("h", "m", kind="thinking"),
    event("tool-plan-delta", {"tool_plan": "plan"}),
    *text_events("你好", " there", index=1),
    *called(0, "f", '{"a"', ":1}"),
    *called(1, "g", "{}"),
    end("TOOL_CALL"),
]


def read(stream: bytes) -> dict[str, Any]:
    """What a whole stream of OpenAI's chunks says."""
    report: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_plan": "", "calls": {}, "finish": None}
    for chunk in payloads(stream):
        for choice in chunk.get("choices", []) if isinstance(chunk, dict) else []:
            for name in ("content", "reasoning_content", "tool_plan"):
                report[name] += choice["delta"].get(name) or ""
            for call in choice["delta"].get("tool_calls", []):
                tool_call = report["calls"].setdefault(
                    call["index"], {"id": call.get("id"), "name": "", "arguments": ""}
                )
                tool_call["name"] += call["function"].get("name") or ""
                tool_call["arguments"] += call["function"]["arguments"]
            report["finish"] = choice["finish_reason"] or report["finish"]
        if isinstance(chunk, dict) and chunk.get("usage"):
            report["usage"] = chunk["usage"]
    return report


def relayed(data: bytes, cuts: list[int]) -> bytes:
    relay = PROVIDER.relay(ModelCall(Operation.CHAT, {}, "m", stream=True, wants_usage=True))
    edges = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    out = b"".join(relay.feed(data[a:b]) for a, b in itertools.pairwise(edges))
    out += relay.close()
    assert relay.finished
    assert relay.usage is not None
    return out


@given(st.lists(st.integers(0, 10_000), max_size=12))
def test_a_stream_says_the_same_however_its_bytes_are_torn(cuts: list[int]) -> None:
    report = read(relayed(sse(WHOLE), cuts))
    assert (report["content"], report["reasoning_content"], report["tool_plan"]) == ("你好 there", "hm", "plan")
    assert report["calls"] == {
        0: {"id": "f_0", "name": "f", "arguments": '{"a":1}'},
        1: {"id": "g_1", "name": "g", "arguments": "{}"},
    }
    assert report["finish"] == "tool_calls"
    assert report["usage"]["total_tokens"] == 7


pieces = st.lists(
    st.one_of(
        st.builds(lambda text: {"content": text}, st.text(max_size=4)),
        st.builds(lambda text: {"reasoning_content": text}, st.text(max_size=4)),
        st.builds(lambda text: {"tool_plan": text}, st.text(max_size=4)),
        st.builds(
            lambda index, text: {"tool_calls": [{"index": index, "function": {"name": "f", "arguments": text}}]},
            st.integers(0, 2),
            st.text(max_size=4),
        ),
    ),
    max_size=8,
)


@given(pieces, st.sampled_from(["stop", "length", "tool_calls"]))
def test_nothing_is_lost_to_coheres_wire_and_back(deltas: list[dict[str, Any]], finish: str) -> None:
    seen: set[int] = set()
    for delta in deltas:  # a call has its name and id in its first chunk alone
        for call in delta.get("tool_calls", ()):
            if call["index"] in seen:
                del call["function"]["name"]
            else:
                call["id"] = f"call{call['index']}"
            seen.add(call["index"])
    order = list(dict.fromkeys(call["index"] for delta in deltas for call in delta.get("tool_calls", ())))
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    chunks.append({"choices": [], "usage": usage})
    writer = ChatEvents()
    there = writer.translate(sse(chunks)) + writer.end()
    told, back = read(sse(chunks)), read(relayed(there, []))
    told["calls"] = {place: told["calls"][index] for place, index in enumerate(order)}  # numbered as they begin
    if order and finish == "stop":
        told["finish"] = "tool_calls"  # Cohere's clients look for calls under no other reason
    assert back == told
