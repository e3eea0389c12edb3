"""Any chat becomes a request that the types of Anthropic's and of Google's SDK take, and breaks none of their rules."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import anthropic_wire
import gemini_wire
import orjson
import pytest
from chat_shapes import chats
from hypothesis import assume, given
from hypothesis import strategies as st

from sage.errors import InvalidRequest
from sage.middleware.providers.anthropic.provider import AnthropicProvider
from sage.middleware.providers.base import ModelCall, Native, Operation, UpstreamModel
from sage.middleware.providers.gemini.provider import GeminiProvider
from sage.middleware.settings.providers import AnthropicSettings, RemoteProvider

pytestmark = pytest.mark.slow  # both vendors' SDKs

ANTHROPIC = AnthropicProvider("p", AnthropicSettings(api_key="sk-ant-0123456789"))
GEMINI = GeminiProvider("p", RemoteProvider(kind="gemini", api_key="AIza-0123456789"))
CLAUDES = ("claude-3-5-haiku-20241022", "claude-sonnet-4-5", "claude-opus-4-8", "claude-sonnet-5")
GEMINIS = ("gemini-2.0-flash", "gemini-2.5-flash", "gemini-2.5-pro", "gemini-3.1-pro-preview")


def sent(provider: Any, chat: dict[str, Any], model: str, *, stream: bool) -> Any:
    before = copy.deepcopy(chat)
    call = ModelCall(Operation.CHAT, chat, "m", stream=stream)
    request = provider.encode(call, UpstreamModel(model, drop_unsupported=True), provider.endpoints[0])
    assert chat == before, "the caller's body was changed"
    return orjson.loads(request.body)


def is_blank(content: Any) -> bool:
    """Whether a message says nothing, which Anthropic refuses."""
    if isinstance(content, str):
        return not content.strip()
    return all("text" in part and not part["text"].strip() for part in content)


@given(chat=chats(), model=st.sampled_from(CLAUDES), stream=st.booleans())
def test_anthropics(chat: dict[str, Any], model: str, stream: bool) -> None:
    assume(not any(is_blank(message["content"]) for message in chat["messages"] if message["role"] != "assistant"))
    body = sent(ANTHROPIC, chat, model, stream=stream)
    assert anthropic_wire.fault("/v1/messages", body, "2023-06-01") is None, body


@given(chat=chats(), model=st.sampled_from(GEMINIS), stream=st.booleans())
def test_googles(chat: dict[str, Any], model: str, stream: bool) -> None:
    body = sent(GEMINI, chat, model, stream=stream)
    assert gemini_wire.fault(model, body) is None, body


ODD = st.sampled_from([None, 7, -1, 1.5, True, [], {}, [None], "", "x", "data:image/png;base64,aGk=", {"type": "text"}])


def odd(*names: str, **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these fields, of which those in ``names`` have any value."""
    return st.fixed_dictionaries({}, optional={**dict.fromkeys(names, ODD), **fields})


KINDS_OF_PARTS = ["text", "image_url", "video_url", "input_audio", "file", "image", "document", "thinking", "refusal"]
PARTS = odd(
    *("text", "video_url", "source", "cache_control", "title", "citations", "refusal"),
    type=st.sampled_from(KINDS_OF_PARTS) | ODD,
    image_url=odd("url") | ODD,
    input_audio=odd("data", "format") | ODD,
    file=odd("file_data", "file_id", "filename") | ODD,
)
CALLS = odd("id", "type", "cache_control", "extra_content", function=odd("name", "arguments") | ODD) | ODD
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"])},
    optional={
        **dict.fromkeys(("tool_call_id", "name", "is_error", "cache_control", "extra_content", "function_call"), ODD),
        "content": st.none() | st.just("hi") | st.lists(PARTS, max_size=2),
        "tool_calls": st.lists(CALLS, max_size=2) | ODD,
        "thinking_blocks": st.lists(odd("type", "thinking", "signature", "data"), max_size=2) | ODD,
    },
)
TOOLS = odd("type", "name", "input_schema", "google_search", function=odd("name", "parameters", "strict") | ODD) | ODD
BODIES = odd(
    *("temperature", "top_p", "top_k", "stop", "seed", "n", "logprobs", "user", "reasoning_effort", "thinking"),
    *("parallel_tool_calls", "output_config", "modalities", "thinking_config", "safety_settings", "metadata"),
    tools=st.lists(TOOLS, max_size=2) | ODD,
    tool_choice=odd("type", "function", allowed_tools=odd("mode", tools=st.lists(TOOLS, max_size=2) | ODD) | ODD) | ODD,
    response_format=odd("type", json_schema=odd("schema") | ODD) | ODD,
)


@given(
    messages=st.lists(MESSAGES, min_size=1, max_size=3),
    body=BODIES,
    drop=st.booleans(),
    model=st.sampled_from(CLAUDES + GEMINIS),
)
def test_any_body_is_sent_or_refused(messages: Any, body: dict[str, Any], drop: bool, model: str) -> None:
    target = UpstreamModel(model, drop_unsupported=drop)
    asked = ModelCall(Operation.CHAT, {**body, "messages": messages}, "m", stream=True)
    own = ModelCall(Operation.CHAT, {"messages": [{"role": "user", "content": "x"}]}, "m")
    own.native = Native("anthropic", {**body, "messages": messages}, {"anthropic-beta": "thinking-1,x"})
    for provider, call in ((ANTHROPIC, asked), (GEMINI, asked), (ANTHROPIC, own)):
        with contextlib.suppress(InvalidRequest):  # which is a 400
            provider.encode(call, target, provider.endpoints[0])
