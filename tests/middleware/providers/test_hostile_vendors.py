"""Whatever comes from a server of Anthropic's or Google's wire: an answer that a client reads, or an error of ours."""

from __future__ import annotations

import itertools
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import SageError
from sage.middleware.providers.anthropic.provider import AnthropicProvider
from sage.middleware.providers.base import ModelCall, Native, Operation
from sage.middleware.providers.gemini.provider import GeminiProvider
from sage.middleware.settings.providers import AnthropicSettings, RemoteProvider

ANTHROPIC = AnthropicProvider("p", AnthropicSettings())
GEMINI = GeminiProvider("p", RemoteProvider(kind="gemini"))
TEXTS = st.sampled_from(["a", "", "\ud83d", "\ude00", '"type":"message_stop"', "\n\nevent: x", "STOP", "tool_use"])
VALUES = TEXTS | st.sampled_from([None, 7, -1, True, [], {}, [None], float("nan"), 1e308, {"a": "\ud83d"}, 2**80])


def objects(*names: str, **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these fields, of which those in ``names`` have any value."""
    return st.fixed_dictionaries({}, optional={**dict.fromkeys(names, VALUES), **fields})


USAGE = objects("input_tokens", "output_tokens", "cache_read_input_tokens", "output_tokens_details", "cache_creation")
BLOCK = (
    objects(
        "text",
        "thinking",
        "signature",
        "data",
        "id",
        "name",
        "input",
        "citations",
        type=st.sampled_from(
            ["text", "thinking", "redacted_thinking", "tool_use", "server_tool_use", "web_search_tool_result"]
        )
        | VALUES,
    )
    | VALUES
)
MESSAGE = objects(
    "id",
    "model",
    "stop_sequence",
    "stop_details",
    type=st.just("message") | VALUES,
    content=st.lists(BLOCK, max_size=3) | VALUES,
    stop_reason=st.just("end_turn") | VALUES,
    usage=USAGE | VALUES,
)
DELTA = objects(
    "text",
    "thinking",
    "signature",
    "partial_json",
    "citation",
    "stop_sequence",
    "stop_details",
    type=st.sampled_from(["text_delta", "thinking_delta", "signature_delta", "input_json_delta", "citations_delta"]),
    stop_reason=st.just("tool_use") | VALUES,
)
EVENT = objects(
    "error",
    index=st.just(0) | VALUES,
    message=MESSAGE | VALUES,
    content_block=BLOCK,
    delta=DELTA | VALUES,
    usage=USAGE | VALUES,
    type=st.sampled_from(
        [
            *("message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta"),
            *("message_stop", "ping", "error", "message"),
        ]
    )
    | VALUES,
)
PART = (
    objects(
        "text",
        "thought",
        "thoughtSignature",
        "inlineData",
        "executableCode",
        functionCall=objects("id", "name", "args") | VALUES,
    )
    | VALUES
)
CANDIDATE = objects(
    "finishMessage",
    "index",
    "groundingMetadata",
    content=objects(parts=st.lists(PART, max_size=3) | VALUES) | VALUES,
    finishReason=st.sampled_from(["STOP", "SAFETY", "MALFORMED_FUNCTION_CALL"]) | VALUES,
    logprobsResult=objects(
        chosenCandidates=st.lists(objects("token", "logProbability") | VALUES, max_size=2) | VALUES,
        topCandidates=st.lists(objects(candidates=st.lists(VALUES, max_size=1)), max_size=1) | VALUES,
    )
    | VALUES,
)
ANSWER = objects(
    "responseId",
    "error",
    "usageMetadata",
    candidates=st.lists(CANDIDATE | VALUES, max_size=2) | VALUES,
    promptFeedback=objects("blockReason", "blockReasonMessage") | VALUES,
    embeddings=st.lists(objects("values") | VALUES, max_size=2) | VALUES,
    totalTokens=VALUES,
)
FRAMES = st.sampled_from([b"data: %b\n\n", b"event: x\r\ndata: %b\r\n\r\n", b"%b", b"%b\n", b"data:%b\r\r"])
NOISE = st.sampled_from([b": ping\n\n", b"data: [DONE]\n\n", b"\xef\xbb\xbf", b"\xff", b"{", b"[", b"]", b",\r\n"])


def streams(values: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    piece = st.tuples(FRAMES, values.map(lambda value: json.dumps(value).encode())).map(lambda pair: pair[0] % pair[1])
    return st.lists(piece | NOISE, max_size=6).map(b"".join)


def call(operation: Operation = Operation.CHAT, *, native: bool = False, stream: bool = False) -> ModelCall:
    form = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "input": "x", "response_format": form}
    made = ModelCall(operation, body, "m", stream=stream, wants_usage=True)
    made.native = Native("anthropic", {}) if native else None
    return made


def checked_error(error: SageError) -> None:
    """An upstream's nonsense is a 502; what it reports as its own error has the status of that."""
    assert error.status in (400, 404, 409, 413, 429, 502, 503, 504), error
    assert error.message.encode("utf-8", "replace")


def relay_all(provider: Any, asked: ModelCall, data: bytes, borders: list[int]) -> None:
    relay, out = provider.relay(asked), b""
    try:
        edges = sorted({0, len(data), *(border % (len(data) + 1) for border in borders)})
        for start, stop in itertools.pairwise(edges):
            out += relay.feed(data[start:stop])
            if relay.error is not None or relay.finished:
                break
        if relay.error is not None:
            checked_error(relay.error)
        elif not relay.finished:
            out += relay.close()
            assert relay.finished
    except SageError as error:
        checked_error(error)
    for event in out.split(b"\n\n"):
        payload = event.partition(b"data: ")[2]
        if payload and payload != b"[DONE]":
            assert isinstance(orjson.loads(payload), dict)
    if relay.usage is not None:
        relay.usage.details()


@pytest.mark.slow
@given(data=streams(EVENT), borders=st.lists(st.integers(0, 999), max_size=4), native=st.booleans())
def test_any_stream_of_anthropics(data: bytes, borders: list[int], native: bool) -> None:
    relay_all(ANTHROPIC, call(native=native, stream=True), data, borders)


@pytest.mark.slow
@given(data=streams(ANSWER), borders=st.lists(st.integers(0, 999), max_size=4))
def test_any_stream_of_googles(data: bytes, borders: list[int]) -> None:
    relay_all(GEMINI, call(stream=True), data, borders)


def decode_any(provider: Any, asked: ModelCall, body: bytes) -> None:
    try:
        made, usage = provider.decode(asked, body)
    except SageError as error:
        checked_error(error)
        return
    assert isinstance(orjson.loads(made), dict)
    if usage is not None:
        usage.details()


@pytest.mark.slow
@given(value=MESSAGE | EVENT | VALUES, native=st.booleans(), operation=st.sampled_from(["chat", "tokenize"]))
def test_any_answer_of_anthropics(value: Any, native: bool, operation: str) -> None:
    kind = Operation.CHAT if operation == "chat" else Operation.TOKENIZE
    decode_any(ANTHROPIC, call(kind, native=native), json.dumps(value).encode())


@pytest.mark.slow
@given(value=ANSWER | VALUES, operation=st.sampled_from([Operation.CHAT, Operation.EMBEDDINGS, Operation.TOKENIZE]))
def test_any_answer_of_googles(value: Any, operation: Operation) -> None:
    decode_any(GEMINI, call(operation), json.dumps(value).encode())


@pytest.mark.slow
@given(status=st.integers(400, 599), body=objects("error") | ANSWER | VALUES)
def test_any_refusal(status: int, body: Any) -> None:
    for provider in (ANTHROPIC, GEMINI):
        error = provider.make_error(status, body, {})
        assert error.status < 500 or error.status in (502, 503, 504)
