"""What upstreams report of a call beyond two numbers of tokens, as far as it has a price of its own.

Sources: OpenAI's API reference (``usage`` of chat completions and of responses), Anthropic's (messages), Cohere's
(``billed_units``), DeepSeek's and Moonshot's (names of their own for cached tokens).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST = 10**12
_UNITS = (
    ("input_audio_tokens", ("prompt_tokens_details", "input_tokens_details"), "audio_tokens"),
    ("input_image_tokens", ("prompt_tokens_details", "input_tokens_details"), "image_tokens"),
    ("cache_write_tokens", ("prompt_tokens_details", "input_tokens_details"), "cache_write_tokens"),
    ("output_audio_tokens", ("completion_tokens_details", "output_tokens_details"), "audio_tokens"),
    ("output_image_tokens", ("completion_tokens_details", "output_tokens_details"), "image_tokens"),
)
"""By genai-prices' names: where OpenAI's wire says it."""


def token_details(usage: Mapping[str, Any]) -> tuple[int, int, dict[str, int] | None]:
    """Cached tokens of the prompt, tokens of reasoning, and other units that may have a price, in a ``usage`` object of
    any vendor, or in Cohere's ``meta``."""
    prompt = _object(usage, "prompt_tokens_details") or _object(usage, "input_tokens_details")
    completion = _object(usage, "completion_tokens_details") or _object(usage, "output_tokens_details")
    cached = (
        _count(prompt, "cached_tokens")
        or _count(usage, "prompt_cache_hit_tokens")  # DeepSeek
        or _count(usage, "cached_tokens")  # Moonshot, Cohere
        or _count(usage, "cache_read_input_tokens")  # Anthropic
    )
    units: dict[str, int] = {}
    for unit, places, name in _UNITS:
        for place in places:
            if count := _count(_object(usage, place), name):
                units[unit] = count
    if count := _count(usage, "cache_creation_input_tokens"):  # Anthropic
        units["cache_write_tokens"] = count
    units.update(_billed(usage))
    return cached, _count(completion, "reasoning_tokens"), units or None


def _billed(usage: Mapping[str, Any]) -> dict[str, int]:
    """What Cohere bills, where it says that: fewer tokens than it used, and a reranker's searches."""
    billed = _object(usage, "billed_units")
    names = {
        "input_tokens": "input_tokens",
        "output_tokens": "output_tokens",
        "search_units": "rerank_searches",
    }
    return {unit: _count(billed, name) for name, unit in names.items() if billed.get(name) is not None}


def _object(usage: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = usage.get(name)
    return value if isinstance(value, dict) else {}


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return int(min(value, _MOST)) if isinstance(value, int | float) and value > 0 else 0
