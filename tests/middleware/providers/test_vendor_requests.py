"""Any chat becomes a request that the types of Anthropic's and of Google's SDK take, and breaks none of their rules."""

from __future__ import annotations

import copy
from typing import Any

import anthropic_wire
import gemini_wire
import orjson
import pytest
from chat_shapes import chats
from hypothesis import assume, given
from hypothesis import strategies as st

from sage.middleware.providers.anthropic.provider import AnthropicProvider
from sage.middleware.providers.base import ModelCall, Operation, UpstreamModel
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
