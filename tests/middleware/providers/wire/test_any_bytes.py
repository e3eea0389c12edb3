"""Any bytes of any vendor, torn anywhere: OpenAI's SDK reads what comes out of them, or there is an error of ours."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from sage.errors import SageError
from sage.middleware.providers.anthropic.provider import AnthropicProvider
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.providers.cohere.provider import CohereProvider
from sage.middleware.providers.gemini.provider import GeminiProvider
from sage.middleware.providers.local.provider import LocalEngineProvider
from sage.middleware.providers.ollama.provider import OllamaProvider
from sage.middleware.providers.openai import OpenAIProvider
from sage.middleware.providers.vllm.provider import VllmProvider
from sage.middleware.providers.zhipu import ZhipuProvider
from sage.middleware.settings.providers import (
    AnthropicSettings,
    LocalProvider,
    OllamaSettings,
    OpenAISettings,
    RemoteProvider,
    VllmSettings,
)

URL = "http://127.0.0.1:9/v1"
PROVIDERS = (
    OpenAIProvider("p", OpenAISettings(base_url=URL)),
    VllmProvider("p", VllmSettings(base_url=URL)),
    ZhipuProvider("p", RemoteProvider(kind="zhipu", base_url=URL)),
    LocalEngineProvider("p", LocalProvider(), Path()),
    OllamaProvider("p", OllamaSettings()),
    CohereProvider("p", RemoteProvider(kind="cohere", base_url=URL)),
    AnthropicProvider("p", AnthropicSettings(base_url=URL)),
    GeminiProvider("p", RemoteProvider(kind="gemini", base_url=URL)),
)
TEXTS = st.sampled_from(["a", "", "\ud83d", "\ude00", "a\ud83d", '"finish_reason":"stop"', "\n\ndata: [DONE]"])
VALUES = TEXTS | st.sampled_from(
    [None, 7, True, [], {}, [None], float("nan"), 1e308, "stop", "COMPLETE", {"a": "\ud83d"}]
)
FUNCTIONS = st.fixed_dictionaries({"name": st.just("f") | VALUES, "arguments": st.just("{}") | VALUES})
CALLS = st.fixed_dictionaries({}, optional={"index": st.just(0) | VALUES, "id": VALUES, "function": FUNCTIONS | VALUES})
MESSAGES = st.fixed_dictionaries(
    {"content": TEXTS | VALUES},
    optional={"tool_calls": st.lists(CALLS | VALUES, max_size=2) | CALLS, "reasoning": VALUES, "thinking": VALUES},
)
CHOICES = st.fixed_dictionaries(
    {"index": st.just(0), "finish_reason": st.just(None) | st.just("stop") | VALUES},
    optional={"delta": MESSAGES | VALUES, "message": MESSAGES | VALUES, "text": VALUES, "logprobs": VALUES},
)
CHUNKS = st.fixed_dictionaries({}, optional={"choices": st.lists(CHOICES, max_size=2) | VALUES, "usage": VALUES})
LINES = st.fixed_dictionaries({"message": MESSAGES, "response": VALUES, "done": st.booleans()})
EVENTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["content-delta", "tool-call-start", "citation-start", "message-end"]) | VALUES},
    optional={"delta": st.fixed_dictionaries({"message": MESSAGES | VALUES}) | VALUES, "message": MESSAGES},
)
OBJECTS = CHUNKS | LINES | EVENTS | st.just({"error": {"message": "boom"}}) | VALUES
JSON = OBJECTS.map(lambda value: json.dumps(value).encode())
FRAMES = st.sampled_from([b"data: %b\n\n", b"data:%b\r\n\r\n", b"%b\n", b"event: x\nid: 1\ndata: %b\n\n", b"%b"])
NOISE = st.sampled_from(
    [b": ping\n\n", b"data: [DONE]\n\n", b"data:\n\n", b"\xef\xbb\xbf", b"\xff", b"\\ud83d", b"{", b"\n"]
)
PIECES = st.lists(st.tuples(FRAMES, JSON).map(lambda pair: pair[0] % pair[1]) | NOISE, max_size=5)


def read_by_the_sdk(events: bytes) -> None:
    for event in SSEDecoder().iter_bytes(iter([events])):
        if event.data != "[DONE]":
            assert isinstance(json.loads(event.data), dict)
            event.data.encode()


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.kind)
@given(pieces=PIECES, borders=st.lists(st.integers(0, 999), max_size=3), chat=st.booleans(), stream=st.booleans())
def test_what_comes_out_is_read_or_is_an_error(
    provider: Any, pieces: list[bytes], borders: list[int], chat: bool, stream: bool
) -> None:
    data = b"".join(pieces)
    operation = Operation.CHAT if chat else Operation.COMPLETIONS
    body = {"messages": [{"role": "user", "content": "x"}], "prompt": "x"}
    call = ModelCall(operation, body, "m", stream=stream, wants_usage=True)
    try:
        if not stream:
            assert isinstance(orjson.loads(provider.decode(call, data)[0])["choices"], list)
            return
        relay, out = provider.relay(call), b""
        for start, stop in itertools.pairwise(
            sorted({0, len(data), *(border % (len(data) + 1) for border in borders)})
        ):
            out += relay.feed(data[start:stop])
            if relay.error is not None or relay.finished:
                break
        read_by_the_sdk(out)
        if relay.error is None and not relay.finished:
            read_by_the_sdk(relay.close())
            assert relay.finished
    except SageError:
        pass
