"""What a call costs by the usage that Anthropic and Google report: as genai-prices reads and calculates it."""

from __future__ import annotations

import json
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest

from sage.middleware.providers.anthropic.provider import AnthropicProvider
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.providers.gemini.provider import GeminiProvider
from sage.middleware.settings.providers import AnthropicSettings, RemoteProvider
from sage.middleware.usage.prices import Price, published_price
from sage.middleware.usage.vendor_prices import describe_all

pytestmark = pytest.mark.slow  # a process of its own, and genai-prices

ANTHROPIC = AnthropicProvider("p", AnthropicSettings())
GEMINI = GeminiProvider("p", RemoteProvider(kind="gemini"))
SONNET, FLASH = "claude-sonnet-4-5", "gemini-2.5-flash"
HOUR = {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 900}
CLAUDES: tuple[dict[str, Any], ...] = (
    {"input_tokens": 10, "output_tokens": 7},
    {"input_tokens": 10, "output_tokens": 7, "cache_read_input_tokens": 5000, "cache_creation_input_tokens": 1000},
    {"input_tokens": 10, "output_tokens": 7, "cache_creation_input_tokens": 1000, "cache_creation": HOUR},
    {"input_tokens": 300_000, "output_tokens": 7, "cache_read_input_tokens": 5},
    {"input_tokens": 10, "output_tokens": 700, "output_tokens_details": {"thinking_tokens": 600}},
    {"input_tokens": 10, "output_tokens": 7, "server_tool_use": {"web_search_requests": 3}},
)
GEMINIS: tuple[dict[str, Any], ...] = (
    {"promptTokenCount": 10, "candidatesTokenCount": 7, "totalTokenCount": 17},
    {"promptTokenCount": 1000, "candidatesTokenCount": 7, "cachedContentTokenCount": 900, "thoughtsTokenCount": 50},
    {
        "promptTokenCount": 1000,
        "candidatesTokenCount": 7,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 400},
            {"modality": "AUDIO", "tokenCount": 600},
        ],
    },
)


@pytest.fixture(scope="module")
def prices() -> dict[str, Price]:
    described = describe_all([("anthropic", None, SONNET), ("google", None, FLASH)])
    return {model: published_price(each) for model, each in zip((SONNET, FLASH), described, strict=True)}


@pytest.mark.parametrize("usage", CLAUDES)
def test_claude(prices: dict[str, Price], usage: dict[str, Any]) -> None:
    message = {"type": "message", "id": "m", "model": SONNET, "content": [], "stop_reason": "end_turn", "usage": usage}
    assert _cost(ANTHROPIC, prices[SONNET], message) == _theirs("anthropic", message)


@pytest.mark.parametrize("usage", GEMINIS)
def test_gemini(prices: dict[str, Price], usage: dict[str, Any]) -> None:
    answer = {"candidates": [{"finishReason": "STOP"}], "modelVersion": FLASH, "usageMetadata": usage}
    assert _cost(GEMINI, prices[FLASH], answer) == _theirs("google", answer)


def _cost(provider: Any, price: Price, answer: dict[str, Any]) -> int:
    call = ModelCall(Operation.CHAT, {"messages": []}, "m")
    _, usage = provider.decode(call, json.dumps(answer).encode())
    cached, reasoning, units = usage.details()
    return price.of_call(usage.prompt_tokens, cached, usage.completion_tokens, reasoning, 0.0, units, 1_796_000_000.0)


def _theirs(provider: str, answer: dict[str, Any]) -> int:
    import genai_prices

    extracted = genai_prices.extract_usage(answer, provider_id=provider, api_flavor="default")
    return int((extracted.calc_price().total_price * 10**9).quantize(Decimal(1), ROUND_HALF_UP))
